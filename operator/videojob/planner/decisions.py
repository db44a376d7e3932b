"""What a plan consists of: decisions as values.

A decision holds the records that it was decided on, so that whoever carries it out can fence the write with their
versions: a decision that is stale by then is refused, never carried out on something else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar, NamedTuple

from videojob.api.gpupool import GPUPool, GPUPoolStatus, LastScaling
from videojob.api.reasons import Reason
from videojob.api.videojob import Assignment, Phase, Resolved
from videojob.api.videoqueue import VideoQueue, VideoQueueStatus
from videojob.planner.facts import Deployed, Job, ReplicaKey
from videojob.planner.memory import PoolMemory


class Lane(StrEnum):
    """Decisions of one lane are carried out in their order, so many at a time; no lane waits for another."""

    JOBS = "jobs"
    WAITS = "waits"
    """Why jobs wait, and other writes that may wait themselves: there may be one for every job of the cluster."""
    FILES = "files"
    """What asks an object store, which may be slow or down."""
    POOLS = "pools"
    STATUSES = "statuses"
    """Of pools and queues."""


@dataclass(frozen=True, slots=True)
class Assign:
    """A replica gets the job; the finalizer is set first, if it is missing."""

    lane: ClassVar = Lane.JOBS
    job: Job
    replica: ReplicaKey
    resolved: Resolved
    store_uri: str


@dataclass(frozen=True, slots=True)
class Release:
    """The replica is asked to give the job back."""

    lane: ClassVar = Lane.JOBS
    job: Job
    reason: Reason


class Cause(StrEnum):
    """Why a job is taken from its replica without the replica's doing."""

    LOST = "Lost"
    """The replica has no live heartbeat."""
    UNCLAIMED = "Unclaimed"
    """The replica lives, and its reports do not name the job."""
    OVERDUE = "Overdue"
    """The replica lives, and has not honoured a release within its bound."""


@dataclass(frozen=True, slots=True)
class Reclaim:
    """The job is taken from its replica."""

    lane: ClassVar = Lane.JOBS
    job: Job
    cause: Cause
    cut_off_seconds: int
    """How long the replica's runner may go on adding files."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The job's status says why it waits."""

    lane: ClassVar = Lane.WAITS
    job: Job
    reason: Reason
    message: str
    counts: bool = False
    """The attempt before counts against backoffLimit after all."""


@dataclass(frozen=True, slots=True)
class Suspend:
    """The job, which nobody holds, becomes Suspended."""

    lane: ClassVar = Lane.JOBS
    job: Job


@dataclass(frozen=True, slots=True)
class Resume:
    """The job is no longer Suspended, and waits."""

    lane: ClassVar = Lane.JOBS
    job: Job


@dataclass(frozen=True, slots=True)
class Cancel:
    """The job, which nobody holds, ends as Cancelled."""

    lane: ClassVar = Lane.JOBS
    job: Job


@dataclass(frozen=True, slots=True)
class Fail:
    """The job, which nobody holds, ends as Failed."""

    lane: ClassVar = Lane.JOBS
    job: Job
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Observe:
    """Status and conditions of the job carry its newest generation: nothing else of it has to change."""

    lane: ClassVar = Lane.WAITS
    job: Job


@dataclass(frozen=True, slots=True)
class Adopt:
    """The job, which has files in a store, gets our finalizer back: an uninstall took it."""

    lane: ClassVar = Lane.WAITS
    job: Job


@dataclass(frozen=True, slots=True)
class Expire:
    """The finished job's time to live is over: it is deleted."""

    lane: ClassVar = Lane.JOBS
    job: Job


@dataclass(frozen=True, slots=True)
class Purge:
    """The deleted job's files are removed from the store, then its finalizer."""

    lane: ClassVar = Lane.FILES
    job: Job
    keep_output: bool


@dataclass(frozen=True, slots=True)
class LeavePool:
    """The job, which has no finished chunk as far as its status says, may go to another pool once its store agrees."""

    lane: ClassVar = Lane.FILES
    job: Job


@dataclass(frozen=True, slots=True)
class Sweep:
    """What runners that were declared lost have added to the job's folders since then is removed."""

    lane: ClassVar = Lane.FILES
    job: Job


