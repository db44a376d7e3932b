"""Jobs that wait for a replica, so kept that a cycle need not look at each of them.

Jobs for which placement comes out alike form a class: it gives the head of the class a replica, or finds one obstacle
for all. Within a class they stand in order of priority, age and uid; and, by the reason that their status shows, in the
order in which they began to wait: when the obstacle changes, those that show another one are known without a search.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from sortedcontainers import SortedDict, SortedList

from videojob.api.reasons import VOLATILE, Reason
from videojob.planner.facts import EPOCH, Job, QueueKey, ReplicaKey


class Shape(NamedTuple):
    """What placement depends on."""

    queue: QueueKey
    model: str
    begun: tuple[str, str] | None
    """Digest of the weights, empty while they are not read, and uid of the model that it has begun with."""
    home: str | None
    """The pool that has its finished chunks."""
    store: str | None
    """URL of the store that they are in."""
    left: str | None
    """The pool that it was in, where no chunk of it is finished: there may be steps of a unit that was paused."""
    failed_on: ReplicaKey | None
    """The replica that it last failed on."""
    refused: tuple[Reason, str] | None
    """Why the model cannot make it, or does not allow it."""


class Shown(NamedTuple):
    """Why a job waits, as its status shows it."""

    reason: str
    message: str
    """Empty where the message changes too often to be written anew for it alone."""


Turn = tuple[int, datetime, str]
"""Place in the order of a class: the least comes first."""


def turn(job: Job) -> Turn:
    """The job's place: by priority, then age, then uid."""
    return (-job.priority, job.created, job.uid)


def shown(reason: str, message: str) -> Shown:
    """How a reason and its message are compared."""
    return Shown(reason, "" if reason in VOLATILE else message)


def waits_since(job: Job) -> datetime:
    """When the job began to wait: its patience counts from then."""
    return job.since if job.since > EPOCH else job.created


class PendingClass:
    """The waiting jobs of one shape."""

    def __init__(self) -> None:
        self.ready: SortedDict[Turn, Job] = SortedDict()
        """Jobs that may be given a replica now."""
        self.work = 0
        """Of all jobs of the class, in millionths of a chunk at the model's default size and steps."""
        self.count = 0
        self._shown: dict[Shown, SortedList[tuple[datetime, str]]] = {}

    def add(self, job: Job, work: int, *, ready: bool) -> None:
        """A job of this shape waits; not `ready` while it pauses, or a write on it is under way."""
        self.work += work
        self.count += 1
        if ready:
            self.ready[turn(job)] = job
            key = shown(job.reason, job.message)
            group = self._shown.get(key)
            if group is None:
                group = self._shown[key] = SortedList()
            group.add((waits_since(job), job.uid))

    def remove(self, job: Job, work: int, *, ready: bool) -> None:
        """Takes back what `add` did with the same arguments."""
        self.work -= work
        self.count -= 1
        if ready:
            del self.ready[turn(job)]
            key = shown(job.reason, job.message)
            group = self._shown[key]
            group.remove((waits_since(job), job.uid))
            if not group:
                del self._shown[key]

    def shown(self) -> Iterator[tuple[Shown, tuple[tuple[datetime, str], ...]]]:
        """The ready jobs by what their status shows."""
        return ((key, tuple(group)) for key, group in self._shown.items())

    def showing_other(self, obstacle: Shown) -> Iterator["SortedList[tuple[datetime, str]]"]:
        """Groups of those whose status shows another obstacle, as (began to wait, uid), each in order."""
        return (group for key, group in self._shown.items() if key != obstacle)


class Entry(NamedTuple):
    """How a job stands among the pending ones."""

    job: Job
    shape: Shape
    work: int
    again: datetime | None
    """Until then it pauses after an attempt."""
    frozen: bool
    """Nothing is decided on it now: a write is under way, or its state cannot be read."""

    @property
    def ready(self) -> bool:
        """Whether it may be given a replica."""
        return self.again is None and not self.frozen

    @property
    def unannounced(self) -> bool:
        """Whether it pauses, and its status does not say so yet."""
        return self.again is not None and not self.frozen and self.job.reason != Reason.BACKING_OFF


class Pending:
    """All jobs that wait, by shape."""

    def __init__(self) -> None:
        self.classes: dict[Shape, PendingClass] = {}
        self.entries: dict[str, Entry] = {}
        self.unannounced: SortedDict[tuple[datetime, str], Job] = SortedDict()
        """Jobs that pause and whose status does not say so yet, by when they began to wait."""
        self.by_model: dict[str, set[str]] = {}
        """uids by the model that they name: when it changes, they may wait otherwise."""
        self.reasons: Counter[tuple[QueueKey, str]] = Counter()
        """How many jobs of a queue show which reason."""

    def add(self, entry: Entry) -> None:
        """A job waits."""
        job = entry.job
        self.entries[job.uid] = entry
        found = self.classes.get(entry.shape)
        if found is None:
            found = self.classes[entry.shape] = PendingClass()
        found.add(job, entry.work, ready=entry.ready)
        self.by_model.setdefault(job.model, set()).add(job.uid)
        self.reasons[job.queue_key, job.reason] += 1
        if entry.unannounced:
            self.unannounced[waits_since(job), job.uid] = job

    def remove(self, uid: str) -> None:
        """A job does not wait, or waits otherwise from now on."""
        entry = self.entries.pop(uid, None)
        if entry is None:
            return
        job, found = entry.job, self.classes[entry.shape]
        found.remove(job, entry.work, ready=entry.ready)
        if not found.count:
            del self.classes[entry.shape]
        self.by_model[job.model].discard(uid)
        if not self.by_model[job.model]:
            del self.by_model[job.model]
        self.reasons[job.queue_key, job.reason] -= 1
        if not self.reasons[job.queue_key, job.reason]:
            del self.reasons[job.queue_key, job.reason]
        if entry.unannounced:
            del self.unannounced[waits_since(job), uid]
