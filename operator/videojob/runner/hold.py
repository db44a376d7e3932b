"""How a runner stands with its Lease, and what that lets it do.

- *fresh*: renewed within the Lease's length, so nobody can have taken its jobs. It may do everything.
- *cut off*: not renewed for longer than that. Its jobs may be somebody else's by now, so it only creates what a later
  attempt can refuse or adopt: it deletes and overwrites nothing, writes no status, loads and unloads no model. What the
  accelerator makes meanwhile is kept.
- *lost*: somebody else holds the Lease, or it was cut off for too long. It stops.

After a gap in which something may have happened unseen, `gaps` is higher: whoever wrote before it reads again first.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from videojob.runner.signals import Signal

POLL_SECONDS = 1.0
"""Between looks at whether time alone has made a runner lost."""
NOT_HELD = "the replica's Lease is not held"


class Standing(StrEnum):
    """How a runner stands with its Lease."""

    FRESH = "fresh"
    CUT_OFF = "cut off"
    LOST = "lost"


class LeaseLostError(Exception):
    """The replica is no longer ours; the text says why."""


class Permission(Protocol):
    """What there is to ask before doing something."""

    @property
    def standing(self) -> Standing:
        """How the runner stands now."""

    @property
    def gaps(self) -> int:
        """Times after which something may have happened unseen; it only rises."""

    def check(self) -> None:
        """Raises LeaseLostError where nothing may be done any more."""

    async def fresh(self) -> None:
        """Wait while cut off. Raises LeaseLostError where nothing may be done any more."""

    async def fresh_again(self) -> None:
        """Wait until everything may be done, however often the Lease is lost and taken meanwhile."""

    async def confirmed(self) -> None:
        """Wait until it is certain that nobody else holds the Lease at a time after this call."""


class Hold:
    """One runner's hold on its Lease. Times are seconds of `monotonic`, which runs on while the process is stopped."""

    def __init__(self, fresh_seconds: float, cut_off_seconds: float, monotonic: Callable[[], float]) -> None:
        """`cut_off_seconds` count from the last renewal, as `fresh_seconds` do; at least as many count."""
        self._fresh_seconds = fresh_seconds
        self._cut_off_seconds = max(cut_off_seconds, fresh_seconds)
        self._monotonic = monotonic
        self._renewed: float | None = None
        self._why = NOT_HELD
        self._turned = Signal()
        self.gaps = 0

    @property
    def age(self) -> float:
        """Seconds since the last renewal began; infinite where the Lease is not held."""
        return float("inf") if self._renewed is None else self._monotonic() - self._renewed

    @property
    def standing(self) -> Standing:
        """How the runner stands now. Lost stays lost until the Lease is taken anew."""
        age = self.age
        if age >= self._cut_off_seconds and self._renewed is not None:
            self.lose(f"its Lease could not be renewed for {self._cut_off_seconds:g} s")
        if self._renewed is None:
            return Standing.LOST
        return Standing.FRESH if age < self._fresh_seconds else Standing.CUT_OFF

    def take(self, began: float) -> None:
        """The Lease was taken, by a request that began then."""
        self._renewed = began
        self.gaps += 1
        self._turned.give()

    def renew(self, began: float, *, seen: bool = True) -> None:
        """It was renewed, by a request that began then; not `seen` where it was away before. Nothing, where lost."""
        standing = self.standing
        if standing is Standing.LOST:
            return
        if standing is Standing.CUT_OFF or not seen:
            self.gaps += 1
        self._renewed = began
        self._turned.give()

    def lose(self, why: str) -> None:
        """It is somebody else's, or nobody's."""
        self._renewed = None
        self._why = why
        self._turned.give()

    def check(self) -> None:
        """Raises LeaseLostError where nothing may be done any more."""
        if self.standing is Standing.LOST:
            raise LeaseLostError(self._why)

    async def fresh(self) -> None:
        """Wait while cut off. Raises LeaseLostError where nothing may be done any more."""
        while self.standing is not Standing.FRESH:
            self.check()
            await self._turned.wait(POLL_SECONDS)

    async def confirmed(self) -> None:
        """Wait until the Lease was renewed or taken by a request that began after this call."""
        asked = self._monotonic()
        while self._renewed is None or self._renewed <= asked:
            await self._turned.wait(POLL_SECONDS)

    async def fresh_again(self) -> None:
        """Wait until everything may be done, however often the Lease is lost and taken meanwhile."""
        while self.standing is not Standing.FRESH:
            await self._turned.wait(POLL_SECONDS)
