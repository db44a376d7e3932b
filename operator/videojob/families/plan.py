"""Units and pieces: how a video is made, and how it is stored. Plain data that planner, runner and models agree on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Generic, TypeVar, overload

from pydantic import Field, PlainSerializer, PlainValidator

T = TypeVar("T")


def _span(value: object) -> range:
    match value:
        case range():
            return value
        case [int(start), int(stop)] if 0 <= start < stop:
            return range(start, stop)
    raise ValueError("it must be a start and a stop beyond it")


Span = Annotated[range, PlainValidator(_span), PlainSerializer(lambda span: (span.start, span.stop))]
"""Positions that follow each other; start and stop in JSON."""
Index = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Chunking:
    """How a model cuts its videos, and what its chunks remember; all in latents."""

    first: int
    """Of the first chunk."""
    later: int
    """Of every later one."""
    sink: int
    """Of the video's beginning, in the memory of every chunk."""
    window: int
    """Of the recent past, in whole chunks."""


class Memory(StrEnum):
    """What a shot takes over from those before it."""

    KEEP = "Keep"
    """The video goes on, as if within one shot."""
    REFRESH = "Refresh"
    """The beginning of what was kept until here, without the recent past."""
    CLEAR = "Clear"
    """Nothing: it begins as the first shot did."""


@dataclass(frozen=True)
class Shot:
    """A shot of the video that a plan is for."""

    frames: int
    """1 or more."""
    memory: Memory = Memory.CLEAR
    """Of the first shot it counts for nothing."""


@dataclass(frozen=True)
class Video:
    """The video that a plan is for."""

    shots: tuple[Shot, ...]
    """1 or more, in order."""
    fps: Fraction | int
    """Frames per second, exactly."""
    steps: int
    """Denoising steps of each unit."""
    refreshes: tuple[int, ...] = ()
    """Units that begin a recent past of their own, in order, none the first of its shot: for families with REFRESH."""


@dataclass(frozen=True)
class Unit:
    """What one request denoises: the unit of progress, retry, cancel, checkpoint and billing."""

    index: Index
    shot: Index
    steps: Annotated[int, Field(ge=1)]
    """Denoising steps."""
    latents: Span
    """The positions of its latents, counted from where the decoder last began anew: one that does so has the first."""
    needs: tuple[Index, ...]
    """Earlier units from whose checkpoints its denoising starts."""
    decode: tuple[Index, ...]
    """Earlier units whose checkpoints, decoded again, rebuild the decoder's state before this one."""
    frames: Span
    """The positions in the video of the frames that come out of the decoder here, counted on from the first of them.

    Those that no piece has are surplus: they lie beyond the end of its shot, where those of the next one begin.
    """
    history: Index = 0
    """How many latents just before it, the last ones of `needs`, its denoising goes on from.

    0 where there are none, or where the family takes what it needs whole. A clip that goes on from frames makes these
    again: then its own first latents are as many, and what they become is not among `frames`.
    """

    @property
    def begins_anew(self) -> bool:
        """Whether the decoder starts with it, and remembers nothing of what it decoded before."""
        return self.latents.start == 0


@dataclass(frozen=True)
class Piece:
    """What is encoded and stored as one segment."""

    index: int
    units: tuple[int, ...]
    """That its frames come out of."""
    frames: Span
    """Their positions in the video, none of them surplus."""


@dataclass(frozen=True)
class ShotPlan:
    """Where a shot stands in its video. It begins and ends with a unit and a piece."""

    frames: range
    """As many as it has in the end: a shot that the next one goes on from ends where a unit does."""
    units: range
    pieces: range


@dataclass(frozen=True)
class Plan:
    """All units and pieces of a video, in order. Equal arguments give an equal plan, wherever it is made.

    So does a video whose shots have the frames of `shots`.
    """

    shots: Sequence[ShotPlan]
    units: Sequence[Unit]
    pieces: Sequence[Piece]

    def ends_unit(self, piece: Piece) -> bool:
        """Whether no later piece comes from its last unit."""
        following = self.pieces[piece.index + 1 : piece.index + 2]
        return not following or following[0].units[-1] != piece.units[-1]


class Computed(Sequence[T], Generic[T]):
    """A sequence whose items are computed when they are asked for: of most plans only the length is."""

    def __init__(self, count: int, item: Callable[[int], T]) -> None:
        self._indexes = range(count)
        self._item = item

    def __len__(self) -> int:
        return len(self._indexes)

    def __iter__(self) -> Iterator[T]:
        return map(self._item, self._indexes)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self._item(each) for each in self._indexes[index]]
        return self._item(self._indexes[index])
