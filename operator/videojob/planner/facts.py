"""What the operator knows of single objects, as frozen values: slim, without what no decision needs."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from videojob.api import FINALIZER
from videojob.api.drift import DriftPolicy
from videojob.api.replica import ReplicaReport
from videojob.api.videojob import Assignment, EarlierStore, Phase, Resolved
from videojob.families import Memory

EPOCH = datetime.fromtimestamp(0, UTC)


class Moment(NamedTuple):
    """Now, on both clocks: what the API says is in wall time, what was seen is judged in monotonic time."""

    wall: datetime
    mono: float
    """Seconds of the operator's monotonic clock."""


class QueueKey(NamedTuple):
    """A VideoQueue's place in the API."""

    namespace: str
    name: str


class ReplicaKey(NamedTuple):
    """A replica's place: names of a pool's replicas are unique in the pool only."""

    pool: str
    name: str


class WantedShot(NamedTuple):
    """A shot as it was asked for, without what planning does not need."""

    seconds: float
    memory: Memory | None = None
    seed: int | None = None
    images: int = 0
    """How many it has: the first frame, and the last one as well."""


@dataclass(frozen=True, slots=True)
class Job:
    """A VideoJob without what planning does not need: no prompt, no timing, no cost."""

    uid: str
    namespace: str
    name: str
    created: datetime
    queue: str
    model: str
    shots: tuple[WantedShot, ...]
    """1 or more."""
    seed: int
    """The one asked for or, where the spec has none, one drawn beforehand: a plan is the same for the same snapshot."""
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    adapters: tuple[str, ...] = ()
    drift_policy: DriftPolicy = DriftPolicy.REPORT
    priority: int = 0
    suspend: bool = False
    cancel: bool = False
    deleted: bool = False
    """Kubernetes waits for finalizers to go."""
    finalizers: tuple[str, ...] = ()
    retain_output: bool = True
    """The MP4 of a succeeded job outlives the job."""
    backoff_limit: int = 3
    active_deadline_seconds: int | None = None
    ttl_seconds_after_finished: int | None = None

    phase: Phase = Phase.PENDING
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    """Replicas that were lost while they held it."""
    hand_backs: int = 0
    """In a row, because of store or Triton, without progress."""
    reason: str = ""
    """Reason of the condition Assigned: why the job waits, while it does."""
    message: str = ""
    since: datetime = EPOCH
    """When the condition Assigned last changed its status: when the job left its last replica, while it waits."""
    assignment: Assignment | None = None
    failed_on: ReplicaKey | None = None
    """The replica that it last failed on."""
    pool: str | None = None
    """Pool of the last assignment."""
    resolved: Resolved | None = None
    store_uri: str | None = None
    chunks_done: int = 0
    running_seconds: float = 0.0
    """Wall time on replicas until the last chunk that was reported."""
    start_time: datetime | None = None
    completion_time: datetime | None = None
    cut_off_until: datetime | None = None
    """Until then a runner that was declared lost may still add files to the job's folder."""
    earlier_stores: tuple[EarlierStore, ...] = ()

    version: int = 0
    """Resource version: what a decision on a job that nobody holds is fenced by."""
    generation: int = 0
    observed_generation: int = 0
    """The oldest generation that status or one of its conditions carries."""
    status: bytes = field(default=b"", repr=False)
    """The status as JSON, which takes a tenth of the memory of objects."""

    @property
    def seconds(self) -> float:
        """Length of the video in seconds."""
        return sum(shot.seconds for shot in self.shots)

    @property
    def finalizer(self) -> bool:
        """Whether our finalizer is set."""
        return FINALIZER in self.finalizers

    @property
    def queue_key(self) -> QueueKey:
        """The queue that the job names."""
        return QueueKey(self.namespace, self.queue)

    @property
    def replica_key(self) -> ReplicaKey | None:
        """The replica that holds the job."""
        return ReplicaKey(self.assignment.pool, self.assignment.replica) if self.assignment else None

    @property
    def waits(self) -> bool:
        """No replica holds it, and it is to have one."""
        stopped = self.suspend or self.cancel or self.deleted or self.phase.finished
        return self.assignment is None and not stopped

    @property
    def lacks_finalizer(self) -> bool:
        """It has files that go when it is deleted, and nothing that holds it until they are gone."""
        if self.finalizer or self.deleted or self.store_uri is None:
            return False
        return not (self.phase is Phase.SUCCEEDED and self.retain_output)

    @property
    def deadline(self) -> datetime | None:
        """When `activeDeadlineSeconds` is over."""
        if self.start_time is None or self.active_deadline_seconds is None:
            return None
        return later(self.start_time, self.active_deadline_seconds)

    @property
    def expires(self) -> datetime | None:
        """When `ttlSecondsAfterFinished` is over."""
        if self.completion_time is None or self.ttl_seconds_after_finished is None:
            return None
        return later(self.completion_time, self.ttl_seconds_after_finished)


class Health(StrEnum):
    """What the operator knows of a replica's heartbeat. Silence is not death."""

    LIVE = "Live"
    SILENT = "Silent"
    """No renewal for a Lease's length, or none seen yet. It gets no new job, and keeps those that it has."""
    LOST = "Lost"
    """Silent for longer than the operator's own view of the API server can explain: its jobs are taken back."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as its Lease shows it."""

    report: ReplicaReport
    health: Health = Health.LIVE
    draining: bool = False
    """It was asked to hand back its jobs, or does so by itself, or its pod ends, or its pool has too many pods."""
    drain_reason: str = ""
    """Why it was asked to, where it was."""

    @property
    def live(self) -> bool:
        """Whether its heartbeat is fresh."""
        return self.health is Health.LIVE


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a pod that does not run as it should."""

    reason: str
    """As Kubernetes says: ErrImagePull, CrashLoopBackOff, OOMKilled, ..."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a pool: a replica as Kubernetes sees it."""

    uid: str
    created: datetime
    ready_since: datetime | None = None
    """Since when it counts as ready, if it does."""
    ending: bool = False
    """It was deleted, or has failed, and its replica will be gone."""
    unschedulable_since: datetime | None = None
    unschedulable: str = ""
    """Why no node takes it, in the scheduler's words."""
    waiting: Container | None = None
    """Why a container does not start."""
    restarts: int = 0
    last_exit: Container | None = None
    """Why a container ended the last time, where it was started again."""
    deletion_cost: int = 0


@dataclass(frozen=True, slots=True)
class Deployed:
    """The Deployment of a managed pool."""

    wanted: int
    generation: int = 0
    """Rises whenever anybody changes its spec."""
    owned: bool = True
    """The number of replicas is owned by this operator, and by nobody else."""
    version: int = 0


def later(moment: datetime, seconds: float) -> datetime:
    """The moment that many seconds later; the end of all time where that is beyond the calendar."""
    try:
        return datetime.fromtimestamp(moment.timestamp() + seconds, UTC)
    except (OverflowError, ValueError):
        return datetime.max.replace(tzinfo=UTC)
