"""`python -m videojob.controller.uninstall`: leave a cluster so that nothing of ours hangs, and everything can go on.

Jobs, queues, models and pools stay. The operator is stopped first, to its last pod, so that nobody undoes what is done
here; then every pool's pods are drained and removed, and our finalizer goes from all jobs: deleting one, or its
namespace, waits for nobody. An operator that is installed again puts the finalizers back and resumes the jobs.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import get_args

from kubernetes.aio.config.config_exception import ConfigException
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from videojob import logs
from videojob.api import FINALIZER
from videojob.api.replica import COMPONENT_LABEL, REPLICA_COMPONENT
from videojob.controller.settings import Settings
from videojob.kube.client import DEPLOYMENTS, PODS, VIDEO_JOBS, Json, KubeClient, KubeError
from videojob.kube.connection import configuration

logger = logging.getLogger(__name__)

REPLICAS = f"{COMPONENT_LABEL}={REPLICA_COMPONENT}"
PAGE = 500
WRITES = 16
POLL_SECONDS = 1.0


class UninstallError(Exception):
    """The cluster was not left as it should be; the text says what is left, and what to do."""


class Uninstall:
    """Takes the operator's work back, step by step. Each step may be repeated."""

    def __init__(
        self, client: KubeClient, namespace: str, watch_namespace: str | None, patience_seconds: float
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._watch_namespace = watch_namespace
        self._patience_seconds = patience_seconds
        self._deadline = monotonic() + patience_seconds

    async def run(self, operator: str) -> None:
        """Stop the Deployment `operator`, drain the pools, let the jobs go. Raises UninstallError or KubeError."""
        await self._stop_operator(operator)
        await self._remove_pools()
        count = await self._release_jobs()
        logger.info("The operator and its pools are stopped; %d jobs are kept, and nothing holds them.", count)

    async def _stop_operator(self, name: str) -> None:
        try:
            found = await self._client.merge_patch(DEPLOYMENTS, name, {"spec": {"replicas": 0}}, self._namespace)
        except KubeError as error:
            if not error.not_found:
                raise
            return
        labels = found["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{label}={value}" for label, value in labels.items())
        # Not by the Deployment's status, which leaves out pods that are on their way out, and still lead.
        await self._until(lambda: self._gone(selector), f"Deployment {name} still has pods")

    async def _remove_pools(self) -> None:
        found = await self._client.list(DEPLOYMENTS, self._namespace, labelSelector=REPLICAS)
        names = [item["metadata"]["name"] for item in found.get("items", [])]
        for name in names:
            await self._client.merge_patch(DEPLOYMENTS, name, {"spec": {"replicas": 0}}, self._namespace)
        await self._until(lambda: self._gone(REPLICAS), "pods of pools are still there")
        for name in names:
            await self._client.delete(DEPLOYMENTS, name, self._namespace)

    async def _gone(self, selector: str) -> bool:
        return not (await self._client.list(PODS, self._namespace, labelSelector=selector)).get("items", [])

    async def _release_jobs(self) -> int:
        """Take our finalizer off every job; the number of jobs."""
        token, count = "", 0
        while True:
            selectors = {"limit": str(PAGE)} | ({"continue": token} if token else {})
            try:
                listing = await self._client.list(VIDEO_JOBS, self._watch_namespace, **selectors)
            except KubeError as error:
                if not error.not_found:
                    raise
                return count  # The kinds were never installed.
            held = [item for item in listing.get("items", []) if FINALIZER in item["metadata"].get("finalizers", [])]
            for start in range(0, len(held), WRITES):
                await asyncio.gather(*(self._release(item) for item in held[start : start + WRITES]))
            count += len(listing.get("items", []))
            token = listing["metadata"].get("continue", "")
            if not token:
                return count

    async def _release(self, body: Json) -> None:
        metadata = body["metadata"]
        name, namespace = metadata["name"], metadata["namespace"]
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(
                    lambda error: isinstance(error, KubeError) and (error.transient or error.conflict)
                ),
                wait=wait_random_exponential(multiplier=0.2, max=5),
                stop=stop_after_attempt(5),
                reraise=True,
            ):
                with attempt:
                    # Somebody else's finalizer may come or go meanwhile, and ours is known by its place among them.
                    if attempt.retry_state.attempt_number > 1:
                        metadata = (await self._client.get(VIDEO_JOBS, name, namespace))["metadata"]
                    if FINALIZER not in metadata.get("finalizers", []):
                        return
                    path = f"/metadata/finalizers/{metadata['finalizers'].index(FINALIZER)}"
                    operations = [{"op": "test", "path": path, "value": FINALIZER}, {"op": "remove", "path": path}]
                    await self._client.json_patch(VIDEO_JOBS, name, operations, namespace)
        except KubeError as error:
            if not error.not_found:
                raise

    async def _until(self, holds: Callable[[], Awaitable[bool]], otherwise: str) -> None:
        while not await holds():
            if monotonic() > self._deadline:
                raise UninstallError(
                    f"{otherwise} after {self._patience_seconds:g} s: look at them with "
                    f"kubectl get pods --namespace {self._namespace}, and uninstall again."
                )
            await asyncio.sleep(POLL_SECONDS)


async def _run(given: argparse.Namespace) -> None:
    kubeconfig = os.environ.get("KUBECONFIG")
    client = KubeClient(await configuration(Path(kubeconfig) if kubeconfig else None))
    try:
        await Uninstall(client, given.namespace, given.watch_namespace, given.patience_seconds).run(given.deployment)
    finally:
        await client.close()


def main() -> int:
    """Read the options and run; the exit status."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m videojob.controller.uninstall", description=__doc__)
    parser.add_argument("--namespace", default=defaults.namespace, help="the operator's [%(default)s]")
    parser.add_argument("--watch-namespace", help="the only namespace that the operator serves, if so")
    parser.add_argument("--deployment", default="videojob-operator", help="the operator's [%(default)s]")
    parser.add_argument("--patience-seconds", type=float, default=600.0, help="for all waits together [%(default)s]")
    parser.add_argument("--log-format", choices=get_args(logs.Format), default="text")
    given = parser.parse_args()
    logs.configure(given.log_format, "uninstall")
    try:
        asyncio.run(_run(given))
    except (UninstallError, KubeError, ConfigException, OSError) as error:
        print(f"videojob-uninstall: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
