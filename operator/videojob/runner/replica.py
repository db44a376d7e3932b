"""A replica's life: tenures, each from taking its Lease to losing or leaving it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from videojob.api.gpupool import CPU, Endpoint, GPUPool
from videojob.api.replica import ModelState, ReplicaReport
from videojob.api.videojob import VideoJob
from videojob.api.videomodel import VideoModel
from videojob.kube.client import GPU_POOLS, VIDEO_JOBS, VIDEO_MODELS, KubeClient, KubeError
from videojob.kube.watch import Listing, Watch
from videojob.runner.accounting import Checkpoints
from videojob.runner.assignments import Assignments, Work
from videojob.runner.attempt import Attempt
from videojob.runner.buffers import FrameBuffers
from videojob.runner.clock import Clock
from videojob.runner.hold import LeaseLostError, Standing
from videojob.runner.judge import Judge
from videojob.runner.kept import keep
from videojob.runner.lease import Lease
from videojob.runner.leftovers import Leftovers
from videojob.runner.loader import Loader
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.options import Options
from videojob.runner.patience import FLOOR_SECONDS
from videojob.runner.pipeline import FLUSH_SECONDS
from videojob.runner.pool_store import PoolStore
from videojob.runner.readable import Readable
from videojob.runner.services import Site
from videojob.runner.serving import Serving
from videojob.runner.signals import first_of
from videojob.runner.slots import Slots
from videojob.runner.status import Owner
from videojob.runner.triton import Triton
from videojob.triton.settings import ReplicaSettings

log = logging.getLogger(__name__)

STOP_SECONDS = FLOOR_SECONDS + FLUSH_SECONDS + 10
"""For a job to stop and write its status."""
RIGHTS_SECONDS = 8.0
"""For an API server that refuses at first to take it back."""
ANSWER_SECONDS = 10.0
"""Silence of the API server after which a warning is logged."""
SPARE_SEQUENCES = 2
"""Sequences beyond the slots whose state a stage keeps: of attempts that are just ending."""


class RefusedError(Exception):
    """The API server refuses what the runner cannot begin without; the text is its sentence."""


class ReplicaRunner:
    """One replica of a pool, as run by this process."""

    def __init__(self, options: Options, kube: KubeClient, clock: Clock, metrics: RunnerMetrics, identity: str) -> None:
        self._options = options
        self._identity = identity
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
            cut_off_seconds=options.cut_off_seconds,
            pod_uid=options.pod_uid,
        )
        self._checkpoints = Checkpoints()
        metrics.heartbeat(lambda: self._lease.hold.age)
        metrics.checkpoints(lambda: self._checkpoints.age(clock.monotonic()))
        self._pools = Readable(GPU_POOLS, GPUPool, metrics)
        self._models = Readable(VIDEO_MODELS, VideoModel, metrics)
        self._looked = asyncio.Event()
        self._news = asyncio.Event()
        self._stopping = False
        self._leaving = ""
        """Why all jobs are handed back before the replica is left, if so."""
        self._site_now: Site | None = None
        self._assignments: Assignments | None = None
        self._jobs: Watch | None = None
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def _pool(self) -> GPUPool | None:
        return self._pools.objects.get(self._options.pool)

    def live(self) -> str | None:
        """What is wrong with this process, so that only a restart helps; that somebody else is silent is not."""
        return "The loop that renews the Lease hangs." if self._lease.stalled else None

    def ready(self) -> str | None:
        """Why no job can be made here now, if so."""
        if self._lease.hold.standing is Standing.LOST:
            return "The replica's Lease is not held."
        site = self._site_now
        if site is None or not any(model.state is ModelState.READY for model in site.serving.report()):
            return "No model is loaded."
        return site.judge.error or None

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until `stopping` is set, then hand back all jobs.

        Raises RefusedError where it may not read its pool at first, and errors that are not known and come again and
        again.
        """
        watches = [
            asyncio.create_task(self._keep("pools", self._watch_pools, RefusedError)),
            asyncio.create_task(self._keep("models", self._watch_models)),
        ]
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
                    await first_of(taking, stopping.wait())
                    first = False
                    await self._tenure(site, stopping)

    async def _place(self, stopping: asyncio.Event) -> tuple[GPUPool, Endpoint] | None:
        """The pool and our endpoint in it, once they exist; None where the runner stops before."""
        logged = ""
        await first_of(self._looked.wait(), stopping.wait(), asyncio.sleep(ANSWER_SECONDS))
        if not self._looked.is_set():
            log.warning("Waiting, because the API server does not show the GPUPool.")
            await first_of(self._looked.wait(), stopping.wait())
        while not stopping.is_set():
            self._news.clear()
            endpoint = self._endpoint_of(self._pool)
            if self._pool is not None and endpoint is not None:
                return self._pool, endpoint
            if self._pool is not None:
                waiting = f"the GPUPool {self._options.pool} has no endpoint called {self._options.replica}"
            elif self._options.pool in self._pools.unreadable:
                waiting = f"the GPUPool {self._options.pool} cannot be read"
            else:
                waiting = f"there is no GPUPool called {self._options.pool}"
            if waiting != logged:
                log.warning("Waiting, because %s.", waiting)
                logged = waiting
            await first_of(self._news.wait(), stopping.wait())
        return None

    @asynccontextmanager
    async def _site(self, pool: GPUPool, endpoint: Endpoint) -> AsyncIterator[Site]:
        options = self._options
        triton = Triton(endpoint.url, self._identity, self._clock.monotonic)
        loader = Loader(
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
            permission=self._lease.hold,
        )
        serving = Serving(
            triton,
            loader,
            self._clock,
            self._metrics,
            memory_bytes=options.memory_bytes,
            changed=self._lease.report_changed,
        )
        store = PoolStore(
            self._kube, options.namespace, pool.spec.store, self._metrics, changed=self._lease.report_changed
        )
        buffers = FrameBuffers(triton, options.pool, options.replica)
        judge = Judge(self._clock.monotonic, self._metrics)
        site = Site(
            kube=self._kube,
            clock=self._clock,
            metrics=self._metrics,
            triton=triton,
            serving=serving,
            judge=judge,
            buffers=buffers,
            store=store,
            checkpoints=self._checkpoints,
            accelerators=pool.spec.accelerators_per_replica,
            ready_seconds=options.ready_seconds,
            permission=self._lease.hold,
            pool=pool,
            endpoint=endpoint,
            slots=Slots(endpoint.max_jobs),
        )
        judge.unwell = lambda: self._unwell(site)
        tasks = [
            asyncio.create_task(self._keep("triton", serving.run)),
            asyncio.create_task(self._keep("store", store.run)),
            asyncio.create_task(self._keep("site", lambda: self._configure(site))),
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
        """A task that should go on for ever has failed again and again: the runner ends, with that error."""
        if not task.cancelled() and not self._broken.done() and (error := task.exception()):
            self._broken.set_exception(error)

    async def _configure(self, site: Site) -> None:
        """Follow the pool and the models, for ever."""
        while True:
            self._news.clear()
            if self._pool is not None:
                site.store.use(self._pool.spec.store)
                models = self._models.objects
                site.serving.want({name: models[name] for name in self._pool.spec.models if name in models})
            endpoint = self._endpoint_of(self._pool)
            slots = endpoint.max_jobs if endpoint else 0
            site.slots.resize(slots)
            self._metrics.slots(slots)
            self._lease.report_changed()
            await self._news.wait()

    async def _tenure(self, site: Site, stopping: asyncio.Event) -> None:
        """Hold the replica until it is lost, moved, or left."""
        assignments = Assignments(
            partial(self._attempt, site), site.slots, self._metrics, changed=self._lease.report_changed
        )
        self._assignments = assignments
        renew = partial(self._lease.keep, partial(self._report, site), lambda: self._drain(site))
        keeping = asyncio.create_task(self._keep("lease", renew, LeaseLostError))
        working = asyncio.create_task(self._work(site, assignments))
        leaving = asyncio.create_task(self._left(site, stopping))
        try:
            await asyncio.wait({keeping, working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and not keeping.done():
                self._stopping = stopping.is_set()
                self._leaving = "the runner stops" if self._stopping else "the endpoint is elsewhere now"
                self._lease.report_changed()
                self._drain(site)
                finished = assignments.finish(self._options.drain_seconds + STOP_SECONDS)
                await first_of(finished, asyncio.shield(keeping))
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
            self._leaving = ""

    async def _work(self, site: Site, assignments: Assignments) -> None:
        namespace = site.pool.spec.operator_namespace  # With one, this runner has no right to read another's jobs.
        leftovers = Leftovers(
            kube=self._kube,
            clock=self._clock,
            metrics=self._metrics,
            triton=site.triton,
            buffers=site.buffers,
            pool=self._options.pool,
            replica=self._options.replica,
            cut_off_seconds=0 if self._options.pod_uid else self._options.cut_off_seconds,  # In a pod it has ended.
        )
        site.triton.claim_number = max(site.triton.claim_number, self._lease.order)
        await self._keep("claim", site.serving.claim)
        await self._keep("leftovers", lambda: leftovers.hand_back(namespace, self._selector))
        await self._keep("jobs", lambda: self._watch_jobs(namespace, assignments))

    async def _watch_jobs(self, namespace: str | None, assignments: Assignments) -> None:
        self._jobs = self._kube.watch(VIDEO_JOBS, namespace, fieldSelector=self._selector)
        try:
            async for event in self._jobs:
                assignments.see(event)
                if isinstance(event, Listing):
                    self._lease.report_changed()
        finally:
            self._jobs = None

    async def _left(self, site: Site, stopping: asyncio.Event) -> None:
        """Returns when the replica is to be left: SIGTERM, or an endpoint that is somewhere else now."""
        while not stopping.is_set() and not self._moved(site):
            await first_of(stopping.wait(), asyncio.sleep(1))

    def _moved(self, site: Site) -> bool:
        """Whether the pool is another one, or the endpoint elsewhere or much larger, than when the site was entered."""
        if self._pool is None or (endpoint := self._endpoint_of(self._pool)) is None:
            return False
        # Models are loaded with a limit of sequences.
        more = endpoint.max_jobs >= site.endpoint.max_jobs + SPARE_SEQUENCES
        return more or endpoint.url != site.endpoint.url or self._pool.metadata.uid != site.pool.metadata.uid

    def _drain(self, site: Site) -> None:
        if self._assignments is not None:
            reason = self._leaving or self._lease.drain_reason or site.judge.error
            self._assignments.drain(reason, self._options.drain_seconds)

    def _unwell(self, site: Site) -> None:
        self._drain(site)
        site.serving.renew()  # The report changes with it.

    async def _attempt(self, site: Site, job: VideoJob, work: Work) -> None:
        owner = Owner(self._options.pool, self._options.replica, job.status.attempts)
        if job.status.resolved is not None:  # The operator writes it with the first assignment.
            await Attempt(site, job, job.status.resolved, owner, work.stop, work.generation, work.free_slot).run()

    def _report(self, site: Site) -> ReplicaReport:
        return ReplicaReport(
            slots=site.judge.room(site.slots.size),
            memory_bytes=self._options.memory_bytes,
            draining=bool(self._leaving or self._lease.drain_reason),
            models=site.serving.report(),
            store_error=site.store.error,
            triton_error=site.serving.error,
            accelerator_error=site.judge.error,
            jobs_error=((self._jobs.blind or "") if self._jobs else "they were not listed yet")[:512],
            jobs=self._assignments.held if self._assignments else (),
            cut_off_seconds=self._options.cut_off_seconds,
        )

    @property
    def _selector(self) -> str:
        return f"status.assignment.pool={self._options.pool},status.assignment.replica={self._options.replica}"

    def _endpoint_of(self, pool: GPUPool | None) -> Endpoint | None:
        return pool.spec.endpoint(self._options.replica) if pool else None

    async def _watch_pools(self) -> None:
        """An API server that has just started knows no rights yet: one that refuses is asked again for a while."""
        began = self._clock.monotonic()
        while True:
            try:
                async for event in self._kube.watch(
                    GPU_POOLS, must_start=True, fieldSelector=f"metadata.name={self._options.pool}"
                ):
                    self._pools.see(event)
                    self._looked.set()
                    self._news.set()
            except KubeError as error:
                if self._looked.is_set():
                    raise
                if self._clock.monotonic() - began >= RIGHTS_SECONDS:
                    raise RefusedError(str(error)) from error
                await asyncio.sleep(1)

    async def _watch_models(self) -> None:
        await self._looked.wait()  # Without rights it is refused once, not twice.
        async for event in self._kube.watch(VIDEO_MODELS):
            self._models.see(event)
            self._news.set()

    def _keep(
        self, name: str, work: Callable[[], Awaitable[None]], *passing: type[Exception]
    ) -> Coroutine[Any, Any, None]:
        return keep(name, work, self._metrics, passing=passing, monotonic=self._clock.monotonic)
