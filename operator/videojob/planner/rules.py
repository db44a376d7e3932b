"""The planner's constants."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """All times are seconds."""

    patience_seconds: float = 3.0
    """How long a job waits before its status says why: a job that starts at once costs no such write."""
    backoff_seconds: float = 10.0
    """Pause after an attempt that failed or could not go on; it doubles with each further one, as in batch/v1."""
    backoff_cap_seconds: float = 600.0
    """The longest pause."""
    replica_loss_limit: int = 50
    """So many lost replicas, and the job is Failed: it may be what breaks them."""
    claim_seconds: float = 30.0
    """A replica that was given a job names it in its reports after so long at the latest."""
    claim_reports: int = 2
    """Reports in a row without the job after which the replica is taken not to work on it."""
    blind_seconds: float = 300.0
    """Reports of a runner that does not see which jobs are assigned to it count only after so long."""
    release_seconds: float = 300.0
    """A replica that was asked for a job has given it back after so long at the latest."""
    contact_gap_seconds: float = 6.0
    """Without an answer of the API server for so long the operator has been blind: the leader asks every 2 s."""
    decisions_per_need: int = 256
    """Decisions of one kind in one plan: enough to keep every lane busy, however many jobs there are."""
    waits_per_plan: int = 64
    """Jobs in one plan whose status is to show another reason."""
    pool_seconds: float = 1.0
    """The shortest pause between two looks at the size of the pools and at the statuses of pools and queues."""
    external_cost_seconds: float = 60.0
    """Pause between two looks at the deletion costs of a pool that somebody else scales."""

    def backoff(self, tries: int) -> float:
        """Seconds of pause after that many attempts in a row that did not succeed."""
        return float(min(self.backoff_seconds * 2 ** min(max(tries - 1, 0), 30), self.backoff_cap_seconds))


DEFAULT_RULES = Rules()
