"""What a plan consists of: decisions as values, which name a job by its uid and leave open how they are carried out."""

from dataclasses import dataclass
from datetime import datetime

from videojob.api.conditions import Reason
from videojob.api.videojob import Resolved
from videojob.planner.snapshot import ReplicaKey


@dataclass(frozen=True, slots=True)
class Assign:
    """A replica gets the job; the finalizer is set first, if it is missing."""

    uid: str
    replica: ReplicaKey
    resolved: Resolved
    store_uri: str


@dataclass(frozen=True, slots=True)
class Release:
    """The replica is asked to give the job back."""

    uid: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Reclaim:
    """The job is taken from a replica that is lost."""

    uid: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The job says why it waits."""

    uid: str
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Suspend:
    """The job, which nobody holds, becomes Suspended."""

    uid: str


@dataclass(frozen=True, slots=True)
class Resume:
    """The job is no longer Suspended, and waits."""

    uid: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The job, which nobody holds, ends as Cancelled."""

    uid: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The job, which nobody holds, ends as Failed."""

    uid: str
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Purge:
    """The deleted job's files are removed from the store, then its finalizer."""

    uid: str
    keep_output: bool


@dataclass(frozen=True, slots=True)
class Adopt:
    """The job, which has files in a store, gets our finalizer back: an uninstall took it."""

    uid: str


@dataclass(frozen=True, slots=True)
class Expire:
    """The finished job's time to live is over: it is deleted."""

    uid: str


Decision = Reclaim | Release | Cancel | Fail | Suspend | Assign | Resume | Purge | Adopt | Expire | Wait


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, the most urgent first."""

    decisions: tuple[Decision, ...]
    wake_at: datetime | None
    """When time alone makes another plan necessary."""
