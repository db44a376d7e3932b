"""What an end-to-end test of the operator needs: objects in an API server, conditions to wait for, things to kill."""

import asyncio
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from dev.control_plane import NAMESPACE, Cluster, free_ports, wait_until
from tests.controller.stub_runner import Behaviour, StubRunner, finish
from videojob.api import API_VERSION
from videojob.api.gpupool import GPUPool
from videojob.api.replica import lease_name
from videojob.api.videojob import VideoJob
from videojob.kube.client import (
    EVENTS,
    GPU_POOLS,
    LEASES,
    VIDEO_JOBS,
    VIDEO_MODELS,
    VIDEO_QUEUES,
    Json,
    KubeClient,
    KubeError,
    ResourceKind,
)

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 30.0

FAST = ("-m", "tests.controller.fast_operator")
"""The operator with shorter times."""
REAL = ("-m", "videojob.controller")


Found = TypeVar("Found")


async def until(look: Callable[[], Awaitable[Found | None]], what: str, seconds: float = PATIENCE) -> Found:
    """What `look` finds, once it finds something."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = await look()
                if found is not None:
                    return found
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}") from None


@dataclass
class World:
    """A namespace, a pool and a model of a test's own."""

    cluster: Cluster
    client: KubeClient
    namespace: str
    store: Path
    runners: list[StubRunner] = field(default_factory=list)

    @property
    def pool(self) -> str:
        return f"pool-{self.namespace}"

    @property
    def model(self) -> str:
        return f"model-{self.namespace}"

    async def queue(self, **spec: Any) -> None:
        await self._create(VIDEO_QUEUES, "VideoQueue", "default", spec, self.namespace)

    async def models(self) -> None:
        spec = {
            "family": "AnyFlowFAR",
            "source": {"directory": "/models/none"},
            "precision": "float32",
            "memory": {"weightsBytes": 0, "perJobBytes": 0},
        }
        await self._create(VIDEO_MODELS, "VideoModel", self.model, spec)

    async def pools(self, *replicas: str, max_jobs: int = 2, store: Json | None = None) -> None:
        spec = {
            "accelerator": "cpu",
            "endpoints": [{"name": name, "url": "127.0.0.1:1", "maxJobs": max_jobs} for name in replicas or ("r0",)],
            "models": [self.model],
            "store": store or {"url": self.store.as_uri()},
        }
        await self._create(GPU_POOLS, "GPUPool", self.pool, spec)

    async def runner(self, *replicas: str, behave: Behaviour = finish, slots: int = 2) -> StubRunner:
        stub = StubRunner(
            self.client, NAMESPACE, self.pool, replicas or ("r0",), (self.model,), behave=behave, slots=slots
        )
        self.runners.append(stub)
        return await stub.start()

    async def everything(self, *replicas: str, behave: Behaviour = finish, slots: int = 2) -> StubRunner:
        """A queue, a model, a pool and a runner."""
        await self.queue()
        await self.models()
        await self.pools(*replicas, max_jobs=slots)
        return await self.runner(*replicas, behave=behave, slots=slots)

    async def ready(self, replicas: int) -> None:
        """Wait until the operator reports that so many replicas of the pool can take jobs."""

        async def look() -> bool | None:
            found = GPUPool.model_validate(await self.client.get(GPU_POOLS, self.pool))
            return True if found.status.ready_replicas == replicas else None

        await until(look, f"{replicas} replicas are ready")

    async def job(self, name: str = "job", **spec: Any) -> None:
        body = {"model": self.model, "shots": [{"prompt": "A private prompt.", "seconds": 1}], **spec}
        await self._create(VIDEO_JOBS, "VideoJob", name, body, self.namespace)

    async def change(self, name: str = "job", **spec: Any) -> None:
        await self.client.merge_patch(VIDEO_JOBS, name, {"spec": spec}, self.namespace)

    async def read(self, name: str = "job") -> VideoJob | None:
        try:
            return VideoJob.model_validate(await self.client.get(VIDEO_JOBS, name, self.namespace))
        except KubeError as error:
            if error.not_found:
                return None
            raise

    async def becomes(self, condition: Callable[[VideoJob], bool], what: str, name: str = "job") -> VideoJob:
        last: list[VideoJob | None] = [None]

        async def look() -> VideoJob | None:
            last[0] = await self.read(name)
            return last[0] if last[0] is not None and condition(last[0]) else None

        try:
            return await until(look, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the status is {last[0] and last[0].status!r}") from None

    async def phase(self, phase: str, name: str = "job") -> VideoJob:
        return await self.becomes(lambda job: job.status.phase.value == phase, f"{name} is {phase}", name)

    async def waits(self, reason: str, name: str = "job") -> VideoJob:
        return await self.becomes(lambda job: job.status.reason == reason, f"{name} waits: {reason}", name)

    async def gone(self, name: str = "job") -> None:
        async def look() -> bool | None:
            return True if await self.read(name) is None else None

        await until(look, f"{name} is gone")

    async def event(self, reason: str) -> Json:
        async def look() -> Json | None:
            events = (await self.client.list(EVENTS, self.namespace))["items"]
            return next((event for event in events if event["reason"] == reason), None)

        return await until(look, f"an Event {reason}")

    async def leave(self) -> None:
        """Remove every job, whatever holds it, and the pool with its replicas."""
        for runner in self.runners:
            await runner.stop()
            for replica in runner.replicas:
                await self._delete(LEASES, lease_name(self.pool, replica), NAMESPACE)
        for job in (await self.client.list(VIDEO_JOBS, self.namespace))["items"]:
            name = job["metadata"]["name"]
            await self._delete(VIDEO_JOBS, name, self.namespace)
            try:
                await self.client.merge_patch(VIDEO_JOBS, name, {"metadata": {"finalizers": None}}, self.namespace)
            except KubeError as error:
                if not error.not_found:
                    raise
        await self._delete(GPU_POOLS, self.pool)

    async def _delete(self, kind: ResourceKind, name: str, namespace: str | None = None) -> None:
        try:
            await self.client.delete(kind, name, namespace)
        except KubeError as error:
            if not error.not_found:
                raise

    async def _create(
        self, kind: ResourceKind, name_of_kind: str, name: str, spec: Json, namespace: str | None = None
    ) -> None:
        body = {"apiVersion": API_VERSION, "kind": name_of_kind, "metadata": {"name": name}, "spec": spec}
        await self.client.create(kind, body, namespace)


@dataclass
class OperatorProcess:
    """An operator as a process."""

    process: subprocess.Popen[bytes]
    health: int
    metrics_port: int
    log: Path

    async def probe(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.health}{path}") as answer,
        ):
            return answer.status, await answer.text()

    def wait_until_ready(self, patience: float = PATIENCE) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/readyz", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        wait_until(ready, "the operator is not ready", patience)

    async def metrics(self) -> str:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer,
        ):
            return await answer.text()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over the series that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(await self.metrics())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=30)

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def operator_process(
    cluster: Cluster, log: Path, command: tuple[str, ...] = FAST, patience: float = PATIENCE
) -> Iterator[OperatorProcess]:
    """An operator with its own account, that is ready; SIGTERM ends it with status 0, unless the test has killed it."""
    health, metrics = free_ports(2)
    arguments = ["--bind-address", "127.0.0.1", "--health-port", str(health), "--metrics-port", str(metrics)]
    kubeconfig = cluster.service_account("videojob-operator")
    environment = os.environ | {"KUBECONFIG": str(kubeconfig), "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command, *arguments], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    started = OperatorProcess(process, health, metrics, log)
    try:
        started.wait_until_ready(patience)
        yield started
        if process.poll() is None:
            assert started.terminate() == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def conditions(job: VideoJob) -> dict[str, tuple[str, str]]:
    """Status and reason by type."""
    return {condition.type: (condition.status, condition.reason) for condition in job.status.conditions}
