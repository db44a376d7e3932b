"""Jobs that a replica holds: whether it keeps them."""

from collections.abc import Iterator

from videojob.api.reasons import Reason
from videojob.api.replica import CUT_OFF_SECONDS
from videojob.api.videoqueue import StopPolicy
from videojob.planner.book import Book
from videojob.planner.decisions import Adopt, Cause, Fault, JobDecision, Reclaim, Release
from videojob.planner.facts import Health, Job, Moment, ReplicaKey
from videojob.planner.view import View


def keeping(book: Book, seen: View, now: Moment, faults: list[Fault]) -> Iterator[JobDecision]:
    """What to do about the jobs that replicas hold; one that cannot be decided on is added to the faults."""
    for key, jobs in book.agenda.held.items():
        for uid, job in jobs.items():
            if not book.frozen(uid):
                try:
                    decision = _keep(book, seen, key, job, now)
                except Exception as error:
                    faults.append(Fault(("job", uid), error))
                    continue
                if decision is not None:
                    yield decision


def _keep(book: Book, seen: View, key: ReplicaKey, job: Job, now: Moment) -> JobDecision | None:
    if job.assignment is None:
        return None
    health = seen.health.get(key, Health.SILENT)
    if health is Health.LOST:
        return Reclaim(job, Cause.LOST, _cut_off_seconds(book, key))
    if job.assignment.release is not None:
        claim = book.claims.get(job.uid)
        asked = claim.asked if claim is not None else None
        if health is Health.LIVE and asked is not None and now.mono - asked >= book.rules.release_seconds:
            return Reclaim(job, Cause.OVERDUE, _cut_off_seconds(book, key))
        return _unclaimed(book, health, job, now)
    reason = _why_release(book, job, now)
    if reason is not None:
        return Release(job, reason)
    return _unclaimed(book, health, job, now) or (Adopt(job) if job.lacks_finalizer else None)


def _unclaimed(book: Book, health: Health, job: Job, now: Moment) -> Reclaim | None:
    """A live replica that does not name the job in its reports does not work on it."""
    claim = book.claims.get(job.uid)
    if claim is None or health is not Health.LIVE:
        return None
    if claim.unnamed < book.rules.claim_reports or now.mono - claim.since < book.rules.claim_seconds:
        return None
    return Reclaim(job, Cause.UNCLAIMED, 0)


def _why_release(book: Book, job: Job, now: Moment) -> Reason | None:
    if job.deleted:
        return Reason.DELETED
    if job.cancel:
        return Reason.CANCELLED
    if job.deadline is not None and job.deadline <= now.wall:
        return Reason.DEADLINE_EXCEEDED
    if job.suspend:
        return Reason.SUSPENDED
    queue = book.queues.get(job.queue_key)
    if queue is not None and queue.spec.stop_policy is StopPolicy.HOLD_AND_DRAIN:
        return Reason.QUEUE_STOPPED
    return None


def _cut_off_seconds(book: Book, key: ReplicaKey) -> int:
    beat = book.liveness.beats.get(key)
    if beat is None or beat.replica is None:
        return CUT_OFF_SECONDS
    return beat.replica.report.cut_off_seconds
