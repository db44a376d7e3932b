"""What to do now: one pass over the jobs of a snapshot.

Jobs that need no replica are decided on one by one. Those that do come in order of priority, then age, then uid; each
takes its room or learns why it waits, and never holds up the next one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from videojob.api.conditions import PAUSING, Reason
from videojob.api.videojob import Assignment, Phase
from videojob.api.videoqueue import StopPolicy
from videojob.planner.decisions import (
    Adopt,
    Assign,
    Cancel,
    Decision,
    Expire,
    Fail,
    Plan,
    Purge,
    Reclaim,
    Release,
    Resume,
    Suspend,
    Wait,
)
from videojob.planner.placement import Obstacle, Place, Placement
from videojob.planner.resolve import beyond_limits, resolve, store_uri
from videojob.planner.snapshot import EPOCH, Job, ReplicaKey, Snapshot, later

URGENCY: tuple[type[Decision], ...] = (
    Reclaim,
    Release,
    Cancel,
    Fail,
    Suspend,
    Assign,
    Resume,
    Purge,
    Adopt,
    Expire,
    Wait,
)
COUNTING = frozenset(
    {
        Reason.QUEUED,
        Reason.BACKING_OFF,
        Reason.POOL_STARTING,
        Reason.UNSCHEDULABLE,
        Reason.NODE_PROVISIONING_TIMEOUT,
        Reason.IMAGE_PULL_FAILED,
        Reason.CRASH_LOOP,
    }
)
"""Reasons whose sentence changes with every pod or second; the pool's conditions have the latest one."""
_RANK = {type_: rank for rank, type_ in enumerate(URGENCY)}


@dataclass(frozen=True)
class Rules:
    """The planner's constants."""

    patience_seconds: float = 3.0
    """How long a job waits before its status says why: a job that starts at once costs no such write."""
    backoff_seconds: float = 10.0
    """Pause after an attempt that failed or could not go on; it doubles with each further failure, as in batch/v1."""
    backoff_cap_seconds: float = 360.0
    """The longest pause."""
    replica_loss_limit: int = 50
    """So many lost replicas, and the job is Failed: it may be what breaks them."""

    def backoff(self, failures: int) -> float:
        """Seconds of pause after that many failures."""
        return float(min(self.backoff_seconds * 2 ** min(max(failures - 1, 0), 30), self.backoff_cap_seconds))


DEFAULT_RULES = Rules()


def plan(snapshot: Snapshot, now: datetime, rules: Rules = DEFAULT_RULES) -> Plan:
    """The decisions for this snapshot: the same ones whenever it is the same."""
    planner = _Planner(snapshot, now, rules)
    decisions = sorted(planner.decide(), key=lambda decision: _RANK[type(decision)])
    return Plan(tuple(decisions), planner.wake_at)


