"""`python -m videojob.controller`: runs the operator."""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from kubernetes.aio.config.config_exception import ConfigException

from videojob.controller.operator import Operator, OperatorError
from videojob.controller.settings import Settings
from videojob.kube.client import configuration


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
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", level=logging.INFO)
    try:
        asyncio.run(run(settings))
    except OperatorError as error:
        print(f"videojob-operator: {error}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    """Read the options and run."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m videojob.controller", description="Run the videojob operator.")
    parser.add_argument("--namespace", default=defaults.namespace, help="where Leases and Secrets are [%(default)s]")
    parser.add_argument("--bind-address", default=defaults.bind_address, help="address of both ports [%(default)s]")
    parser.add_argument("--health-port", type=int, help="serve /livez and /readyz there")
    parser.add_argument("--metrics-port", type=int, help="serve /metrics there")
    return start(Settings(**vars(parser.parse_args())))


if __name__ == "__main__":
    sys.exit(main())
