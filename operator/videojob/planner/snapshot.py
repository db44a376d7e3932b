"""What a plan is made from: the cluster as it is at one moment, in frozen values."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from videojob.api.gpupool import GPUPool
from videojob.api.replica import ReplicaReport
from videojob.api.videojob import Assignment, Phase, Resolved
from videojob.api.videomodel import VideoModel
from videojob.api.videoqueue import VideoQueue

EPOCH = datetime.fromtimestamp(0, UTC)


class QueueKey(NamedTuple):
    """A VideoQueue's place in the API."""

    namespace: str
    name: str


class ReplicaKey(NamedTuple):
    """A replica's place: names of a pool's replicas are unique in the pool only."""

    pool: str
    name: str


@dataclass(frozen=True, slots=True)
class Job:
    """A VideoJob without what planning does not need: no prompt, no timing, no cost."""

    uid: str
    namespace: str
    name: str
    created: datetime
    queue: str
    model: str
    seconds: float
    """Length of the video in seconds."""
    seed: int
    """The one asked for or, where the spec has none, one drawn beforehand: a plan is the same for the same snapshot."""
    width: int | None = None
    height: int | None = None
    fps: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    priority: int = 0
    suspend: bool = False
    cancel: bool = False
    deleted: bool = False
    """Kubernetes waits for finalizers to go."""
    finalizer: bool = False
    """Our finalizer is set."""
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
    reason: str = ""
    """Reason of the condition Assigned: why the job waits, while it does."""
    message: str = ""
    since: datetime = EPOCH
    """When the condition Assigned last changed its status: when the job left its last replica, while it waits."""
    assignment: Assignment | None = None
    pool: str | None = None
    """Pool of the last assignment."""
    resolved: Resolved | None = None
    store_uri: str | None = None
    chunks_done: int = 0
    running_seconds: float = 0.0
    """Wall time on replicas until the last chunk that was reported."""
    start_time: datetime | None = None
    completion_time: datetime | None = None

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
    def expires(self) -> datetime | None:
        """When `ttlSecondsAfterFinished` is over."""
        if self.completion_time is None or self.ttl_seconds_after_finished is None:
            return None
        return later(self.completion_time, self.ttl_seconds_after_finished)


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as its Lease shows it."""

    report: ReplicaReport
    live: bool
    """Its heartbeat has not expired, by the operator's own monotonic clock."""
    draining: bool = False
    """It was asked to hand back its jobs, or does so by itself, or its pod ends."""
    drain_reason: str = ""
    """Why it was asked to, where it was."""


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
class Workload:
    """The Deployment of a managed pool, and the state of its scaling."""

    wanted: int = 0
    """Replicas that the Deployment was last given."""
    refused: str = ""
    """Why the API server does not take the Deployment, if so."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cluster at one moment. Jobs of other controllers (`managedBy`) are not in it."""

    jobs: tuple[Job, ...] = ()
    """In any order. Finished jobs need be there only while they are deleted or have a time to live."""
    queues: Mapping[QueueKey, VideoQueue] = field(default_factory=dict)
    models: Mapping[str, VideoModel] = field(default_factory=dict)
    pools: Mapping[str, GPUPool] = field(default_factory=dict)
    replicas: Mapping[ReplicaKey, Replica] = field(default_factory=dict)
    pods: Mapping[ReplicaKey, Pod] = field(default_factory=dict)
    """Of managed pools; a replica is called as its pod."""
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    """By pool."""
    busy: frozenset[str] = frozenset()
    """uids of jobs that a write is under way for: they take their place, and nothing is decided on them."""


def held_jobs(jobs: Iterable[Job]) -> Counter[ReplicaKey]:
    """The jobs that each replica holds."""
    return Counter(key for job in jobs if (key := job.replica_key) is not None and not job.phase.finished)


def later(moment: datetime, seconds: float) -> datetime:
    """The moment that many seconds later; the end of all time where that is beyond the calendar."""
    try:
        return datetime.fromtimestamp(moment.timestamp() + seconds, UTC)
    except (OverflowError, ValueError):
        return datetime.max.replace(tzinfo=UTC)
