"""The operator as a whole: what its parts are, and in which order they start and stop."""

import asyncio
import logging
import random
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from time import monotonic

from kubernetes.aio.client.configuration import Configuration
from prometheus_client import CollectorRegistry

from videojob.controller.audit import Audit
from videojob.controller.effects import Effects
from videojob.controller.election import Election
from videojob.controller.events import Recorder
from videojob.controller.files import Files
from videojob.controller.intake import KINDS, Intake
from videojob.controller.loop import PlanningLoop, Wake
from videojob.controller.loop_lag import LoopLag
from videojob.controller.metrics import OperatorMetrics, State, Watches
from videojob.controller.observing import Answers, Calls, JobFollower, ReplicaFollower, Reports, ShellEvents
from videojob.controller.orphans import OrphanMetrics, Orphans
from videojob.controller.parts import PartError, keep_running
from videojob.controller.pool_effects import PoolEffects, deployment_maker
from videojob.controller.rests import Rests
from videojob.controller.settings import Settings
from videojob.controller.shell import Shell
from videojob.controller.stores import Stores
from videojob.controller.writer import Writer
from videojob.health import serve_health, serve_metrics
from videojob.kube.client import DEPLOYMENTS, LEASES, PODS, VIDEO_JOBS, KubeClient, KubeError
from videojob.planner.book import Book
from videojob.planner.cycle import cycle
from videojob.planner.facts import Moment

logger = logging.getLogger(__name__)


class OperatorError(Exception):
    """The operator cannot run; the text is a sentence for people."""


def utc_now() -> datetime:
    """Now, in wall time."""
    return datetime.now(UTC)


def clock() -> Moment:
    """Now, on both clocks."""
    return Moment(utc_now(), monotonic())


