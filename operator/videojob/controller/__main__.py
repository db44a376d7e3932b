"""`python -m videojob.controller`: runs the operator."""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import get_args

from kubernetes.aio.config.config_exception import ConfigException

from videojob import logs
from videojob.api.podtemplate import UserIDs
from videojob.arguments import cut_off_seconds
from videojob.controller.garbage import freeze_survivors
from videojob.controller.operator import Operator, OperatorError
from videojob.controller.settings import Settings
from videojob.kube.connection import configuration
from videojob.logs import Format
from videojob.workload.deployment import PodDefaults


async def run(settings: Settings) -> None:
    """Run an operator with the credentials of $KUBECONFIG or of its pod. Raises OperatorError."""
    kubeconfig = os.environ.get("KUBECONFIG")
    try:
        credentials = await configuration(Path(kubeconfig) if kubeconfig else None)
    except (ConfigException, OSError, ValueError) as error:
        where = f"the kubeconfig {kubeconfig}" if kubeconfig else "the pod's service account (KUBECONFIG is not set)"
        raise OperatorError(f"There are no usable credentials in {where}: {error}") from error
    await Operator(credentials, settings).run()


def start(settings: Settings) -> int:
    """Run an operator with these constants; the exit status."""
    logs.configure(settings.log_format, "operator")
    freeze_survivors()
    try:
        asyncio.run(run(settings))
    except OperatorError as error:
        print(f"videojob-operator: {error}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    """Read the options and run."""
    defaults, site = Settings(), PodDefaults()
    parser = argparse.ArgumentParser(prog="python -m videojob.controller", description="Run the videojob operator.")
    parser.add_argument("--namespace", default=defaults.namespace, help="where Leases and Secrets are [%(default)s]")
    parser.add_argument("--bind-address", default=defaults.bind_address, help="address of both ports [%(default)s]")
    parser.add_argument("--health-port", type=int, help="serve /livez and /readyz there")
    parser.add_argument("--metrics-port", type=int, help="serve /metrics there")
    parser.add_argument("--watch-namespace", help="serve jobs of this namespace only, by pools that name it")
    parser.add_argument("--triton-image", default=site.triton_image, help="Triton of pools whose template names none")
    parser.add_argument("--runner-image", default=site.runner_image, help="runner of pools whose template names none")
    parser.add_argument(
        "--runner-service-account", default=site.runner_account, help="of the pods of pools [%(default)s]"
    )
    parser.add_argument(
        "--runner-cut-off-seconds",
        type=cut_off_seconds,
        default=site.cut_off_seconds,
        help="the pods of pools go on without the API server for so long [%(default)s]",
    )
    parser.add_argument(
        "--image-pull-secret",
        action="append",
        default=[],
        help="Secret with a registry's credentials, for the pods of all pools; may be given again",
    )
    parser.add_argument(
        "--pod-user-ids",
        type=UserIDs,
        choices=list(UserIDs),
        default=site.user_ids,
        help="of pools whose template does not decide [%(default)s]",
    )
    parser.add_argument(
        "--log-format", choices=get_args(Format), default=defaults.log_format, help="of all logs [%(default)s]"
    )
    given = parser.parse_args()
    return start(
        Settings(
            namespace=given.namespace,
            watch_namespace=given.watch_namespace,
            bind_address=given.bind_address,
            health_port=given.health_port,
            metrics_port=given.metrics_port,
            log_format=given.log_format,
            pod_defaults=PodDefaults(
                namespace=given.namespace,
                triton_image=given.triton_image,
                runner_image=given.runner_image,
                runner_account=given.runner_service_account,
                cut_off_seconds=given.runner_cut_off_seconds,
                image_pull_secrets=tuple(given.image_pull_secret),
                log_format=given.log_format,
                user_ids=given.pod_user_ids,
            ),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