class _Planner:
    """One pass: `wake_at` is complete once every decision was taken."""

    def __init__(self, snapshot: Snapshot, now: datetime, rules: Rules) -> None:
        self.snapshot = snapshot
        self.now = now
        self.rules = rules
        self.wake_at: datetime | None = None

    def decide(self) -> Iterator[Decision]:
        waiting: list[Job] = []
        for job in self.snapshot.jobs:
            if job.uid in self.snapshot.busy:
                continue
            if job.deleted or job.phase.finished or job.assignment is not None or job.cancel or job.suspend:
                decision = self._settle(job) or (Adopt(job.uid) if job.lacks_finalizer else None)
                if decision is not None:
                    yield decision
            else:
                waiting.append(job)
        waiting.sort(key=lambda job: (-job.priority, job.created, job.uid))
        placement = Placement(self.snapshot, self.now)
        for job in waiting:
            decision = self._start(job, placement)
            if decision is not None:
                yield decision

    def _settle(self, job: Job) -> Decision | None:
        """What to do with a job that does not wait for a replica."""
        if job.assignment is not None and not job.phase.finished:
            return self._take_back(job, job.assignment)
        if job.deleted:
            keep = job.retain_output and job.phase is Phase.SUCCEEDED
            return Purge(job.uid, keep_output=keep) if job.finalizer else None
        if job.phase.finished:
            return Expire(job.uid) if job.expires is not None and self._reached(job.expires) else None
        if job.cancel:
            return Cancel(job.uid)
        return Suspend(job.uid) if job.phase is not Phase.SUSPENDED else None

    def _take_back(self, job: Job, assignment: Assignment) -> Decision | None:
        """Whether the replica that holds the job keeps it."""
        replica = self.snapshot.replicas.get(ReplicaKey(assignment.pool, assignment.replica))
        if replica is None or not replica.live:
            return Reclaim(job.uid)
        if assignment.release is not None:
            return None
        reason = self._why_release(job)
        return Release(job.uid, reason) if reason is not None else None

    def _why_release(self, job: Job) -> Reason | None:
        if job.deleted:
            return Reason.DELETED
        if job.cancel:
            return Reason.CANCELLED
        if self._deadline_passed(job):
            return Reason.DEADLINE_EXCEEDED
        if job.suspend:
            return Reason.SUSPENDED
        queue = self.snapshot.queues.get(job.queue_key)
        if queue is not None and queue.spec.stop_policy is StopPolicy.HOLD_AND_DRAIN:
            return Reason.QUEUE_STOPPED
        return None

    def _start(self, job: Job, placement: Placement) -> Decision | None:
        """Whether a job that waits gets a replica, ends, or goes on waiting."""
        over = self._why_over(job)
        if over is not None:
            return Fail(job.uid, over.reason, over.message)
        found = self._find(job, placement)
        if isinstance(found, Assign):
            return found
        if job.phase is Phase.SUSPENDED:
            return Resume(job.uid)
        return self._wait(job, found)

    def _why_over(self, job: Job) -> Obstacle | None:
        if self._deadline_passed(job):
            return Obstacle(
                Reason.DEADLINE_EXCEEDED,
                f"The job was active for longer than activeDeadlineSeconds ({job.active_deadline_seconds} s).",
            )
        if job.failures > job.backoff_limit:
            return Obstacle(
                Reason.BACKOFF_LIMIT_EXCEEDED,
                f"{job.failures} attempts failed, backoffLimit is {job.backoff_limit}; the last one: "
                f"{job.reason}: {job.message}",
            )
        if job.losses >= self.rules.replica_loss_limit:
            return Obstacle(
                Reason.REPLICA_LOSS_LIMIT_EXCEEDED,
                f"{job.losses} replicas were lost while they held the job: it may be what breaks them.",
            )
        return None

    def _find(self, job: Job, placement: Placement) -> Assign | Obstacle:
        snapshot = self.snapshot
        if job.reason in PAUSING or job.reason == Reason.BACKING_OFF:
            again = later(job.since, self.rules.backoff(job.failures))
            if not self._reached(again):
                return Obstacle(Reason.BACKING_OFF, _backing_off(job, again))
        queue = snapshot.queues.get(job.queue_key)
        if queue is None:
            return Obstacle(
                Reason.QUEUE_NOT_FOUND, f"There is no VideoQueue {job.queue} in namespace {job.namespace}: create it."
            )
        if queue.spec.stop_policy is not StopPolicy.NONE:
            return Obstacle(
                Reason.QUEUE_STOPPED, f"VideoQueue {job.queue} has the stopPolicy {queue.spec.stop_policy.value}."
            )
        model = snapshot.models.get(job.model)
        if model is None:
            return Obstacle(Reason.MODEL_NOT_FOUND, f"There is no VideoModel {job.model}: create it.")
        excess = beyond_limits(job, model) if job.resolved is None else None
        if excess is not None:
            return Obstacle(*excess)
        place = placement.place(job, model)
        if not isinstance(place, Place):
            return place
        resolved = job.resolved or resolve(job, model, place.weights_digest)
        return Assign(job.uid, place.replica, resolved, store_uri(job, snapshot.pools[place.replica.pool]))

    def _wait(self, job: Job, obstacle: Obstacle) -> Wait | None:
        """A waiting job's status changes only with the reason: not with the length of the queue before it."""
        same = job.reason == obstacle.reason and (obstacle.reason in COUNTING or job.message == obstacle.message)
        if same:
            return None
        began = job.since if job.since > EPOCH else job.created
        if not self._reached(later(began, self.rules.patience_seconds)):
            return None
        return Wait(job.uid, obstacle.reason, obstacle.message)

    def _deadline_passed(self, job: Job) -> bool:
        if job.active_deadline_seconds is None or job.start_time is None:
            return False
        return self._reached(later(job.start_time, job.active_deadline_seconds))

    def _reached(self, moment: datetime) -> bool:
        """Whether the moment has come; if not, the next plan is made then at the latest."""
        if moment <= self.now:
            return True
        if self.wake_at is None or moment < self.wake_at:
            self.wake_at = moment
        return False


def _backing_off(job: Job, again: datetime) -> str:
    failed = f"{job.failures} of {job.backoff_limit + 1} allowed attempts failed"
    what = failed if job.failures else "The job was handed back"
    return f"{what}; the next attempt starts at {again:%Y-%m-%dT%H:%M:%SZ}. The last one: {job.reason}: {job.message}"
