"""What is seen on the way: by watches, by requests, and by the intake."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from videojob.api.videojob import VideoJob
from videojob.controller.audit import Audit
from videojob.controller.events import Recorder
from videojob.controller.intake import Intake
from videojob.controller.metrics import OperatorMetrics
from videojob.controller.pool_effects import REPLICA_SELECTOR
from videojob.controller.shell import silence
from videojob.kube.answers import identified
from videojob.kube.client import VIDEO_JOBS, Json, KubeClient, KubeError, ResourceKind
from videojob.kube.paging import pages
from videojob.kube.watch import Listing, Watch, WatchTiming
from videojob.planner.liveness import Contact

UNREADABLE = "Unreadable"
"""Reason of the Event on a job that cannot be read."""


class Calls(list[Callable[[], None]]):
    """What is to be called when something happens: those that are called may be made after the caller."""

    def __call__(self) -> None:
        """Call all, in their order."""
        for call in self:
            call()


class Answers:
    """How requests end, for the judgement of heartbeats: an operator that is blind sees no replica die."""

    def __init__(self, contact: Contact, monotonic: Callable[[], float]) -> None:
        self._contact = contact
        self._monotonic = monotonic

    def answered(self) -> None:
        """The API server answered, be it with a refusal."""
        self._contact.answered(self._monotonic())

    def failed(self) -> None:
        """It did not answer, or something else answered in its place."""
        self._contact.failed()


class _Subject(NamedTuple):
    namespace: str
    name: str
    uid: str


class Reports:
    """Passes on what the intake observes."""

    def __init__(self, metrics: OperatorMetrics, recorder: Recorder) -> None:
        self._metrics = metrics
        self._recorder = recorder

    def ended(self, job: VideoJob) -> None:
        """A job has come to its end."""
        self._metrics.ended(job)

    def cold_started(self, pool: str, seconds: float) -> None:
        """A pod of the pool took so long from its creation to being ready."""
        self._metrics.cold_started(pool, seconds)

    def unreadable(self, kind: ResourceKind, metadata: Json, why: str) -> None:
        """A new version of an object cannot be read."""
        parts = [metadata.get(key) for key in ("namespace", "name", "uid")]
        if kind is VIDEO_JOBS and all(isinstance(part, str) for part in parts):
            message = f"This version of the job cannot be read, and nothing is decided on it: {why}."
            self._recorder.post(_Subject(*map(str, parts)), "Warning", UNREADABLE, message)


class Follower:
    """Follows a kind by a watch of our own client; what it brings goes into the book."""

    def __init__(
        self, client: KubeClient, kind: ResourceKind, namespace: str | None, intake: Intake, metrics: OperatorMetrics
    ) -> None:
        self._client = client
        self.kind = kind
        self._namespace = namespace
        self._intake = intake
        self._metrics = metrics
        self._watch: Watch | None = None

    @property
    def proved(self) -> Mapping[ResourceKind, float]:
        """When the watch last proved itself, on the monotonic clock."""
        return {self.kind: self._watch.proved if self._watch is not None else -inf}

    async def run(self) -> None:
        """Follow, until cancelled."""
        self._watch = self._begin()
        first = True
        async for seen in self._watch:
            if isinstance(seen, Listing):
                if not first:
                    self._metrics.watch_reconnects.labels(self.kind.plural).inc()
                first = False
                self._listed(seen.items)
            else:
                self._metrics.watch_events.labels(self.kind.plural, seen.type).inc()
                self._intake.apply(self.kind, seen.object, deleted=seen.type == "DELETED")

    def _begin(self) -> Watch:
        raise NotImplementedError

    def _listed(self, items: Sequence[Json]) -> None:
        raise NotImplementedError

    def _failed(self, error: KubeError) -> None:
        self._metrics.watch_failures.labels(self.kind.plural, str(error.code)).inc()


class ReplicaFollower(Follower):
    """Follows what replicas consist of: Leases, pods or Deployments.

    That is not kopf's: it watches one set of namespaces, and these kinds are in every one.
    """

    async def load(self) -> None:
        """Know all that there are. Raises KubeError."""
        found = await self._client.list(self.kind, self._namespace, labelSelector=REPLICA_SELECTOR)
        self._intake.restore(self.kind, found.get("items") or [])

    def _begin(self) -> Watch:
        return self._client.watch(self.kind, self._namespace, failed=self._failed, labelSelector=REPLICA_SELECTOR)

    def _listed(self, items: Sequence[Json]) -> None:
        self._intake.restore(self.kind, items)


class JobFollower(Follower):
    """Follows VideoJobs: there are too many of them, and too many changes, for kopf (docs/decisions/0009)."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str | None,
        intake: Intake,
        metrics: OperatorMetrics,
        monotonic: Callable[[], float],
    ) -> None:
        super().__init__(client, VIDEO_JOBS, namespace, intake, metrics)
        self._monotonic = monotonic

    def healthy(self) -> str | None:
        """What is wrong with the watch, as a sentence; None while it has proved itself lately."""
        trouble = self._watch.trouble if self._watch is not None else None
        return silence(self.kind, self.proved[self.kind], self._monotonic(), WatchTiming.stall, trouble or "")

    def _begin(self) -> Watch:
        return self._client.watch(self.kind, self._namespace, failed=self._failed, list_all=self._list)

    def _listed(self, items: Sequence[Json]) -> None:
        """Nothing is left to do: they were taken in page by page."""

    async def _list(self) -> Json:
        """Take in all jobs, and forget those that were known before and are not there. Raises KubeError."""
        before = set(self._intake.known(self.kind))
        there: set[str] = set()
        complete, version = True, None
        async for items, metadata in pages(self._client, self.kind, self._namespace):
            version = metadata.get("resourceVersion")
            for body in items:
                if not identified(body):
                    complete = False
                    continue
                there.add(body["metadata"]["uid"])
                self._metrics.watch_events.labels(self.kind.plural, "LISTED").inc()
                self._intake.apply(self.kind, body)
        for uid in before - there if complete else ():
            self._intake.forget(self.kind, uid)
        return {"metadata": {"resourceVersion": version}, "items": []}


class ShellEvents:
    """Takes in what comes through kopf."""

    def __init__(self, intake: Intake, audit: Audit, metrics: OperatorMetrics) -> None:
        self._intake = intake
        self._audit = audit
        self._metrics = metrics

    def seen(self, kind: ResourceKind, type_: str, body: Json) -> None:
        """An object was listed, added, modified or deleted."""
        self._metrics.watch_events.labels(kind.plural, type_).inc()
        self._intake.apply(kind, body, deleted=type_ == "DELETED")

    def relisted(self, kind: ResourceKind, first: bool) -> None:
        """A kind was listed, and not for the first time: what vanished meanwhile is never reported."""
        if not first:
            self._audit.soon(kind)
            self._metrics.watch_reconnects.labels(kind.plural).inc()
