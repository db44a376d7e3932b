"""A runner without Triton, through the real API: Leases, fenced status writes, releases. It makes no video.

`python -m tests.controller.stub_runner` runs one as a process of its own, for benchmarks.
"""

import argparse
import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from videojob.api.patch import attempt_fence, status_patch
from videojob.api.reasons import Reason
from videojob.api.replica import (
    COMPONENT_LABEL,
    POOL_LABEL,
    REPLICA_COMPONENT,
    REPLICA_LABEL,
    REPORT_ANNOTATION,
    LoadedModel,
    ModelState,
    ReplicaReport,
    lease_name,
)
from videojob.api.transitions import attempt_failed, released, running, succeeded
from videojob.api.videojob import OutputStatus, Progress, VideoJob, VideoJobStatus
from videojob.kube.client import LEASES, VIDEO_JOBS, VIDEO_MODELS, Json, KubeClient, KubeError, Listing
from videojob.kube.connection import configuration

DIGEST = "sha256:0000"
IN_FLIGHT = 16

Behaviour = Callable[[VideoJob, datetime], VideoJobStatus | None]
"""What becomes of a job that was assigned: its next status, or None to leave it as it is."""


def finish(job: VideoJob, now: datetime) -> VideoJobStatus:
    """The job succeeds at once."""
    resolved = job.status.resolved
    assert resolved is not None
    output = OutputStatus(
        uri=f"{job.status.store_uri}/output/1.mp4",
        sha256="0" * 64,
        size_bytes=1,
        frames=resolved.frames,
        duration_seconds=float(resolved.frames / resolved.rate),
    )
    return succeeded(job.status, output=output, now=now, generation=job.metadata.generation)


def hold(job: VideoJob, now: datetime) -> VideoJobStatus:
    """The job runs, and never ends."""
    status = running(job.status, now=now, generation=job.metadata.generation)
    done = status.progress.chunks_done if status.progress else 0
    progress = Progress(chunks_done=max(done, 1), chunks_total=9, seconds_ready=0.1, summary=f"{max(done, 1)}/9")
    return status.model_copy(update={"progress": progress})


def fail(job: VideoJob, now: datetime) -> VideoJobStatus:
    """The attempt fails."""
    return attempt_failed(
        job.status,
        reason=Reason.CHUNK_FAILED,
        message="Chunk 0 failed on purpose.",
        now=now,
        generation=job.metadata.generation,
    )


@dataclass
class StubRunner:
    """Acts for the replicas of one pool. `seen` lists every assignment as (job, attempt, replica)."""

    client: KubeClient
    namespace: str
    pool: str
    replicas: tuple[str, ...]
    models: tuple[str, ...]
    behave: Behaviour = finish
    slots: int = 2
    memory_bytes: int = 0
    lease_seconds: int = 2
    seen: list[tuple[str, int, str]] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _begun: set[tuple[str, int]] = field(default_factory=set)
    _limit: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(IN_FLIGHT))

    async def start(self) -> "StubRunner":
        """Take part, until `stop`."""
        models = tuple([await self._loaded(name) for name in self.models])
        report = ReplicaReport(slots=self.slots, memory_bytes=self.memory_bytes, models=models)
        for replica in self.replicas:
            await self._register(replica, report)
            self._spawn(self._heartbeat(replica))
        self._spawn(self._watch())
        return self

    async def stop(self) -> None:
        """Vanish, as a killed process does: Leases stay and expire."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _loaded(self, name: str) -> LoadedModel:
        model = await self.client.get(VIDEO_MODELS, name)
        return LoadedModel(name=name, uid=model["metadata"]["uid"], state=ModelState.READY, digest=DIGEST)

    async def _register(self, replica: str, report: ReplicaReport) -> None:
        await register(self.client, self.namespace, self.pool, replica, report, self.lease_seconds)

    async def _heartbeat(self, replica: str) -> None:
        while True:
            await asyncio.sleep(self.lease_seconds / 4)
            await self.client.merge_patch(
                LEASES, lease_name(self.pool, replica), {"spec": holder(self.lease_seconds)}, self.namespace
            )

    async def _watch(self) -> None:
        async for seen in self.client.watch(VIDEO_JOBS, fieldSelector=f"status.assignment.pool={self.pool}"):
            for body in seen.items if isinstance(seen, Listing) else (seen.object,):
                if not isinstance(seen, Listing) and seen.type == "DELETED":
                    continue
                self._act(VideoJob.model_validate(body))

    def _act(self, job: VideoJob) -> None:
        assignment = job.status.assignment
        if assignment is None or assignment.replica not in self.replicas:
            return
        if assignment.release is not None:
            self._spawn(self._release(job, assignment.release))
            return
        attempt = (job.metadata.uid, job.status.attempts)
        if attempt in self._begun:
            return
        self._begun.add(attempt)
        self.seen.append((job.metadata.name, job.status.attempts, assignment.replica))
        self._spawn(self._write(job, self.behave(job, datetime.now(UTC))))

    async def _release(self, job: VideoJob, reason: str) -> None:
        new = released(job.status, reason=reason, now=datetime.now(UTC), generation=job.metadata.generation)
        await self._write(job, new)

    async def _write(self, job: VideoJob, new: VideoJobStatus | None) -> None:
        if new is not None:
            async with self._limit:
                await write_status(self.client, job, new)


async def register(
    client: KubeClient,
    namespace: str,
    pool: str,
    replica: str,
    report: ReplicaReport,
    lease_seconds: int,
    owner: Json | None = None,
) -> None:
    """Make the replica's Lease, which belongs to `owner`, or take the one that is there."""
    name = lease_name(pool, replica)
    annotations = {REPORT_ANNOTATION: report.model_dump_json(by_alias=True)}
    metadata: Json = {
        "name": name,
        "namespace": namespace,
        "labels": {POOL_LABEL: pool, REPLICA_LABEL: replica, COMPONENT_LABEL: REPLICA_COMPONENT},
        "annotations": annotations,
        "ownerReferences": [owner] if owner else [],
    }
    spec = holder(lease_seconds)
    body: Json = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
    try:
        await client.create(LEASES, body, namespace)
    except KubeError as error:
        if error.code != 409:
            raise
        await client.merge_patch(LEASES, name, {"metadata": {"annotations": annotations}, "spec": spec}, namespace)


def holder(lease_seconds: int) -> Json:
    """The spec of a Lease that is renewed now."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"holderIdentity": "stub", "leaseDurationSeconds": lease_seconds, "renewTime": now}


async def write_status(client: KubeClient, job: VideoJob, new: VideoJobStatus) -> VideoJob | None:
    """The job after the write; None where it is not ours any more."""
    assignment = job.status.assignment
    if assignment is None:
        return None
    fence = attempt_fence(job.status.attempts, assignment.pool, assignment.replica)
    operations = status_patch(fence, job.status, new)
    try:
        answer = await client.json_patch(VIDEO_JOBS, job.metadata.name, operations, job.metadata.namespace, "status")
    except KubeError as error:
        if not error.conflict and not error.not_found:
            raise
        return None
    return VideoJob.model_validate(answer)


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--replica", action="append", required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--slots", type=int, required=True)
    options = parser.parse_args()
    client = KubeClient(await configuration(Path(os.environ["KUBECONFIG"])))
    runner = StubRunner(
        client,
        options.namespace,
        options.pool,
        tuple(options.replica),
        tuple(options.model),
        slots=options.slots,
        lease_seconds=15,
    )
    await runner.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
