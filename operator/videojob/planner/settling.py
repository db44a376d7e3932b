"""Jobs that need no replica: each is decided on by itself."""

from collections.abc import Iterator
from itertools import islice

from videojob.api.reasons import Reason
from videojob.api.videojob import Phase
from videojob.planner.agenda import ATTENTION, Need
from videojob.planner.book import Book
from videojob.planner.decisions import (
    Adopt,
    Cancel,
    Expire,
    Fail,
    JobDecision,
    Observe,
    Purge,
    Resume,
    Suspend,
    Sweep,
)
from videojob.planner.facts import Job
from videojob.planner.rules import Rules


def settling(book: Book) -> Iterator[JobDecision]:
    """What to do about jobs that need no replica: so many of each kind at a time."""
    for need in ATTENTION:
        for job in islice(book.agenda.attention[need].values(), book.rules.decisions_per_need):
            yield _settle(need, job, book.rules)


def _settle(need: Need, job: Job, rules: Rules) -> JobDecision:
    match need:
        case Need.PURGE:
            return Purge(job, keep_output=job.retain_output and job.phase is Phase.SUCCEEDED)
        case Need.EXPIRE:
            return Expire(job)
        case Need.CANCEL:
            return Cancel(job)
        case Need.SUSPEND:
            return Suspend(job)
        case Need.RESUME:
            return Resume(job)
        case Need.FAIL:
            return _fail(job, rules)
        case Need.ADOPT:
            return Adopt(job)
        case Need.SWEEP:
            return Sweep(job)
        case Need.OBSERVE:
            return Observe(job)
        case _:
            raise ValueError(f"{need} is met elsewhere")


def _fail(job: Job, rules: Rules) -> Fail:
    """Why the job is over: what it has spent comes first, since that does not change with time."""
    if job.failures > job.backoff_limit:
        return Fail(
            job,
            Reason.BACKOFF_LIMIT_EXCEEDED,
            f"{job.failures} attempts failed, backoffLimit is {job.backoff_limit}; the last one: "
            f"{job.reason}: {job.message}",
        )
    if job.losses >= rules.replica_loss_limit:
        return Fail(
            job,
            Reason.REPLICA_LOSS_LIMIT_EXCEEDED,
            f"{job.losses} replicas were lost while they held the job (the limit is {rules.replica_loss_limit}): "
            "it may be what breaks them.",
        )
    return Fail(
        job,
        Reason.DEADLINE_EXCEEDED,
        f"The job was active for longer than activeDeadlineSeconds ({job.active_deadline_seconds} s).",
    )
