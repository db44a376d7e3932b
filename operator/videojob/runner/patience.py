"""How long a stage may do nothing that is seen before it counts as hung. Pure: what is seen, and when, is passed in."""

from dataclasses import dataclass
from enum import Enum, auto

from videojob.triton.progress import Progress

FLOOR_SECONDS = 60.0
"""A step may always take so long."""
STEPS = 10.0
"""And so many times the longest step seen."""
FIRST_SECONDS = 900.0
"""One of a unit larger than those seen may take so long: kernels are compiled for it."""
UNITS = 2.0
"""And so many times the estimate of the whole unit."""
ENDED_SECONDS = 60.0
"""For Triton to notice that the process of a stage has ended."""
LONGEST_LOOK = 20.0
"""Between two looks at most so much counts as silence: for longer nobody looked, or this process stood still."""


class Verdict(Enum):
    """On a stage that somebody waits for."""

    WAIT = auto()
    END = auto()
    """It hangs: its process is to be ended."""
    GIVE_UP = auto()
    """No answer is to be expected, and there is nothing to end."""


@dataclass
class Patience:
    """What is known of one stage: how long it is silent while somebody waits for it, and how long its steps take."""

    silent: float = 0.0
    """Seconds of looks, one after the other, that showed the same note."""
    unknown: float = 0.0
    """Seconds of looks that showed none."""
    seen: Progress | None = None
    """The last note."""
    looked: float | None = None
    longest: float = 0.0
    """The longest step seen, in seconds."""
    largest: int = 0
    """The size of the largest unit of which a step was seen."""
    ended: int | None = None
    """The process of the stage that was ended last."""

    def look(self, now: float, progress: Progress | None) -> None:
        """The stage's note is this at `now`, in seconds; None where it could not be read."""
        passed = 0.0 if self.looked is None else min(now - self.looked, LONGEST_LOOK)
        self.looked = now
        if progress is None:
            self.unknown += passed
            return
        self.unknown = 0.0
        self.silent += passed
        if progress == self.seen:
            return
        if self.seen is not None and self.seen.size and self.seen.pid == progress.pid:
            self.longest = max(self.longest, self.silent)
            self.largest = max(self.largest, self.seen.size)
        self.seen, self.silent = progress, 0.0

    def answered(self) -> None:
        """An answer came. It is a step, and where no note can be read it is the only one that is seen."""
        self.silent = self.unknown = 0.0

    def verdict(self, unit_seconds: float) -> Verdict:
        """On the stage now. `unit_seconds` is the estimate of a whole unit, 0 where there is none.

        Another silence begins with any verdict but to wait.
        """
        lost = self.unknown > self._first(unit_seconds)
        if not lost and self.silent <= self._limit(unit_seconds):
            return Verdict.WAIT
        self.silent = self.unknown = 0.0
        hangs = self.seen is not None and self.seen.size > 0 and self.seen.pid != self.ended
        return Verdict.END if hangs and not lost else Verdict.GIVE_UP

    def step_seconds(self, unit_seconds: float) -> float:
        """Within which a step should have ended."""
        return max(FLOOR_SECONDS, STEPS * self.longest, unit_seconds)

    def _limit(self, unit_seconds: float) -> float:
        """Of silence."""
        if self.seen is not None and self.seen.pid == self.ended:
            return ENDED_SECONDS
        # An idle stage is not at fault, whoever is.
        if self.seen is None or not self.seen.size or self.seen.size > self.largest:
            return self._first(unit_seconds)
        return self.step_seconds(0.0)

    def _first(self, unit_seconds: float) -> float:
        return max(FIRST_SECONDS, UNITS * unit_seconds)
