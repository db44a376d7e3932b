"""What is where in a segment: its header, and its fragments after it (ISO/IEC 14496-12)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from videojob.media.errors import MediaError

_BOX: Final = struct.Struct(">I4s")
_NESTED: Final = frozenset({b"moof", b"traf"})


@dataclass(frozen=True)
class Fragment:
    """A `moof` with its `mdat`: it begins with a key frame."""

    frames: int
    size_bytes: int


@dataclass(frozen=True)
class Layout:
    """A segment from its first byte to its last: the header, then the fragments without gaps."""

    header_bytes: int
    fragments: tuple[Fragment, ...]


def layout_of(segment: bytes) -> Layout:
    """Where a segment of `encode_segment` has what. Raises MediaError where it is none, or is torn."""
    starts = [start for name, start, _ in _boxes(segment, 0, len(segment)) if name == b"moof"]
    if not starts:
        raise MediaError("The segment has no fragment in it.")
    ends = [*starts[1:], len(segment)]
    fragments = (Fragment(_frames(segment, start, end), end - start) for start, end in zip(starts, ends, strict=True))
    return Layout(starts[0], tuple(fragments))


def _frames(data: bytes, start: int, end: int) -> int:
    """The samples that the fragment's `trun` announces."""
    for name, at, stop in _boxes(data, start, end):
        if name in _NESTED and (found := _frames(data, at + _BOX.size, stop)):
            return found
        if name == b"trun":
            return int.from_bytes(data[at + 12 : at + 16], "big")
    return 0


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each box at one level."""
    while at < end:
        size, name = _BOX.unpack_from(data, at) if at + _BOX.size <= end else (0, b"")
        if not _BOX.size <= size <= end - at:
            raise MediaError("The segment is torn.")
        yield name, at, at + size
        at += size
