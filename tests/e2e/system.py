"""The whole system as separate processes on one machine, whose parts a test can kill, stop and start again."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dev.control_plane import NAMESPACE, Cluster, free_ports
from dev.processes import die_with_parent
from dev.supervisor import REPOSITORY
from dev.tritonserver import command, remove_stale_regions
from tests.e2e.faults import Faults
from tests.e2e.outages import PATIENCE, ApiServerFaults
from tests.e2e.processes import children
from tests.e2e.replica import Replica
from tests.e2e.stored import StoredFiles
from videojob.api import transitions
from videojob.api.conditions import ConditionType, find
from videojob.api.patch import status_patch
from videojob.api.replica import REPORT_ANNOTATION, ModelState, ReplicaReport, lease_name
from videojob.api.videojob import Resolved, VideoJob, VideoJobStatus
from videojob.kube.client import GPU_POOLS, LEASES, VIDEO_JOBS, VIDEO_MODELS, Json, KubeClient, KubeError
from videojob.runner.buffers import SHM

LEASE_SECONDS = 4
MODEL = "tiny"


@dataclass
class System(StoredFiles, ApiServerFaults):
    """One cluster, one operator, one pool. The caller stops it."""

    cluster: Cluster
    client: KubeClient
    folder: Path
    namespace: str
    model: Path
    pool: str
    replicas: dict[str, Replica] = field(default_factory=dict)
    operator: subprocess.Popen[bytes] | None = None
    quiet: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, Path] = field(default_factory=dict)
    runner_module: str = "videojob.runner"

    @property
    def store(self) -> Path:
        """Folder of the pool's store."""
        return self.folder / "store"

    def install(self, *names: str) -> None:
        """Apply model, queue and pool with these replicas."""
        for name in names:
            folder = self.folder / name
            faults = Faults(folder / "faults")
            faults.templates(folder / "model_repo")
            self.replicas[name] = Replica(name, folder, free_ports(4), faults)
        self.cluster.apply(
            {
                "apiVersion": "videojob.dev/v1alpha1",
                "kind": "VideoModel",
                "metadata": {"name": MODEL},
                "spec": {
                    "family": "AnyFlowFAR",
                    "source": {"directory": str(self.model)},
                    "precision": "float32",
                    "sinkLatents": 1,
                    "windowLatents": 6,
                    "memory": {"weightsBytes": 1, "perJobBytes": 1},
                    "limits": {"maxWidth": 256, "maxHeight": 256, "maxSeconds": 60},
                    "defaults": {"width": 64, "height": 48, "fps": 12, "steps": 2},
                    "drift": {"motion": 0.0001},
                },
            },
            {
                "apiVersion": "videojob.dev/v1alpha1",
                "kind": "VideoQueue",
                "metadata": {"name": "default", "namespace": self.namespace},
            },
            self._pool(),
        )

    def _pool(self, **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "videojob.dev/v1alpha1",
            "kind": "GPUPool",
            "metadata": {"name": self.pool},
            "spec": {
                "accelerator": "cpu",
                "endpoints": [
                    {"name": replica.name, "url": f"127.0.0.1:{replica.ports[0]}", "maxJobs": 1}
                    for replica in self.replicas.values()
                ],
                "models": [MODEL],
                "store": {"url": self.store.as_uri()},
                **spec,
            },
        }

    async def resize(self, max_jobs: int) -> None:
        """Let each replica take so many jobs."""
        endpoints = [{**endpoint, "maxJobs": max_jobs} for endpoint in self._pool()["spec"]["endpoints"]]
        await self.client.merge_patch(GPU_POOLS, self.pool, {"spec": {"endpoints": endpoints}})

    def _account(self, name: str) -> Path:
        """A kubeconfig for a service account, made once: also a process that starts in an outage has one."""
        if name not in self.accounts:
            self.accounts[name] = self.cluster.service_account(name)
        return self.accounts[name]

    def start_operator(self) -> None:
        """Start the operator, unless it runs."""
        if self.operator is None or self.operator.poll() is not None:
            self.operator = self._spawn(
                [sys.executable, "-m", "videojob.controller", "--namespace", NAMESPACE],
                {"KUBECONFIG": str(self._account("videojob-operator"))},
                self.folder / "operator.log",
            )

    def start_triton(self, name: str) -> None:
        """Start the replica's tritonserver, unless it runs."""
        replica = self.replicas[name]
        if replica.triton is not None and replica.triton.poll() is None:
            return
        repository = replica.folder / "repository"
        repository.mkdir(parents=True, exist_ok=True)
        remove_stale_regions(repository)
        grpc, http, metrics, _ = replica.ports
        argv, environment = command(repository, grpc_port=grpc, http_port=http, metrics_port=metrics)
        replica.triton = self._spawn(argv, environment, replica.folder / "triton.log")

    def start_runner(self, name: str, *options: str) -> None:
        """Start the replica's runner with these further options, unless it runs."""
        replica = self.replicas[name]
        if replica.runner is None or replica.runner.poll() is not None:
            replica.runner_began = datetime.now(UTC)
            replica.runner = self.another_runner(name, None, *options)

    def another_runner(self, name: str, metrics_port: int | None = None, *options: str) -> subprocess.Popen[bytes]:
        """Start a runner for the replica, whether there is one or not."""
        replica = self.replicas[name]
        argv = [
            *(sys.executable, "-m", self.runner_module, "--namespace", NAMESPACE),
            *("--pool", self.pool, "--replica", name, "--lease-seconds", str(LEASE_SECONDS)),
            *("--model-repository", str(replica.folder / "model_repo")),
            *("--repository", str(replica.folder / "repository")),
            *("--metrics-port", str(metrics_port or replica.ports[3]), "--log-format", "json"),
            *options,
        ]
        environment = {"KUBECONFIG": str(self._account("videojob-runner"))}
        return self._spawn(argv, environment, replica.log)

    def start(self, *names: str) -> None:
        """Start what does not run of the operator and these replicas."""
        self.start_operator()
        for name in names:
            self.start_triton(name)
            self.start_runner(name)

    async def ready(self, *names: str) -> None:
        """Wait until these replicas have loaded the model."""
        for name in names:
            await self.until(partial(self._is_ready, name), f"replica {name} is not ready")

    async def _is_ready(self, name: str) -> bool:
        replica = self.replicas[name]
        for process in (replica.triton, replica.runner):
            assert process is not None and process.poll() is None, f"a process of {name} ended; see {replica.folder}"
        try:
            lease = await self.client.get(LEASES, lease_name(self.pool, name), NAMESPACE)
        except KubeError:
            return False
        # A runner that is only being started finds the report of the one before.
        if _acquired(lease) < self.replicas[name].runner_began:
            return False
        report = _report(lease)
        loaded = report.models and all(model.state is ModelState.READY for model in report.models)
        troubles = (report.triton_error, report.accelerator_error, report.store_error, report.jobs_error)
        return bool(loaded) and not any((*troubles, report.draining))

    async def silent(self, name: str) -> bool:
        """Whether a replica that was killed has no live heartbeat any more, so that it gets no job."""
        spec = (await self.client.get(LEASES, lease_name(self.pool, name), NAMESPACE))["spec"]
        expires = datetime.fromisoformat(spec["renewTime"]).timestamp() + int(spec["leaseDurationSeconds"])
        return time.time() > expires

    async def report(self, name: str) -> ReplicaReport:
        """The report of the replica's runner."""
        return _report(await self.client.get(LEASES, lease_name(self.pool, name), NAMESPACE))

    def kill(self, process: subprocess.Popen[bytes] | None, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process, and wait for its end where it cannot refuse."""
        assert process is not None
        process.send_signal(number)
        if number is signal.SIGKILL:
            process.wait()

    def kill_triton(self, name: str) -> None:
        """Kill the replica's tritonserver, and what it started: a stub that was waiting for it may hang for ever."""
        triton = self.replicas[name].triton
        assert triton is not None
        stubs = children(triton.pid)
        self.kill(triton)
        for pid in stubs:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Stop everything."""
        for process in (self.operator, *(replica.runner for replica in self.replicas.values())):
            if process is not None and process.poll() is None:
                self.kill(process)
        for replica in self.replicas.values():
            if replica.triton is not None and replica.triton.poll() is None:
                self.kill_triton(replica.name)
            remove_stale_regions(replica.folder / "repository")
            for region in self.regions(replica.name):
                (SHM / region).unlink(missing_ok=True)

    async def submit(self, name: str, seconds: float = 4.0, prompt: str = "a red fox", **spec: Any) -> None:
        """Apply a job; 4 s are 48 frames in 5 chunks."""
        body = {
            "apiVersion": "videojob.dev/v1alpha1",
            "kind": "VideoJob",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"model": MODEL, "shots": [{"prompt": prompt, "seconds": seconds}], "seed": 7, **spec},
        }
        await self.client.create(VIDEO_JOBS, body, self.namespace)

    async def undisturbed(self, **spec: Any) -> str:
        """sha256 of the video of a job that nothing happens to; made once for each kind."""
        key = json.dumps(spec, sort_keys=True)
        if key not in self.quiet:
            name = f"quiet-{len(self.quiet)}"
            await self.submit(name, **spec)
            self.quiet[key] = self.output_sha256(await self.until_finished(name))
        return self.quiet[key]

    async def assign(self, name: str, replica: str, *, weights_digest: str) -> None:
        """Assign a job as the operator would, but to weights of the test's choice."""
        job = await self.job(name)
        model = await self.client.get(VIDEO_MODELS, MODEL)
        status = transitions.assigned(
            job.status,
            pool=self.pool,
            replica=replica,
            resolved=Resolved(
                width=64,
                height=48,
                fps=12,
                steps=2,
                guidance_scale=1.0,
                seed=7,
                frames=48,
                chunks=5,
                model_uid=model["metadata"]["uid"],
                model_generation=1,
                weights_digest=weights_digest,
            ),
            store_uri=self.store.as_uri(),
            now=datetime.now(UTC),
            generation=job.metadata.generation,
        )
        await self.client.json_patch(VIDEO_JOBS, name, status_patch([], job.status, status), self.namespace, "status")

    async def begin_delete(self, name: str) -> None:
        """Delete a job, and do not wait until it is gone."""
        await self.client.delete(VIDEO_JOBS, name, self.namespace)

    async def until_gone(self, name: str) -> None:
        """Wait until a job does not exist."""

        async def gone() -> bool:
            try:
                await self.job(name)
            except KubeError as error:
                return error.not_found
            return False

        await self.until(gone, f"{name} is not deleted")

    async def delete(self, name: str) -> None:
        """Delete a job, and wait until it is gone."""
        await self.begin_delete(name)
        await self.until_gone(name)

    async def log_contains(self, name: str, words: str) -> bool:
        """Whether the log of the replica's runner has had these words since the test began."""
        return words in self.replicas[name].logged

    def log_records(self, name: str) -> list[Json]:
        """What the replica's runner has logged since the test began."""
        return [json.loads(line) for line in self.replicas[name].logged.splitlines() if line.startswith("{")]

    def free_port(self) -> int:
        """A port for a process that the test starts itself."""
        return free_ports(1)[0]

    def regions(self, name: str) -> set[str]:
        """Frame buffers of the replica's runners in shared memory."""
        hashed = hashlib.sha256(f"{self.pool}/{name}".encode()).hexdigest()[:12]
        return {path.name for path in SHM.glob(f"videojob-frames-{hashed}-*")}

    async def clean(self) -> None:
        """Delete every job."""
        jobs = await self.client.list(VIDEO_JOBS, self.namespace)
        await asyncio.gather(*(self.delete(job["metadata"]["name"]) for job in jobs["items"]))

    async def change(self, name: str, **spec: Any) -> None:
        """Change fields of a job's spec."""
        await self.client.merge_patch(VIDEO_JOBS, name, {"spec": spec}, self.namespace)

    async def job(self, name: str) -> VideoJob:
        """The job as it is."""
        return VideoJob.model_validate(await self.client.get(VIDEO_JOBS, name, self.namespace))

    async def until_status(self, name: str, holds: Callable[[VideoJobStatus], bool], what: str) -> VideoJobStatus:
        """Wait until the job's status is so, and return it."""
        seen: VideoJobStatus | None = None

        async def look() -> bool:
            nonlocal seen
            seen = (await self.job(name)).status
            return holds(seen)

        try:
            await self.until(look, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{seen.model_dump_json(indent=1) if seen else ''}") from None
        assert seen is not None
        return seen

    async def until_finished(self, name: str) -> VideoJobStatus:
        """Wait until the job has ended, and return its status."""
        return await self.until_status(name, lambda status: status.phase.finished, f"{name} does not end")

    async def until_chunks(self, name: str, count: int) -> VideoJobStatus:
        """Wait until so many chunks of the job are in the store, and return its status."""
        uid = (await self.job(name)).metadata.uid

        async def look() -> bool:
            return len(self.records(uid)) >= count

        await self.until(look, f"{name} does not get to {count} chunks")
        return (await self.job(name)).status

    async def until(self, holds: Callable[[], Any], what: str) -> None:
        """Wait until a condition holds; fail after some patience."""
        deadline = time.monotonic() + PATIENCE
        while not await holds():
            if time.monotonic() > deadline:
                pytest.fail(f"Within {PATIENCE:g} s: {what}; logs are in {self.folder}.")
            await asyncio.sleep(0.05)

    async def metrics(self, name: str) -> str:
        """What Prometheus reads from the replica's runner."""
        url = f"http://127.0.0.1:{self.replicas[name].ports[3]}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.text()

    def condition(self, status: VideoJobStatus, type_: ConditionType) -> tuple[str, str, str]:
        """Status, reason and message of a condition."""
        condition = find(status.conditions, type_)
        assert condition is not None, f"there is no condition {type_}"
        return condition.status, condition.reason, condition.message

    def _spawn(self, argv: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                argv,
                cwd=REPOSITORY,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - no threads run here yet
            )


def _report(lease: Json) -> ReplicaReport:
    return ReplicaReport.model_validate_json(lease["metadata"]["annotations"][REPORT_ANNOTATION])


def _acquired(lease: Json) -> datetime:
    return datetime.fromisoformat(lease["spec"]["acquireTime"])
