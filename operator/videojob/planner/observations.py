"""What the book notes of jobs beside the objects themselves."""

from dataclasses import dataclass

from videojob.api.replica import ReplicaReport


@dataclass(frozen=True, slots=True)
class Labels:
    """What jobs are counted by."""

    namespace: str
    queue: str
    pool: str
    phase: str


@dataclass(slots=True)
class Claim:
    """What was seen of a replica's hold on a job."""

    attempt: int
    since: float
    """When it was first seen, in monotonic seconds."""
    asked: float | None = None
    """When it was first seen that the replica is asked to give it back."""
    unnamed: int = 0
    """Reports of the replica in a row that did not name it."""

    def reported(self, uid: str, report: ReplicaReport, now: float, *, anew: bool, patience: float) -> None:
        """A report of the replica came, `anew` if it is the first of another runner.

        One that does not see its jobs cannot name them: its reports count only after `patience` seconds.
        """
        if anew:  # It has to hand back first what its predecessor held.
            self.since = now
        if any((job.uid, job.attempt) == (uid, self.attempt) for job in report.jobs):
            self.unnamed = 0
        elif not report.jobs_error or now - self.since >= patience:
            self.unnamed += 1
