"""A replica's life: tenures, each from taking its Lease to losing or leaving it.

Whoever takes the Lease hands back every job that the replica still holds, because nobody here works on them any more.
The operator assigns them anew with a higher attempt, which fences off whoever worked on them before: a runner that was
killed, or this one before it lost its Lease.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError
from tenacity import AsyncRetrying, retry_if_exception, wait_exponential_jitter

from videojob.api import transitions
from videojob.api.conditions import Reason
from videojob.api.gpupool import CPU, Endpoint, GPUPool
from videojob.api.patch import attempt_fence, status_patch
from videojob.api.replica import ModelState, ReplicaReport
from videojob.api.videojob import VideoJob
from videojob.api.videomodel import VideoModel
from videojob.kube.client import GPU_POOLS, VIDEO_JOBS, VIDEO_MODELS, KubeClient, KubeError, Listing
from videojob.logs import about
from videojob.runner.accounting import Checkpoints
from videojob.runner.assignments import Assignments, Slots
from videojob.runner.attempt import Attempt
from videojob.runner.buffers import FrameBuffers
from videojob.runner.clock import Clock
from videojob.runner.lease import Lease, LeaseLostError
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.options import Options
from videojob.runner.pipeline import END_SECONDS, FLUSH_SECONDS
from videojob.runner.pool_store import PoolStore
from videojob.runner.serving import Serving
from videojob.runner.status import Owner
from videojob.runner.stop import Stop
from videojob.runner.triton import Triton, TritonGoneError, TritonRefusedError
from videojob.runner.video import Services, correlation_id
from videojob.triton.contract import model_name
from videojob.triton.settings import ReplicaSettings

log = logging.getLogger(__name__)

STOP_SECONDS = END_SECONDS + FLUSH_SECONDS + 10
"""For a job to stop and write its status."""
ANSWER_SECONDS = 10.0
"""Silence of the API server after which the log says so."""
SPARE_SEQUENCES = 2
"""Sequences beyond the slots whose state a stage keeps: of attempts that are just ending."""


@dataclass
class Site:
    """What rests on the pool's place: the endpoint's Triton and the pool's store."""

    pool: GPUPool
    endpoint: Endpoint
    triton: Triton
    serving: Serving
    buffers: FrameBuffers
    store: PoolStore
    slots: Slots