JobDecision = (
    Assign
    | Release
    | Reclaim
    | Wait
    | Suspend
    | Resume
    | Cancel
    | Fail
    | Observe
    | Adopt
    | Expire
    | Purge
    | LeavePool
    | Sweep
)


@dataclass(frozen=True, slots=True)
class ApplyDeployment:
    """The pool's Deployment is applied as a whole."""

    lane: ClassVar = Lane.POOLS
    pool: GPUPool
    body: str
    """The Deployment as JSON."""
    replicas: int | None
    """As the body has it; None where somebody else owns the number."""
    scaling: LastScaling | None = None
    """What is remembered of it once it is done, where it changes the number of replicas."""


@dataclass(frozen=True, slots=True)
class Resize:
    """Only the number of the Deployment's replicas changes: its template is one that the API server took."""

    lane: ClassVar = Lane.POOLS
    pool: GPUPool
    deployed: Deployed
    replicas: int
    scaling: LastScaling | None = None


@dataclass(frozen=True, slots=True)
class KeepReplicas:
    """The number of replicas stays what it is when this operator ceases to own it, until somebody else changes it."""

    lane: ClassVar = Lane.POOLS
    pool: GPUPool
    deployed: Deployed


@dataclass(frozen=True, slots=True)
class Drain:
    """The replica is asked to hand back its jobs and take no more; with no reason, it is asked so no longer."""

    lane: ClassVar = Lane.POOLS
    replica: ReplicaKey
    reason: str | None


@dataclass(frozen=True, slots=True)
class SetDeletionCost:
    """The pod's deletion cost, by which Kubernetes chooses the pods to remove."""

    lane: ClassVar = Lane.POOLS
    replica: ReplicaKey
    pod_uid: str
    cost: int


@dataclass(frozen=True, slots=True)
class VerifyLeases:
    """All Leases of replicas are listed anew, consistently, before any of them is declared lost."""

    lane: ClassVar = Lane.POOLS


@dataclass(frozen=True, slots=True)
class SetPoolStatus:
    """The pool's status is not true any more."""

    lane: ClassVar = Lane.STATUSES
    pool: GPUPool
    status: GPUPoolStatus


@dataclass(frozen=True, slots=True)
class SetQueueStatus:
    """The queue's status is not true any more."""

    lane: ClassVar = Lane.STATUSES
    queue: VideoQueue
    status: VideoQueueStatus


PoolDecision = ApplyDeployment | Resize | KeepReplicas | Drain | SetDeletionCost | VerifyLeases
StatusDecision = SetPoolStatus | SetQueueStatus
Decision = JobDecision | PoolDecision | StatusDecision

Target = tuple[str, ...]
"""What a decision writes to: of decisions with the same target only one is under way at a time."""


def target(decision: Decision) -> Target:
    """The target of a decision."""
    match decision:
        case ApplyDeployment(pool=pool) | Resize(pool=pool) | KeepReplicas(pool=pool):
            return ("deployment", pool.metadata.name)
        case Drain(replica=replica):
            return ("lease", *replica)
        case SetDeletionCost(replica=replica):
            return ("pod", *replica)
        case VerifyLeases():
            return ("leases",)
        case SetPoolStatus(pool=pool):
            return ("pool", pool.metadata.name)
        case SetQueueStatus(queue=queue):
            return ("queue", queue.metadata.namespace, queue.metadata.name)
        case _:
            return ("job", decision.job.uid)


class Fault(NamedTuple):
    """An object whose decisions could not be made: nothing is decided on it until it changes or has rested."""

    target: Target
    error: Exception


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. Within a lane the most urgent comes first."""

    decisions: tuple[Decision, ...]
    wake_seconds: float
    """When another plan is due, even if nothing changes."""
    pools_planned: bool = False
    """Whether pools and queues were looked at; where not, what was decided on them before still stands."""
    memories: Mapping[str, PoolMemory] = field(default_factory=dict)
    """What is to be remembered of managed pools: see `Book.remember`."""
    faults: tuple[Fault, ...] = ()
    """What could not be planned."""


def assumed(decision: Assign) -> Job:
    """The job once it is assigned, as far as it matters to others: the room that it takes."""
    assignment = Assignment(pool=decision.replica.pool, replica=decision.replica.name)
    return replace(decision.job, assignment=assignment, phase=Phase.ASSIGNED)
