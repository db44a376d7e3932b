"""What every job needs, kept so that a cycle looks only at those that need something.

What a job needs follows from its record, the model that it names, and the time. A job is put here whenever one of
the first two changes, and again when the moment comes at which time alone changes it.
"""

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from sortedcontainers import SortedDict

from videojob.api.reasons import BACKS_OFF
from videojob.api.videojob import Phase
from videojob.api.videomodel import VideoModel
from videojob.planner.estimate import remaining_work
from videojob.planner.facts import EPOCH, Job, ReplicaKey, later
from videojob.planner.pending import Entry, Pending, Shape
from videojob.planner.resolve import refusal
from videojob.planner.rules import Rules

WORK_UNIT = 1_000_000
"""Work is summed in whole millionths of a chunk: sums of floats would depend on the order of the changes."""


class Need(StrEnum):
    """What a job needs."""

    HELD = "held"
    """A replica holds it: each cycle sees whether it keeps it."""
    PENDING = "pending"
    """A replica."""
    PURGE = "purge"
    EXPIRE = "expire"
    CANCEL = "cancel"
    SUSPEND = "suspend"
    RESUME = "resume"
    FAIL = "fail"
    ADOPT = "adopt"
    SWEEP = "sweep"
    OBSERVE = "observe"
    NOTHING = "nothing"


ATTENTION = tuple(need for need in Need if need not in (Need.HELD, Need.PENDING, Need.NOTHING))
"""Needs that are met whatever else there is, the most urgent first."""


class Agenda:
    """All jobs by what they need. Jobs that are *frozen* keep their place, and nothing is decided on them."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.now = EPOCH
        """The time of the last `advance`."""
        self.held: dict[ReplicaKey, dict[str, Job]] = {}
        self.pending = Pending()
        self.attention: dict[Need, dict[str, Job]] = {need: {} for need in ATTENTION}
        self.moments: SortedDict[tuple[datetime, str], None] = SortedDict()
        self._places: dict[str, _Place] = {}

    def put(self, job: Job, model: VideoModel | None, *, frozen: bool) -> Need:
        """The job is like this from now on; what it needs."""
        self.remove(job.uid)
        need, until = self._need(job)
        self._places[job.uid] = _Place(job, need, until)
        if until is not None:
            self.moments[until, job.uid] = None
        if need is Need.HELD and job.replica_key is not None:
            self.held.setdefault(job.replica_key, {})[job.uid] = job
        elif need is Need.PENDING:
            self.pending.add(self._entry(job, model, frozen))
        elif need is not Need.NOTHING and not frozen:
            self.attention[need][job.uid] = job
        return need

    def remove(self, uid: str) -> None:
        """The job is not there any more."""
        place = self._places.pop(uid, None)
        if place is None:
            return
        job, need, until = place
        if until is not None:
            del self.moments[until, uid]
        if need is Need.HELD and job.replica_key is not None:
            held = self.held[job.replica_key]
            del held[uid]
            if not held:
                del self.held[job.replica_key]
        elif need is Need.PENDING:
            self.pending.remove(uid)
        elif need is not Need.NOTHING:
            self.attention[need].pop(uid, None)

    def due(self, now: datetime) -> Iterator[str]:
        """The uids of jobs whose moment has come by now: each is to be put anew. Time goes on to now."""
        self.now = max(self.now, now)
        while self.moments and self.moments.peekitem(0)[0][0] <= self.now:
            (_, uid), _ = self.moments.peekitem(0)
            yield uid

    def next_moment(self) -> datetime | None:
        """When time alone changes the next job's need."""
        return self.moments.peekitem(0)[0][0] if self.moments else None

    def until(self, uid: str) -> datetime | None:
        """When time alone changes what the job needs."""
        place = self._places.get(uid)
        return place.until if place is not None else None

    def _need(self, job: Job) -> tuple[Need, datetime | None]:
        """The first thing that the job needs, and when time alone changes that."""
        if job.assignment is not None and not job.phase.finished:
            return Need.HELD, None
        if job.deleted:
            return (Need.PURGE if job.finalizer else Need.NOTHING), None
        if job.phase.finished:
            return self._kept(job, job.expires)
        if job.cancel:
            return Need.CANCEL, None
        if job.suspend:
            return (Need.SUSPEND, None) if job.phase is not Phase.SUSPENDED else self._kept(job, None)
        if job.phase is Phase.SUSPENDED:
            return Need.RESUME, None
        deadline = job.deadline
        if self._spent(job) or (deadline is not None and deadline <= self.now):
            return Need.FAIL, None
        moments = (moment for moment in (deadline, self._again(job)) if moment is not None)
        return Need.PENDING, min(moments, default=None)

    def _kept(self, job: Job, expires: datetime | None) -> tuple[Need, datetime | None]:
        """What a job needs that is not to run."""
        sweeps = [job.cut_off_until, *(earlier.until for earlier in job.earlier_stores)]
        moments = [moment for moment in (expires, *sweeps) if moment is not None]
        if expires is not None and expires <= self.now:
            return Need.EXPIRE, None
        until = min((moment for moment in moments if moment > self.now), default=None)
        if job.lacks_finalizer:
            return Need.ADOPT, until
        if any(moment <= self.now for moment in moments):
            return Need.SWEEP, until
        return (Need.OBSERVE if job.observed_generation < job.generation else Need.NOTHING), until

    def _spent(self, job: Job) -> bool:
        return job.failures > job.backoff_limit or job.losses >= self._rules.replica_loss_limit

    def _again(self, job: Job) -> datetime | None:
        """When the job's pause ends, if it pauses."""
        if job.reason not in BACKS_OFF:
            return None
        again = later(job.since, self._rules.backoff(max(job.failures, job.hand_backs)))
        return again if again > self.now else None

    def _entry(self, job: Job, model: VideoModel | None, frozen: bool) -> Entry:
        resolved = job.resolved
        home = job.pool if job.chunks_done > 0 else None
        refused = refusal(job, model) if model is not None and resolved is None else None
        shape = Shape(
            queue=job.queue_key,
            model=job.model,
            begun=(resolved.weights_digest, resolved.model_uid) if resolved is not None else None,
            home=home,
            store=job.store_uri.removesuffix(f"/{job.namespace}/{job.uid}") if home and job.store_uri else None,
            left=None if home else job.pool,
            failed_on=job.failed_on,
            refused=refused,
        )
        runs = model is not None and refused is None and (resolved is None or resolved.model_uid == model.metadata.uid)
        work = round(remaining_work(job, model) * WORK_UNIT) if model is not None and runs else 0
        return Entry(job, shape, work, self._again(job), frozen)


class _Place(NamedTuple):
    job: Job
    need: Need
    until: datetime | None
