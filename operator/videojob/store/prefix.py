"""What counts of the two logs, and so where a job goes on. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from videojob.store.records import PieceRecord, UnitRecord


@dataclass(frozen=True)
class Committed:
    """What a job goes on from."""

    units: tuple[UnitRecord, ...]
    """Of units 0 to n - 1, where unit n is the first that is not denoised."""
    pieces: tuple[PieceRecord, ...]
    """Of pieces 0 to m - 1, where piece m is the first that is not finished, or not made from these very units."""


def unbroken(indexes: Collection[int]) -> range:
    """The indexes from 0 to the first that is missing."""
    return range(next(index for index in range(len(indexes) + 1) if index not in indexes))


def committed(units: Sequence[UnitRecord], pieces: Iterable[PieceRecord]) -> Committed:
    """What counts of two unbroken logs. A piece of which a unit is missing, or is another, ends that of pieces."""

    def matches(piece: PieceRecord) -> bool:
        return all(index < len(units) and units[index].checkpoint.sha256 == of for index, of in piece.units.items())

    return Committed(tuple(units), tuple(takewhile(matches, pieces)))
