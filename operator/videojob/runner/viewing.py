"""What somebody sees who watches a video while it is made, from its first frames on. Pure; times in seconds.

Such a viewer either plays or waits. So where they are follows from how long they have watched, less how long they have
waited; they wait again at a commit that comes later than that. There is nothing else to remember, over any number of
pieces and attempts.
"""

from dataclasses import dataclass, replace

from videojob.api.videojob import Timing


@dataclass(frozen=True)
class Viewing:
    """How it went so far. Moments count from the job's creation."""

    first: float | None = None
    """When the first frames were there, and it began."""
    last: float | None = None
    """When the newest frames were there."""
    worst_gap: float | None = None
    """Between two commits in a row."""
    stalls: int = 0
    stalled: float = 0.0
    """For how long, in all."""

    @classmethod
    def of(cls, timing: Timing) -> "Viewing":
        """As an attempt before this one has left it."""
        return cls(
            timing.first_frame_seconds,
            timing.newest_frame_seconds,
            timing.worst_gap_seconds,
            timing.stalls,
            timing.stalled_seconds,
        )

    def after(self, at: float, ready: float) -> "Viewing":
        """Further frames are there at this moment; until then there were `ready` seconds of video."""
        if self.first is None or self.last is None:
            return replace(self, first=at if self.first is None else self.first, last=at)
        at = max(at, self.last)  # The clocks of two runners, or one that was set.
        waited = max(0.0, at - self.first - self.stalled - ready)
        return Viewing(
            first=self.first,
            last=at,
            worst_gap=round(max(at - self.last, self.worst_gap or 0.0), 3),
            stalls=self.stalls + (waited > 0),
            stalled=self.stalled + waited,
        )
