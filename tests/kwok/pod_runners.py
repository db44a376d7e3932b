"""Runners of simulated pods: one process stands in for the runners of all pods of all pools.

It keeps a Lease for each pod that is ready, makes the chunks of its jobs in the given time, drains where the Lease or
the pod's end asks for it, and hands jobs back. Videos consist of nothing, but every chunk that is committed is
counted, in a write-once log like that of the store.

`python -m tests.kwok.pod_runners` runs it for a benchmark.
"""

import argparse
import asyncio
import os
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from tests.controller.stub_runner import DIGEST, IN_FLIGHT, finish, holder, register, write_status
from videojob.api.reasons import Reason
from videojob.api.replica import (
    COMPONENT_LABEL,
    DRAIN_ANNOTATION,
    POOL_LABEL,
    REPLICA_COMPONENT,
    REPLICA_LABEL,
    REPORT_ANNOTATION,
    LoadedModel,
    ModelState,
    ReplicaReport,
    lease_name,
)
from videojob.api.transitions import released, running
from videojob.api.videojob import Progress, Timing, VideoJob, VideoJobStatus
from videojob.kube.client import (
    GPU_POOLS,
    LEASES,
    PODS,
    VIDEO_JOBS,
    VIDEO_MODELS,
    Json,
    KubeClient,
    KubeError,
    Listing,
)
from videojob.kube.connection import configuration

FINALIZER = "example.com/runner"
"""Holds a pod that ends until its jobs are handed back, as the kubelet's grace period does."""
SELECTOR = f"{COMPONENT_LABEL}={REPLICA_COMPONENT}"
FINALIZERS_PATH = "/metadata/finalizers"


@dataclass(frozen=True)
class Chunk:
    """A chunk that a replica has committed."""

    uid: str
    index: int
    replica: str


@dataclass(frozen=True)
class Pace:
    """How long things take, in seconds."""

    chunk: float = 0.2
    """Of a chunk on a replica with one job; jobs that share a replica share its time."""
    report: float = 0.2
    """The shortest pause between two reports of a job's progress."""
    lease: int = 2
    """Of a Lease without a renewal."""


@dataclass
class _Pod:
    """A replica that is served."""

    name: str
    uid: str
    pool: str
    node: str
    slots: int
    report: ReplicaReport
    drain: bool = False
    """The Lease asks for it."""
    ending: bool = False
    jobs: dict[tuple[str, int], asyncio.Task[None]] = field(default_factory=dict)
    """By uid and attempt."""
    heartbeat: asyncio.Task[None] | None = None

    @property
    def draining(self) -> bool:
        return self.drain or self.ending


