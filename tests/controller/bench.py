"""The operator's own parts around a server in memory, on one clock that a test moves."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from prometheus_client import CollectorRegistry

from tests.controller.objects import Json, Server
from tests.planner.builders import MONO, NOW
from videojob.api.videojob import VideoJob
from videojob.controller.effects import Effects
from videojob.controller.events import Recorder
from videojob.controller.files import Files
from videojob.controller.intake import Intake
from videojob.controller.leading import LeaderClient
from videojob.controller.metrics import OperatorMetrics
from videojob.controller.pool_effects import PoolEffects
from videojob.controller.stores import JobFiles, Prefix, StoreFailure
from videojob.kube.client import VIDEO_JOBS, ResourceKind
from videojob.planner.book import Book
from videojob.planner.facts import Job, Moment

PATIENCE = 300.0


@dataclass
class Leader:
    """Leads while `leading` is set."""

    leading: bool = True
    term: int = 1


@dataclass
class Observed:
    """What the intake reports."""

    jobs_ended: list[VideoJob] = field(default_factory=list)
    starts: list[tuple[str, float]] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)

    def ended(self, job: VideoJob) -> None:
        self.jobs_ended.append(job)

    def cold_started(self, pool: str, seconds: float) -> None:
        self.starts.append((pool, seconds))

    def unreadable(self, kind: ResourceKind, metadata: Json, why: str) -> None:
        self.unread.append((kind.plural, why))


@dataclass
class StoreLog:
    """Stands for `Files` and for `Stores`: what was asked of the store, in order; `failing` is what it cannot do."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    chunks: int = 0
    gives_up: str | None = None

    async def remove(self, prefix: Prefix, keep_output: bool, *, keep_closed: bool = False) -> str | None:
        self._do("remove", prefix.pool, keep_output, keep_closed)
        return self.gives_up

    async def purge(self, prefix: Prefix, keep_output: bool, keep_closed: bool) -> None:
        self._do("purge", prefix.pool, keep_output, keep_closed)

    async def close(self, prefix: Prefix, attempt: int) -> None:
        self._do("close", prefix.pool, attempt)

    async def committed(self, prefix: Prefix) -> int:
        self._do("committed", prefix.pool)
        return self.chunks

    async def sweep_later(self, prefix: Prefix, attempt: int, not_before: datetime) -> None:
        self._do("sweep_later", prefix.pool, attempt, not_before)

    async def purge_later(self, prefix: Prefix, not_before: datetime) -> None:
        self._do("purge_later", prefix.pool, not_before)

    def _do(self, name: str, *values: Any) -> None:
        if name in self.failing:
            raise StoreFailure("it does not answer")
        self.calls.append((name, *values))


@dataclass
class Posted:
    """Stands for the Recorder: Events that were posted, as type and reason."""

    events: list[tuple[str, str]] = field(default_factory=list)

    def post(self, job: object, type_: str, reason: str, message: str) -> None:
        self.events.append((type_, reason))


class Bench:
    """A book with its intake and effects."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.changes = 0
        self.server = Server()
        self.book = Book()
        self.leader = Leader()
        self.observed = Observed()
        self.store = StoreLog()
        self.posted = Posted()
        self.metrics = OperatorMetrics(CollectorRegistry())
        self.intake = Intake(
            self.book, self.observed, changed=self._changed, clock=self.clock, draw_seed=lambda: 7, namespace=None
        )
        self.effects = Effects(
            self.intake,
            cast("Files", self.store),
            cast("JobFiles", self.store),
            PoolEffects(self.book, self.intake, self.metrics, "videojob-system", lambda: self.clock().mono),
            cast("Recorder", self.posted),
            self.metrics,
            clock=self.clock,
            patience_seconds=PATIENCE,
        )

    def _changed(self) -> None:
        self.changes += 1

    def clock(self) -> Moment:
        return Moment(NOW + timedelta(seconds=self.seconds), MONO + self.seconds)

    @property
    def api(self) -> LeaderClient:
        return LeaderClient(self.server, self.leader)

    def see(self, kind: ResourceKind, body: Json) -> None:
        """The object is in the server and was seen."""
        self.intake.apply(kind, self.server.put(kind, body))

    def job(self, body: Json) -> Job:
        """The job is in the server and was seen; as the book has it."""
        self.see(VIDEO_JOBS, body)
        return self.book.jobs[body["metadata"]["uid"]]

    def status(self, uid: str = "a") -> Json:
        """The job's status in the server."""
        return cast("Json", self.server.read(VIDEO_JOBS, uid)["status"])

    def condition(self, type_: str, uid: str = "a") -> Json:
        """A condition of the job in the server."""
        return next(one for one in self.status(uid)["conditions"] if one["type"] == type_)