class ReplicaRunner:
    """One replica of a pool, as run by this process."""

    def __init__(self, options: Options, kube: KubeClient, clock: Clock, metrics: RunnerMetrics, identity: str) -> None:
        self._options = options
        self._kube = kube
        self._clock = clock
        self._metrics = metrics
        self._lease = Lease(
            kube,
            clock,
            namespace=options.namespace,
            pool=options.pool,
            replica=options.replica,
            identity=identity,
            seconds=options.lease_seconds,
            pod_uid=options.pod_uid,
        )
        self._checkpoints = Checkpoints()
        metrics.heartbeat(lambda: self._lease.age)
        metrics.checkpoints(lambda: self._checkpoints.age(clock.monotonic()))
        self._pool: GPUPool | None = None
        self._models: dict[str, VideoModel] = {}
        self._looked = asyncio.Event()
        self._news = asyncio.Event()
        self._stopping = False
        self._site_now: Site | None = None
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def live(self) -> str | None:
        """What is wrong with this process, so that only a restart helps; that somebody else is silent is not."""
        return "The loop that renews the Lease hangs." if self._lease.stalled else None

    def ready(self) -> str | None:
        """Why no job can be made here now, if so."""
        if not self._lease.held:
            return "The replica's Lease is not held."
        site = self._site_now
        if site is None or not any(model.state is ModelState.READY for model in site.serving.report()):
            return "No model is loaded."
        return None

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until `stopping` is set, then hand back all jobs. Raises KubeError for refusals that will not pass."""
        watches = [asyncio.create_task(self._watch_pool()), asyncio.create_task(self._watch_models())]
        serving = asyncio.create_task(self._serve(stopping))
        try:
            await asyncio.wait({serving, self._broken, *watches}, return_when=asyncio.FIRST_COMPLETED)
            for task in (serving, self._broken, *watches):
                if task.done():
                    task.result()
        finally:
            for task in (serving, *watches):
                task.cancel()
            await asyncio.gather(serving, *watches, return_exceptions=True)

    async def _serve(self, stopping: asyncio.Event) -> None:
        first = True
        while not stopping.is_set():
            place = await self._place(stopping)
            if place is None:
                return
            async with self._site(*place) as site:
                while not stopping.is_set() and self._endpoint_of(self._pool) is not None and not self._moved(site):
                    # A runner that starts replaces its predecessor; one that was replaced must not fight back.
                    taking = self._lease.take(partial(self._report, site), wait_for_holder=not first)
                    await _first(taking, stopping.wait())
                    first = False
                    await self._tenure(site, stopping)

    async def _place(self, stopping: asyncio.Event) -> tuple[GPUPool, Endpoint] | None:
        """The pool and our endpoint in it, once they exist; None where the runner stops before."""
        told = ""
        await _first(self._looked.wait(), stopping.wait(), asyncio.sleep(ANSWER_SECONDS))
        if not self._looked.is_set():
            log.warning("Waiting, because the API server does not answer.")
            await _first(self._looked.wait(), stopping.wait())
        while not stopping.is_set():
            self._news.clear()
            endpoint = self._endpoint_of(self._pool)
            if self._pool is not None and endpoint is not None:
                return self._pool, endpoint
            waiting = (
                f"the GPUPool {self._options.pool} has no endpoint called {self._options.replica}"
                if self._pool
                else f"there is no GPUPool called {self._options.pool}"
            )
            if waiting != told:
                log.warning("Waiting, because %s.", waiting)
                told = waiting
            await _first(self._news.wait(), stopping.wait())
        return None

    @asynccontextmanager
    async def _site(self, pool: GPUPool, endpoint: Endpoint) -> AsyncIterator[Site]:
        options = self._options
        triton = Triton(endpoint.url)
        slots = Slots(endpoint.max_jobs)
        serving = Serving(
            triton,
            self._clock,
            self._metrics,
            model_repository=options.model_repository,
            repository=options.repository,
            device="cpu" if pool.spec.accelerator == CPU else "gpu",
            replica=ReplicaSettings(
                control_dir=str((options.repository / ".control").resolve()),
                max_sequences=endpoint.max_jobs + SPARE_SEQUENCES,
            ),
            memory_bytes=options.memory_bytes,
            changed=self._lease.report_changed,
        )
        store = PoolStore(
            self._kube, options.namespace, pool.spec.store, self._metrics, changed=self._lease.report_changed
        )
        buffers = FrameBuffers(triton, options.pool, options.replica)
        site = Site(pool, endpoint, triton, serving, buffers, store, slots)
        tasks = [
            asyncio.create_task(serving.run()),
            asyncio.create_task(store.run()),
            asyncio.create_task(self._configure(site)),
        ]
        for task in tasks:
            task.add_done_callback(self._never_ends)
        self._site_now = site
        try:
            yield site
        finally:
            self._site_now = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await serving.close()
            await buffers.close()
            await triton.close()

    def _never_ends(self, task: asyncio.Task[None]) -> None:
        """A task that should go on for ever has met an error that it does not know: the runner ends, and says so."""
        if not task.cancelled() and not self._broken.done() and (error := task.exception()):
            self._broken.set_exception(error)

    async def _configure(self, site: Site) -> None:
        """Follow the pool and the models, for ever."""
        while True:
            self._news.clear()
            if self._pool is not None:
                names = self._pool.spec.models
                site.serving.want({name: self._models[name] for name in names if name in self._models})
            endpoint = self._endpoint_of(self._pool)
            slots = endpoint.max_jobs if endpoint else 0
            await site.slots.resize(slots)
            self._metrics.slots(slots)
            self._lease.report_changed()
            await self._news.wait()

    async def _tenure(self, site: Site, stopping: asyncio.Event) -> None:
        """Hold the replica until it is lost, moved, or left."""
        assignments = Assignments(lambda job, stop: self._attempt(site, job, stop), site.slots, self._metrics.active)
        keeping = asyncio.create_task(
            self._lease.keep(partial(self._report, site), lambda: self._drain(assignments, self._lease.drain_reason))
        )
        working = asyncio.create_task(self._work(site, assignments))
        leaving = asyncio.create_task(self._left(site, stopping))
        try:
            await asyncio.wait({keeping, working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and not keeping.done():
                self._stopping = stopping.is_set()
                self._lease.report_changed()
                self._drain(assignments, "the runner stops")
                finished = assignments.finish(self._options.drain_seconds + STOP_SECONDS)
                await _first(finished, asyncio.shield(keeping))
            for task in (keeping, working):
                if task.done():
                    task.result()
        except LeaseLostError as lost:
            log.warning("All jobs are stopped, because %s.", lost)
        finally:
            assignments.lose("the replica is lost")
            for task in (working, leaving):
                task.cancel()
            await assignments.finish(STOP_SECONDS)
            keeping.cancel()
            if self._stopping:
                await self._lease.leave()
            await asyncio.gather(keeping, working, leaving, return_exceptions=True)

    async def _work(self, site: Site, assignments: Assignments) -> None:
        namespace = site.pool.spec.operator_namespace  # With one, this runner has no right to read another's jobs.
        await self._hand_back_leftovers(site, namespace)
        async for event in self._kube.watch(VIDEO_JOBS, namespace, fieldSelector=self._selector):
            assignments.see(event)

    async def _left(self, site: Site, stopping: asyncio.Event) -> None:
        """Returns when the replica is to be left: SIGTERM, or an endpoint that is somewhere else now."""
        while not stopping.is_set() and not self._moved(site):
            await _first(stopping.wait(), asyncio.sleep(1))

    def _moved(self, site: Site) -> bool:
        """Whether the pool is another one, or the endpoint elsewhere or much larger, than when the site was entered."""
        if self._pool is None or (endpoint := self._endpoint_of(self._pool)) is None:
            return False
        # Models are loaded with a limit of sequences.
        more = endpoint.max_jobs >= site.endpoint.max_jobs + SPARE_SEQUENCES
        return more or endpoint.url != site.endpoint.url or self._pool.metadata.uid != site.pool.metadata.uid

    def _drain(self, assignments: Assignments, reason: str) -> None:
        if self._stopping:
            reason = "the runner stops"
        assignments.drain(reason, self._options.drain_seconds)

    async def _attempt(self, site: Site, job: VideoJob, stop: Stop) -> None:
        services = Services(
            kube=self._kube,
            clock=self._clock,
            metrics=self._metrics,
            triton=site.triton,
            serving=site.serving,
            buffers=site.buffers,
            store=site.store,
            checkpoints=self._checkpoints,
            accelerators=site.pool.spec.accelerators_per_replica,
            ready_seconds=self._options.ready_seconds,
            may_write=lambda: self._lease.held,
        )
        owner = Owner(self._options.pool, self._options.replica, job.status.attempts)
        if job.status.resolved is not None:  # The operator writes it with the first assignment.
            await Attempt(services, job, job.status.resolved, owner, stop).run()

    async def _hand_back_leftovers(self, site: Site, namespace: str | None) -> None:
        """Give back the jobs that the replica still holds, and free what they hold on the server."""
        listing = None
        async for attempt in _patiently():
            with attempt:
                listing = await self._kube.list(VIDEO_JOBS, namespace, fieldSelector=self._selector)
        jobs = [VideoJob.model_validate(item) for item in (listing or {}).get("items", [])]
        await asyncio.gather(*(self._end_sequence(site, job) for job in jobs))
        await site.buffers.sweep()
        for job in jobs:
            await self._hand_back(job)

    async def _hand_back(self, job: VideoJob) -> None:
        meta, status = job.metadata, job.status
        now = self._clock.now()
        if status.assignment is not None and status.assignment.release:
            new = transitions.released(status, reason=status.assignment.release, now=now, generation=meta.generation)
        else:
            new = transitions.waiting(
                status,
                reason=Reason.REPLICA_LOST,
                message=f"The runner of replica {self._options.replica} was restarted; finished chunks are kept.",
                now=now,
                generation=meta.generation,
            )
        operations = status_patch(
            attempt_fence(status.attempts, self._options.pool, self._options.replica), status, new
        )
        with about(meta.uid, meta.namespace, meta.name, status.attempts):
            try:
                async for attempt in _patiently():
                    with attempt:
                        await self._kube.json_patch(VIDEO_JOBS, meta.name, operations, meta.namespace, "status")
                log.info("%s/%s was handed back.", meta.namespace, meta.name)
            except KubeError as error:
                if not (error.conflict or error.not_found):
                    raise

    async def _end_sequence(self, site: Site, job: VideoJob) -> None:
        identity = correlation_id(job)
        with suppress(TritonGoneError, TritonRefusedError):
            if not await site.triton.model_ready(model_name(job.spec.model, "video_chunk")):
                return
            await site.triton.cancel(identity)
            stream = site.triton.stream(job.spec.model, identity)
            await stream.end(END_SECONDS)
            await stream.close()

    def _report(self, site: Site) -> ReplicaReport:
        return ReplicaReport(
            slots=site.slots.size,
            memory_bytes=self._options.memory_bytes,
            draining=self._stopping or bool(self._lease.drain_reason),
            models=site.serving.report(),
            store_error=site.store.error,
            triton_error=site.serving.error,
        )

    @property
    def _selector(self) -> str:
        return f"status.assignment.pool={self._options.pool},status.assignment.replica={self._options.replica}"

    def _endpoint_of(self, pool: GPUPool | None) -> Endpoint | None:
        return pool.spec.endpoint(self._options.replica) if pool else None

    async def _watch_pool(self) -> None:
        async for event in self._kube.watch(GPU_POOLS, fieldSelector=f"metadata.name={self._options.pool}"):
            if isinstance(event, Listing):
                self._pool = GPUPool.model_validate(event.items[0]) if event.items else None
            else:
                self._pool = None if event.type == "DELETED" else GPUPool.model_validate(event.object)
            self._looked.set()
            self._news.set()

    async def _watch_models(self) -> None:
        async for event in self._kube.watch(VIDEO_MODELS):
            if isinstance(event, Listing):
                self._models = {}
                for item in event.items:
                    self._see_model(item)
            elif event.type == "DELETED":
                self._models.pop(event.object["metadata"]["name"], None)
            else:
                self._see_model(event.object)
            self._news.set()

    def _see_model(self, item: dict[str, Any]) -> None:
        try:
            self._models[item["metadata"]["name"]] = VideoModel.model_validate(item)
        except ValidationError as error:
            log.warning("The VideoModel %s cannot be read, and is not served: %s", item["metadata"]["name"], error)


def _patiently() -> AsyncRetrying:
    """Tries again for ever what may pass: the caller is stopped when the Lease is lost."""
    return AsyncRetrying(
        wait=wait_exponential_jitter(0.2, 5.0),
        retry=retry_if_exception(lambda error: isinstance(error, KubeError) and error.transient),
    )


async def _first(*waits: Awaitable[object]) -> None:
    """Wait until one of them is done, and cancel the others. An error of one that is done is raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