class Operator:
    """One operator process."""

    def __init__(self, configuration: Configuration, settings: Settings) -> None:
        self._server = configuration.host
        self._settings = settings
        self._loaded = False
        self._stop = asyncio.Event()
        identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        draw = random.SystemRandom()
        wake = Wake(monotonic)
        metrics = self._metrics = OperatorMetrics(CollectorRegistry())
        book = self._book = Book(settings.rules)
        answers = Answers(book.liveness.contact, monotonic)
        client = self._client = KubeClient(configuration, metrics.api_write, contact=answers)
        self._recorder = Recorder(client, identity, monotonic, metrics.events_dropped)
        intake = Intake(
            book,
            Reports(metrics, self._recorder),
            changed=wake.set,
            clock=clock,
            draw_seed=partial(draw.randrange, 2**32),
            namespace=settings.watch_namespace,
        )
        stores = Stores(client, book.pools.get, settings.namespace, try_seconds=settings.purge_seconds)
        orphan_metrics = OrphanMetrics(metrics.orphans, metrics.sweeps, metrics.unreadable_orphans)
        self._files = Files(
            stores,
            Orphans(client, settings.namespace, settings.orphan_limit, orphan_metrics),
            monotonic=monotonic,
            now=utc_now,
            patience_seconds=settings.store_patience_seconds,
            retry_seconds=settings.orphan_retry_seconds,
        )
        started, stopped = Calls((metrics.leads, wake.set)), Calls((metrics.follows,))
        self._election = Election(
            client,
            settings.namespace,
            identity,
            lease_seconds=settings.lease_seconds,
            renew_deadline_seconds=settings.renew_deadline_seconds,
            renew_seconds=settings.renew_seconds,
            monotonic=monotonic,
            started=started,
            stopped=stopped,
        )
        leadership = self._election.leadership
        rests = Rests(book, monotonic)
        pools = PoolEffects(book, intake, metrics, settings.namespace, monotonic)
        self._writer = Writer(
            client,
            book,
            intake,
            Effects(
                intake,
                self._files,
                stores,
                pools,
                self._recorder,
                metrics,
                clock=clock,
                patience_seconds=settings.store_patience_seconds,
            ),
            leadership,
            rests,
            finished=wake.set,
            failed=metrics.decision_failed,
            lanes=settings.lanes,
            status_seconds=settings.status_seconds,
        )
        stopped.append(self._writer.stop)
        pod_defaults = replace(settings.pod_defaults, namespace=settings.namespace)
        self._loop = PlanningLoop(
            book,
            partial(cycle, book, deployment=deployment_maker(pod_defaults)),
            self._writer,
            rests,
            metrics,
            settings,
            wake=wake,
            leadership=leadership,
            clock=clock,
        )
        self._audit = Audit(
            client,
            intake,
            KINDS,
            namespace=settings.watch_namespace,
            pause_seconds=settings.audit_seconds,
            grace_seconds=settings.audit_grace_seconds,
            missed=metrics.missed,
            failed=metrics.audit_failed,
        )
        events = ShellEvents(intake, self._audit, metrics)
        self._shell = Shell(
            configuration,
            settings.watch_namespace,
            [kind for kind in KINDS if kind is not VIDEO_JOBS],
            events.seen,
            events.relisted,
            restarted=metrics.shell_restarted,
            signals=dict.fromkeys((signal.SIGTERM, signal.SIGINT), self._stop.set),
            contact=answers,
            monotonic=monotonic,
            draw=draw.random,
        )
        self._jobs = JobFollower(client, settings.watch_namespace, intake, metrics, monotonic)
        self._replicas = [
            ReplicaFollower(client, kind, settings.namespace, intake, metrics) for kind in (LEASES, PODS, DEPLOYMENTS)
        ]
        watches: list[Watches] = [self._shell, self._jobs, *self._replicas]
        metrics.registry.register(State(book, self._loop, watches, monotonic))

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises OperatorError if it cannot run, or cannot go on."""
        try:
            await self._serve()
            await self._load()
            await self._work()
        except* PartError as failed:
            raise OperatorError(_first(failed)) from failed
        finally:
            await self._client.close()

    async def _serve(self) -> None:
        host, health, metrics = self._settings.bind_address, self._settings.health_port, self._settings.metrics_port
        try:
            if health is not None:
                await serve_health(host, health, self._live, self._ready)
            if metrics is not None:
                await serve_metrics(host, metrics, self._metrics.registry)
                LoopLag(self._metrics.loop_lag_seconds.observe, self._metrics.loop_busy_seconds.observe).begin()
        except OSError as error:
            raise OperatorError(f"A port for health or metrics cannot be used: {error.strerror or error}.") from error

    async def _load(self) -> None:
        """Know everything before the first plan; this is also where a cluster that is not set up shows."""
        try:
            await self._audit.load()
            for follower in self._replicas:
                await follower.load()
        except KubeError as error:
            raise OperatorError(_load_sentence(error, self._server, self._settings.namespace)) from error
        self._loaded = True

    async def _work(self) -> None:
        """Run every part until a signal comes, or one of them keeps failing; then stop them in order.

        What is under way is written first, then the leader's Lease is given up, and the watches end last.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        logger.info("The operator watches %s.", self._server)
        async with asyncio.TaskGroup() as last:
            shell = last.create_task(self._part("watch of videojob.dev", self._shell.run))
            try:
                async with asyncio.TaskGroup() as parts:
                    await self._until_stopped(parts)
            finally:
                await self._writer.drain(self._settings.drain_seconds)
                await self._election.release()
            shell.cancel()
        logger.info("The operator has stopped.")

    async def _until_stopped(self, parts: asyncio.TaskGroup) -> None:
        leadership, book = self._election.leadership, self._book
        orphaned = partial(
            self._files.run,
            lambda: leadership.leading,
            # As long as a job is known, its attempts may have files in any of its stores.
            lambda namespace, uid, store_url: book.version(uid) is not None,
        )
        runs: dict[str, Callable[[], Awaitable[None]]] = {
            **{f"watch of {follower.kind.plural}": follower.run for follower in (self._jobs, *self._replicas)},
            "leader election": self._election.run,
            "planning loop": self._loop.run,
            "audit": self._audit.run,
            "orphaned files": orphaned,
            "events": self._recorder.run,
        }
        running = [parts.create_task(self._part(name, run)) for name, run in runs.items()]
        await self._stop.wait()
        await self._writer.drain(self._settings.drain_seconds)
        for part in running:
            part.cancel()

    async def _part(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        await keep_running(name, run, failed=self._metrics.part_failed, monotonic=monotonic)

    def _live(self) -> str | None:
        age = self._loop.age
        if self._loaded and age > self._settings.stall_seconds:
            return f"The planning loop has not turned for {age:.0f} s."
        return None

    def _ready(self) -> str | None:
        if not self._loaded:
            return "The objects of the cluster are still being read."
        return self._shell.healthy() or self._jobs.healthy()


def _first(failed: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = failed
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


def _load_sentence(error: KubeError, server: str, namespace: str) -> str:
    """What is wrong with the cluster, and what to do."""
    if error.not_found:
        return f"{server} does not know the resources of videojob.dev: apply manifests/crds first."
    if error.code in (401, 403):
        return f"{server} does not let the operator in: apply manifests/rbac and use its account ({error})."
    if error.code == 0:
        return f"The API server does not answer: {error}."
    return f"{server} cannot be read (namespace {namespace}): {error}"