@dataclass
class PodRunners:
    """Runs the Lease and the jobs of every pod of every pool in a namespace."""

    client: KubeClient
    namespace: str
    pace: Pace = Pace()
    committed: list[Chunk] = field(default_factory=list)
    clashes: list[Chunk] = field(default_factory=list)
    """Chunks that were made although they had been committed before."""
    ignores_drains: bool = False
    """Whether the runners ignore a drain that a Lease asks for."""
    broken: dict[str, str] = field(default_factory=dict)
    """By pool: why no model loads there."""
    _log: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _pods: dict[str, _Pod] = field(default_factory=dict)
    _stops: dict[tuple[str, int], str] = field(default_factory=dict)
    _lost_nodes: set[str] = field(default_factory=set)
    _lost_pods: set[str] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _limit: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(IN_FLIGHT))
    error: BaseException | None = None
    """The exception that ended one of the tasks, which none should have."""

    def start(self) -> "PodRunners":
        """Watch and act, until `stop`."""
        for coroutine in (self._watch_pods(), self._watch_leases(), self._watch_jobs()):
            self._start_task(coroutine)
        return self

    async def stop(self) -> None:
        """Stop at once, and leave everything as it is."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def lose_node(self, node: str) -> None:
        """Nothing that runs on the node answers any more."""
        self._lost_nodes.add(node)
        for pod in list(self._pods.values()):
            if pod.node == node:
                self.lose_pod(pod.name)

    def lose_pod(self, name: str) -> None:
        """The pod's runner is killed, at whatever it was."""
        self._lost_pods.add(name)
        self._forget(name)

    def chunks_of(self, uid: str) -> list[int]:
        """The indices that were committed, in that order."""
        return [chunk.index for chunk in self.committed if chunk.uid == uid]

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self.error is None:
            self.error = task.exception()

    # Pods

    async def _watch_pods(self) -> None:
        async for seen in self.client.watch(PODS, self.namespace, labelSelector=SELECTOR):
            if isinstance(seen, Listing):
                there = {body["metadata"]["name"] for body in seen.items}
                for name in self._pods.keys() - there:
                    self._forget(name)
                for body in seen.items:
                    self._reconcile_pod(body)
            elif seen.type == "DELETED":
                self._forget(seen.object["metadata"]["name"])
            else:
                self._reconcile_pod(seen.object)

    def _reconcile_pod(self, body: Json) -> None:
        metadata = body["metadata"]
        name = metadata["name"]
        ending, pod = "deletionTimestamp" in metadata, self._pods.get(name)
        if ending and pod is None:
            # A lost one stays until somebody ends it by force, as without its kubelet.
            lost = name in self._lost_pods or body["spec"].get("nodeName") in self._lost_nodes
            if not lost or metadata.get("deletionGracePeriodSeconds") == 0:
                self._start_task(self._remove_finalizer(body))
        elif ending and pod is not None and not pod.ending:
            pod.ending = True
            self._start_task(self._end(pod, body))
        elif not ending and pod is None and self._is_up(body):
            self._pods[name] = _Pod(
                name,
                metadata["uid"],
                metadata["labels"][POOL_LABEL],
                body["spec"]["nodeName"],
                0,
                ReplicaReport(slots=0),
            )
            self._start_task(self._begin(self._pods[name]))

    def _is_up(self, body: Json) -> bool:
        if body["metadata"]["name"] in self._lost_pods or body["spec"].get("nodeName") in self._lost_nodes:
            return False
        conditions = {one["type"]: one["status"] for one in body.get("status", {}).get("conditions", [])}
        return conditions.get("Ready") == "True"

    def _forget(self, name: str) -> None:
        pod = self._pods.pop(name, None)
        if pod is not None:
            for task in (*pod.jobs.values(), *([pod.heartbeat] if pod.heartbeat else [])):
                task.cancel()

    async def _begin(self, pod: _Pod) -> None:
        try:
            operation = {"op": "add", "path": FINALIZERS_PATH, "value": [FINALIZER]}
            async with self._limit:
                await self.client.json_patch(PODS, pod.name, [operation], self.namespace)
                spec = (await self.client.get(GPU_POOLS, pod.pool))["spec"]
                models = tuple([await self._loaded(name, self.broken.get(pod.pool, "")) for name in spec["models"]])
        except KubeError as error:
            if not error.not_found and error.code != 422:  # It is gone, or ends already.
                raise
            self._pods.pop(pod.name, None)
            return
        pod.slots = spec.get("jobsPerReplica", 1)
        memory = spec.get("template", {}).get("memoryBytes", 0)
        pod.report = ReplicaReport(slots=pod.slots, memory_bytes=memory, models=models)
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
        async with self._limit:
            await register(self.client, self.namespace, pod.pool, pod.name, pod.report, self.pace.lease, owner)
        if pod.name in self._pods:
            pod.heartbeat = self._start_task(self._heartbeat(pod))

    async def _loaded(self, name: str, trouble: str) -> LoadedModel:
        model = await self.client.get(VIDEO_MODELS, name)
        state = ModelState.FAILED if trouble else ModelState.READY
        return LoadedModel(name=name, uid=model["metadata"]["uid"], state=state, digest=DIGEST, message=trouble)

    async def _heartbeat(self, pod: _Pod) -> None:
        while True:
            await asyncio.sleep(self.pace.lease / 3)
            await self._renew(pod)

    async def _renew(self, pod: _Pod) -> None:
        report = pod.report.model_copy(update={"draining": pod.draining})
        annotations = {REPORT_ANNOTATION: report.model_dump_json(by_alias=True)}
        await self._patch_lease(pod, {"metadata": {"annotations": annotations}, "spec": holder(self.pace.lease)})

    async def _patch_lease(self, pod: _Pod, body: Json) -> None:
        try:
            async with self._limit:
                await self.client.merge_patch(LEASES, lease_name(pod.pool, pod.name), body, self.namespace)
        except KubeError as error:
            if not error.not_found and not error.transient:
                raise

    async def _end(self, pod: _Pod, body: Json) -> None:
        """Drain, give the Lease up, and remove the finalizer: what SIGTERM leads to."""
        if pod.heartbeat is not None:
            await self._renew(pod)
        await asyncio.gather(*pod.jobs.values(), return_exceptions=True)
        if pod.name not in self._pods:
            return
        if pod.heartbeat is not None:
            pod.heartbeat.cancel()
            await self._patch_lease(pod, {"spec": {"holderIdentity": None}})
        await self._remove_finalizer(body)

    async def _remove_finalizer(self, body: Json) -> None:
        try:
            async with self._limit:
                await self.client.merge_patch(
                    PODS, body["metadata"]["name"], {"metadata": {"finalizers": None}}, self.namespace
                )
        except KubeError as error:
            if not error.not_found:
                raise

    # Leases

    async def _watch_leases(self) -> None:
        async for seen in self.client.watch(LEASES, self.namespace, labelSelector=SELECTOR):
            for body in seen.items if isinstance(seen, Listing) else (seen.object,):
                metadata = body["metadata"]
                pod = None if self.ignores_drains else self._pods.get(metadata["labels"][REPLICA_LABEL])
                drain = DRAIN_ANNOTATION in metadata.get("annotations", {})
                if pod is not None and pod.heartbeat is not None and pod.drain != drain:
                    pod.drain = drain
                    self._start_task(self._renew(pod))

    # Jobs

    async def _watch_jobs(self) -> None:
        async for seen in self.client.watch(VIDEO_JOBS):
            for body in seen.items if isinstance(seen, Listing) else (seen.object,):
                # Most are of no interest, and reading them whole costs more than all else here.
                if (isinstance(seen, Listing) or seen.type != "DELETED") and body.get("status", {}).get("assignment"):
                    self._reconcile_job(body)

    def _reconcile_job(self, body: Json) -> None:
        assignment = body["status"]["assignment"]
        pod = self._pods.get(assignment["replica"])
        if pod is None or pod.pool != assignment["pool"]:
            return
        attempt = (body["metadata"]["uid"], body["status"]["attempts"])
        if assignment.get("release"):
            self._stops[attempt] = assignment["release"]
        if attempt in pod.jobs:
            return
        task = pod.jobs[attempt] = self._start_task(self._run_job(pod, VideoJob.model_validate(body), attempt))
        task.add_done_callback(lambda _: self._stops.pop(attempt, None))

    async def _run_job(self, pod: _Pod, job: VideoJob, attempt: tuple[str, int]) -> None:
        """Make what is left of the job's chunks, or hand it back between two of them."""
        resolved = job.status.resolved
        assert resolved is not None
        uid, began, reported = job.metadata.uid, monotonic(), monotonic()
        before = job.status.timing.running_seconds if job.status.timing else 0.0
        current: VideoJob | None = job

        def after(status: VideoJobStatus) -> VideoJobStatus:
            done = self._log[uid]
            progress = Progress(
                chunks_done=done,
                chunks_total=resolved.chunks,
                seconds_ready=float(resolved.frames / resolved.rate * done / resolved.chunks),
                summary=f"{done}/{resolved.chunks}",
            )
            timing = Timing(running_seconds=before + monotonic() - began)
            return status.model_copy(update={"progress": progress, "timing": timing})

        if self._log[uid] < resolved.chunks and not pod.draining and attempt not in self._stops:
            status = running(job.status, now=datetime.now(UTC), generation=job.metadata.generation)
            current = await self._write(job, status)
        while current is not None and self._log[uid] < resolved.chunks:
            reason = self._stops.get(attempt) or (Reason.DRAINED.value if pod.draining else None)
            if reason is not None:
                status = released(
                    after(current.status), reason=reason, now=datetime.now(UTC), generation=job.metadata.generation
                )
                await self._write(current, status)
                return
            index = self._log[uid]
            await asyncio.sleep(self.pace.chunk * max(1, sum(not task.done() for task in pod.jobs.values())))
            chunk = Chunk(uid, index, pod.name)
            if self._log[uid] != index:
                self.clashes.append(chunk)
                return
            self._log[uid] = index + 1
            self.committed.append(chunk)
            if self._log[uid] < resolved.chunks and monotonic() - reported >= self.pace.report:
                reported = monotonic()
                current = await self._write(current, after(current.status))
        if current is not None:
            status = finish(current.model_copy(update={"status": after(current.status)}), datetime.now(UTC))
            await self._write(current, status)

    async def _write(self, job: VideoJob, status: VideoJobStatus) -> VideoJob | None:
        async with self._limit:
            return await write_status(self.client, job, status)


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--chunk-seconds", type=float, required=True)
    parser.add_argument("--report-seconds", type=float, required=True)
    parser.add_argument("--lease-seconds", type=int, required=True)
    options = parser.parse_args()
    client = KubeClient(await configuration(Path(os.environ["KUBECONFIG"])))
    pace = Pace(options.chunk_seconds, options.report_seconds, options.lease_seconds)
    runners = PodRunners(client, options.namespace, pace).start()
    while runners.error is None:
        # The parent loses nodes by writing their names.
        line = await asyncio.to_thread(input)
        runners.lose_node(line)
    raise runners.error


if __name__ == "__main__":
    asyncio.run(_main())
