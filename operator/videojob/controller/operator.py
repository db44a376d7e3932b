"""The operator as a whole: who feeds whom, and in which order it starts and stops."""

import asyncio
import logging
import random
import signal
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

from kubernetes.aio.client.configuration import Configuration
from prometheus_client import CollectorRegistry

from videojob.api.replica import COMPONENT_LABEL, REPLICA_COMPONENT
from videojob.controller.audit import Audit
from videojob.controller.cache import Cache
from videojob.controller.effects import Effects
from videojob.controller.election import Election
from videojob.controller.events import Recorder
from videojob.controller.files import Files
from videojob.controller.leases import Leases
from videojob.controller.loop import PlanningLoop
from videojob.controller.metrics import OperatorMetrics, State
from videojob.controller.pools import Pools
from videojob.controller.settings import Settings
from videojob.controller.shell import dead_watches, watch
from videojob.controller.stores import clean
from videojob.controller.summaries import Summaries
from videojob.controller.workloads import Workloads
from videojob.controller.writer import Writer
from videojob.health import serve_health, serve_metrics
from videojob.kube.client import DEPLOYMENTS, LEASES, PODS, Json, KubeClient, KubeError, Listing, ResourceKind
from videojob.planner.draining import with_pods
from videojob.planner.snapshot import Job, Snapshot

logger = logging.getLogger(__name__)

REPLICA_SELECTOR = f"{COMPONENT_LABEL}={REPLICA_COMPONENT}"

LISTING_SECONDS = 5.0
"""Objects of one listing come at shorter distances than that."""


class OperatorError(Exception):
    """The operator cannot run; the text is a sentence for people."""


