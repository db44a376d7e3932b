"""What is seen on the way: by watches of what replicas consist of, by requests, and by the intake."""

from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple

from videojob.api.videojob import VideoJob
from videojob.controller.audit import Audit
from videojob.controller.events import Recorder
from videojob.controller.intake import Intake
from videojob.controller.metrics import OperatorMetrics
from videojob.controller.pool_effects import REPLICA_SELECTOR
from videojob.kube.client import VIDEO_JOBS, Json, KubeClient, KubeError, ResourceKind
from videojob.kube.watch import Listing, Watch
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
    """Follows what replicas consist of: Leases, pods or Deployments.

    That is not kopf's: it watches one set of namespaces, and these kinds are in every one.
    """

    def __init__(
        self, client: KubeClient, kind: ResourceKind, namespace: str, intake: Intake, metrics: OperatorMetrics
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

    async def load(self) -> None:
        """Know all that there are. Raises KubeError."""
        found = await self._client.list(self.kind, self._namespace, labelSelector=REPLICA_SELECTOR)
        self._intake.restore(self.kind, found.get("items") or [])

    async def run(self) -> None:
        """Follow, until cancelled."""
        self._watch = self._client.watch(
            self.kind, self._namespace, failed=self._failed, labelSelector=REPLICA_SELECTOR
        )
        first = True
        async for seen in self._watch:
            if isinstance(seen, Listing):
                if not first:
                    self._metrics.watch_reconnects.labels(self.kind.plural).inc()
                first = False
                self._intake.restore(self.kind, seen.items)
            else:
                self._metrics.watch_events.labels(self.kind.plural, seen.type).inc()
                self._intake.apply(self.kind, seen.object, deleted=seen.type == "DELETED")

    def _failed(self, error: KubeError) -> None:
        self._metrics.watch_failures.labels(self.kind.plural, str(error.code)).inc()


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
