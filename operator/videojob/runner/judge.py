"""Whether this replica is able to make anything: by what becomes of its jobs, and of different ones.

A broken accelerator fails whatever it gets, at once, and would be free again for the next job. So failures that a job
need not have caused are counted, in a row: any piece that is made, of whatever job, begins anew, because every stage
has worked for it. After too many the replica is *unwell*: it says so, hands back what it has, and loads its models
anew. After a pause it is *on trial*, with room for one job: the first piece that is made acquits it, the first failure
doubles the pause. A trial is a real job, not a probe made up for it: whatever a probe would leave out might be what
fails, and a job that is handed back for this reason loses nothing, because no failure is counted against it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from videojob.runner.metrics import RunnerMetrics
from videojob.triton.contract import ChunkError, ErrorCode

log = logging.getLogger(__name__)

FAILURES = 3
"""In a row, after which the replica is unwell: of the accelerator, or of at least two jobs."""
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 900.0
MESSAGE_LIMIT = 512

SUSPICIOUS = (ErrorCode.ACCELERATOR_FAILED, ErrorCode.STAGE_GONE, ErrorCode.MODEL_FAILED)
"""What the replica may have caused. Only of the first it is certain that no job has."""


@dataclass(frozen=True)
class Verdict:
    """What is thought of a replica. Times are seconds of a monotonic clock."""

    failures: int = 0
    """In a row."""
    of_accelerator: int = 0
    jobs: frozenset[str] = field(default_factory=frozenset)
    """Whose failures they are, by uid."""
    last: float = float("-inf")
    """When the last of them came."""
    pause: float = 0.0
    """Of the last time that it was unwell, since it was acquitted; 0 where it was not."""
    until: float = float("-inf")
    """It is unwell so long, then on trial."""
    why: str = ""

    def unwell(self, now: float) -> bool:
        """Whether it takes no job."""
        return now < self.until

    def on_trial(self, now: float) -> bool:
        """Whether it takes one job, by which it is judged."""
        return self.pause > 0 and not self.unwell(now)


WELL = Verdict()


def failed(verdict: Verdict, job: str, error: ChunkError, *, began: float, now: float) -> Verdict:
    """What is thought of a replica after a job's sequence, which began then, has failed with a suspicious error.

    A sequence that began before the last failure tells nothing new: one process that ends fails all that it makes.
    """
    if verdict.unwell(now) or began < verdict.last:
        return verdict
    found = replace(
        verdict,
        failures=verdict.failures + 1,
        of_accelerator=verdict.of_accelerator + (error.reason is ErrorCode.ACCELERATOR_FAILED),
        jobs=frozenset([*sorted(verdict.jobs - {job})[:1], job]),  # Two are enough.
        last=now,
    )
    enough = found.of_accelerator >= FAILURES or (found.failures >= FAILURES and len(found.jobs) >= 2)
    if not enough and not verdict.on_trial(now):
        return found
    pause = min(LONGEST_PAUSE, 2 * verdict.pause or FIRST_PAUSE)
    return Verdict(last=now, pause=pause, until=now + pause, why=error.sentence)


def made(verdict: Verdict, now: float) -> Verdict:
    """What is thought of a replica after a piece was made. Nothing else while it is unwell: that was begun before."""
    return verdict if verdict.unwell(now) else WELL


class Judge:
    """The verdict on this replica, from one event to the next."""

    def __init__(self, monotonic: Callable[[], float], metrics: RunnerMetrics) -> None:
        self._monotonic = monotonic
        self._metrics = metrics
        self._verdict = WELL
        self.unwell: Callable[[], None] = lambda: None
        """Called when the replica becomes unwell."""

    @property
    def error(self) -> str:
        """Why no job is taken, if so."""
        verdict = self._verdict
        if not verdict.unwell(self._monotonic()):
            return ""
        again = f"A job is tried again {verdict.pause:g} s after the last failure"
        return f"This replica fails whatever it gets, and loads its models anew. {again}: {verdict.why}"[:MESSAGE_LIMIT]

    def room(self, slots: int) -> int:
        """How many jobs it takes of so many."""
        return min(slots, 1) if self._verdict.on_trial(self._monotonic()) else slots

    def made(self) -> None:
        """A piece was made: frames of a job that have come through every stage."""
        before, self._verdict = self._verdict, made(self._verdict, self._monotonic())
        if before.pause and self._verdict is WELL:
            log.info("The replica makes videos again.")

    def failed(self, job: str, error: ChunkError, began: float) -> None:
        """A sequence of a job, which began then, has failed."""
        if error.reason not in SUSPICIOUS:
            return
        now = self._monotonic()
        before, self._verdict = self._verdict, failed(self._verdict, job, error, began=began, now=now)
        if self._verdict.unwell(now) and not before.unwell(now):
            log.warning("%s", self.error)
            self._metrics.unwell()
            self.unwell()