class Operator:
    """One operator process."""

    def __init__(self, configuration: Configuration, settings: Settings) -> None:
        self._configuration = configuration
        self._settings = settings
        self._loaded = False
        self._identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self._metrics = OperatorMetrics(CollectorRegistry())
        self._client = KubeClient(configuration, self._metrics.api_write)
        draw = random.SystemRandom()
        self._cache = Cache(
            lambda: draw.randrange(2**32),
            self._wake,
            namespace=settings.watch_namespace,
            progressed=self._progressed,
            ended=self._metrics.ended,
        )
        self._leases = Leases(monotonic, self._wake)
        self._workloads = Workloads(self._wake, self._cold_started)
        self._pools = Pools(
            self._client,
            self._cache,
            self._workloads,
            replace(settings.pod_defaults, namespace=settings.namespace),
            self._metrics,
            self._snapshot,
            leading=self._leading,
            monotonic=monotonic,
            pause_seconds=settings.scaling_seconds,
        )
        self._metrics.registry.register(State(self._cache, self._leases, lambda: self._loop.age))
        self._election = Election(
            self._client,
            settings.namespace,
            self._identity,
            lease_seconds=settings.lease_seconds,
            renew_deadline_seconds=settings.renew_deadline_seconds,
            renew_seconds=settings.renew_seconds,
            monotonic=monotonic,
            started=self._started_leading,
            stopped=self._stopped_leading,
        )
        self._recorder = Recorder(self._client, self._identity, monotonic, self._metrics.events_dropped)
        self._files = Files(
            self._client,
            self._cache,
            settings.namespace,
            clean=clean,
            monotonic=monotonic,
            patience_seconds=settings.store_patience_seconds,
            try_seconds=settings.purge_seconds,
            orphan_limit=settings.orphan_limit,
            retry_seconds=settings.orphan_retry_seconds,
            orphans=self._metrics.orphans,
        )
        self._writer = Writer(
            self._client,
            self._cache,
            Effects(self._client, self._cache, self._files, self._recorder, self._metrics),
            leading=self._leading,
            finished=self._wake,
            monotonic=monotonic,
            writes=settings.writes_in_flight,
            purges=settings.purges_in_flight,
        )
        self._loop = PlanningLoop(
            self._snapshot,
            self._writer,
            self._metrics,
            settings,
            leading=self._leading,
            next_expiry=self._leases.next_expiry,
            monotonic=monotonic,
        )
        self._summaries = Summaries(
            self._client, self._cache, self._snapshot, self._pools.scalings, self._leading, settings.summary_seconds
        )
        self._audit = Audit(
            self._client,
            self._cache,
            self._metrics,
            namespace=settings.watch_namespace,
            pause_seconds=settings.audit_seconds,
            grace_seconds=settings.audit_grace_seconds,
        )
        self._born = monotonic()
        self._listings: dict[ResourceKind, float] = {}
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises OperatorError if it cannot run, or cannot go on."""
        try:
            await self._serve()
            await self._load()
            await self._work()
        finally:
            await self._client.close()

    async def _serve(self) -> None:
        host, health, metrics = self._settings.bind_address, self._settings.health_port, self._settings.metrics_port
        try:
            if health is not None:
                await serve_health(host, health, self._live, self._ready)
            if metrics is not None:
                await serve_metrics(host, metrics, self._metrics.registry)
        except OSError as error:
            raise OperatorError(f"A port for health or metrics cannot be used: {error.strerror or error}.") from error

    async def _load(self) -> None:
        """Know everything before the first plan; this is also where a cluster that is not set up shows."""
        server = self._configuration.host
        try:
            await self._audit.load()
        except KubeError as error:
            raise OperatorError(_load_sentence(error, server, self._settings.namespace)) from error
        for kind, restore in (
            (LEASES, self._leases.restore),
            (PODS, self._workloads.restore_pods),
            (DEPLOYMENTS, self._workloads.restore_deployments),
        ):
            try:
                found = await self._client.list(kind, self._settings.namespace, labelSelector=REPLICA_SELECTOR)
            except KubeError as error:
                raise OperatorError(_load_sentence(error, server, self._settings.namespace)) from error
            restore(found.get("items", []))
        self._loaded = True

    async def _work(self) -> None:
        """Run every part until a signal comes or one of them ends, then stop them in order."""
        stop_kopf, kopf_ready = asyncio.Event(), asyncio.Event()
        pools = asyncio.create_task(self._pools.run(), name="pools")
        parts = {pools} | {
            asyncio.create_task(coroutine, name=name)
            for name, coroutine in {
                "watch of Leases": self._watch(LEASES, self._leases.restore, self._leases.apply),
                "watch of pods": self._watch(PODS, self._workloads.restore_pods, self._workloads.apply_pod),
                "watch of Deployments": self._watch(
                    DEPLOYMENTS, self._workloads.restore_deployments, self._workloads.apply_deployment
                ),
                "planning loop": self._loop.run(),
                "leader election": self._election.run(),
                "status of pools and queues": self._summaries.run(),
                "audit": self._audit.run(),
                "orphaned files": self._files.run(self._leading),
                "events": self._recorder.run(),
                "signals": self._signalled(kopf_ready),
            }.items()
        }
        # kopf cancels, at its end, every task that began after it: the parts come first.
        kopf_task = asyncio.create_task(
            watch(self._configuration, self._seen, stop_kopf, kopf_ready, self._settings.watch_namespace),
            name="watch of videojob.dev",
        )
        ended, _ = await asyncio.wait({*parts, kopf_task}, return_when=asyncio.FIRST_COMPLETED)
        pools.cancel()  # At once: an uninstall sets them to zero while writes that are under way still end.
        await self._writer.drain(self._settings.drain_seconds)
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await self._election.release()
        stop_kopf.set()
        await asyncio.wait({kopf_task}, timeout=self._settings.drain_seconds)
        if not self._stop.is_set():
            part = next(iter(ended))
            error = None if part.cancelled() else part.exception()
            raise OperatorError(f"The {part.get_name()} ended: {error or 'it gave no reason'}") from error
        logger.info("The operator has stopped.")

    async def _signalled(self, kopf_ready: asyncio.Event) -> None:
        """Ends when SIGTERM or SIGINT came. kopf takes the signals for itself when it starts; we take them back."""
        loop = asyncio.get_running_loop()
        for wait in (None, kopf_ready.wait):
            if wait is not None:
                await wait()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop.set)
        logger.info("The operator watches %s.", self._configuration.host)
        await self._stop.wait()

    async def _watch(
        self, kind: ResourceKind, restore: Callable[[Sequence[Json]], None], apply: Callable[[Json, bool], None]
    ) -> None:
        """Follow what replicas consist of.

        That is not kopf's: it watches one set of namespaces, and these kinds are in every one.
        """
        first = True
        async for seen in self._client.watch(kind, self._settings.namespace, labelSelector=REPLICA_SELECTOR):
            if isinstance(seen, Listing):
                if not first:
                    self._metrics.watch_reconnects.labels(kind.plural).inc()
                first = False
                restore(seen.items)
            else:
                self._metrics.watch_events.labels(kind.plural, seen.type).inc()
                apply(seen.object, seen.type == "DELETED")

    def _seen(self, kind: ResourceKind, type_: str, body: Json) -> None:
        self._metrics.watch_events.labels(kind.plural, type_).inc()
        if type_ == "LISTED":
            self._listed(kind)
        self._cache.apply(kind, body, deleted=type_ == "DELETED")

    def _listed(self, kind: ResourceKind) -> None:
        """An object came with a listing. kopf tells of each object, not of the listing: one a while is a listing."""
        now = monotonic()
        before, self._listings[kind] = self._listings.get(kind), now
        if before is not None and now - before > LISTING_SECONDS:
            self._metrics.watch_reconnects.labels(kind.plural).inc()

    def _snapshot(self) -> Snapshot:
        known = self._cache.snapshot()
        return replace(
            known,
            replicas=with_pods(
                self._leases.replicas(), self._workloads.pods, known.pools, known.jobs, self._pools.leaving
            ),
            pods=dict(self._workloads.pods),
            workloads=self._pools.workloads(),
            busy=self._writer.busy,
        )

    def _wake(self) -> None:
        self._loop.wake()

    def _progressed(self, old: Job, new: Job, sharing: int) -> None:
        self._pools.progressed(old, new, sharing)

    def _cold_started(self, pool: str, seconds: float) -> None:
        self._pools.cold_started(pool, seconds)

    def _leading(self) -> bool:
        return self._election.leading

    def _started_leading(self) -> None:
        self._metrics.leader.set(1)
        self._wake()

    def _stopped_leading(self) -> None:
        self._metrics.leader.set(0)
        self._writer.stop()

    def _live(self) -> str | None:
        if self._loaded and self._loop.age > self._settings.stall_seconds:
            return f"The planning loop has not turned for {self._loop.age:.0f} s."
        if not self._audit.sound:
            return "The last audit found changes that the watches had missed."
        dead = (
            dead_watches(self._settings.watch_namespace)
            if monotonic() - self._born > self._settings.stall_seconds
            else set()
        )
        return f"Ended: {', '.join(sorted(dead))}." if dead else None

    def _ready(self) -> str | None:
        if not self._loaded:
            return "The objects of the cluster are still being read."
        dead = dead_watches(self._settings.watch_namespace)
        return f"Not started yet: {', '.join(sorted(dead))}." if dead else self._live()


def _load_sentence(error: KubeError, server: str, namespace: str) -> str:
    """What is wrong with the cluster, and what to do."""
    if error.not_found:
        return f"{server} does not know the resources of videojob.dev: apply manifests/crds first."
    if error.code in (401, 403):
        return f"{server} does not let the operator in: apply manifests/rbac and use its account ({error})."
    if error.code == 0:
        return f"The API server does not answer: {error}."
    return f"{server} cannot be read (namespace {namespace}): {error}"
