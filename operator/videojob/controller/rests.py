"""How long a target rests after a write on it has failed, or a decision could not be made: longer each time."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from videojob.planner.book import Book
from videojob.planner.decisions import Target

REST_SECONDS = 1.0
REST_CAP_SECONDS = 60.0
FREE_CONFLICTS = 2
"""So many conflicts in a row cost no rest, as long as each brings a newer version of the object."""


class _Failures(NamedTuple):
    in_a_row: int
    until: float


class Rests:
    """Rests of all targets, in a book."""

    def __init__(self, book: Book, monotonic: Callable[[], float]) -> None:
        self._book = book
        self._monotonic = monotonic
        self._failures: OrderedDict[Target, _Failures] = OrderedDict()

    def failed(self, target: Target, *, free: int = 0) -> float:
        """Let the target rest, unless it is one of the first `free` failures in a row; for how many seconds."""
        now = self._monotonic()
        count = self._failures[target].in_a_row + 1 if target in self._failures else 1
        seconds = min(REST_SECONDS * 2.0 ** min(count - free - 1, 30), REST_CAP_SECONDS) if count > free else 0.0
        self._failures[target] = _Failures(count, now + seconds)
        self._failures.move_to_end(target)
        # What has rested and was not tried again for a while does not exist any more, or needs nothing.
        while self._failures and next(iter(self._failures.values())).until < now - 2 * REST_CAP_SECONDS:
            self._failures.popitem(last=False)
        if seconds:
            self._book.rest(target, now + seconds)
        return seconds

    def pause(self, target: Target, seconds: float) -> None:
        """Let the target rest, although nothing has failed: a write of it may wait."""
        self._book.rest(target, self._monotonic() + seconds)

    def succeeded(self, target: Target) -> None:
        """The next failure is the first in a row."""
        self._failures.pop(target, None)
