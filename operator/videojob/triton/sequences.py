"""State that a stage keeps for the sequences it is working on, and the rule that units come in order."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from videojob.triton.contract import ChunkError, ErrorCode

State = TypeVar("State")


@dataclass
class _Entry(Generic[State]):
    unit: int
    state: State
    used: float


class Sequences(Generic[State]):
    """State by correlation id, bounded in number and in age.

    A unit *takes* the state out and *keeps* it again once it is made. So a unit that fails leaves nothing behind and
    the one in flight after it is refused, instead of being made from a state that misses a unit.
    """

    def __init__(self, limit: int, idle_seconds: float, clock: Callable[[], float]) -> None:
        """Keep at most `limit` states, each for at most `idle_seconds` since it was last kept (`clock` in seconds)."""
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._entries: OrderedDict[str, _Entry[State]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def take(self, correlation_id: str, unit: int, *, begun: bool = False) -> State:
        """The state after unit `unit - 1`, or of this very unit where it is `begun`; removed from here.

        Raises ChunkError (OutOfSequence) where the last unit made is another one, or none is known.
        """
        self.expire()
        entry = self._entries.pop(correlation_id, None)
        if entry is None:
            raise ChunkError(
                ErrorCode.OUT_OF_SEQUENCE,
                f"Unit {unit} cannot be made: nothing is known of the units before it, "
                "because one of them failed, the sequence ended, or it was idle for too long.",
            )
        if entry.unit + (not begun) != unit:
            raise ChunkError(
                ErrorCode.OUT_OF_SEQUENCE, f"Unit {unit} cannot be made: the last unit made was {entry.unit}."
            )
        return entry.state

    def keep(self, correlation_id: str, unit: int, state: State) -> None:
        """Keep the state after `unit`; the least recently used sequences make room."""
        self._entries[correlation_id] = _Entry(unit, state, self._clock())
        self._entries.move_to_end(correlation_id)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def drop(self, correlation_id: str) -> None:
        """Forget the sequence, known or not."""
        self._entries.pop(correlation_id, None)

    def expire(self) -> None:
        """Forget sequences that were idle for too long: Triton does not notify a model that it dropped one."""
        oldest = self._clock() - self._idle_seconds
        for correlation_id in [name for name, entry in self._entries.items() if entry.used < oldest]:
            del self._entries[correlation_id]
