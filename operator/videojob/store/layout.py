"""Where the objects of a job are: keys relative to its folder, and what a key contains.

A log is named by the attempt that was closed before it began, 0 for the first.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from videojob.store.records import ChunkRecord, OutputRecord

ATTEMPTS: Final = "attempts"
CLOSED: Final = "closed"

_LOG: Final = r"(?:after/(?P<log>[1-9]\d*)/)?"
_CHUNK = re.compile(_LOG + r"chunks/(?P<index>\d+)\.json")
_OUTPUT = re.compile(_LOG + r"output\.json")
_CLOSED = re.compile(r"closed/(\d+)")
_MADE = re.compile(r"(?:attempts|output)/(\d+)(?:/.*|[.-].*)")


@dataclass(frozen=True)
class ChunkPlace:
    """Where a chunk's record is."""

    log: int
    index: int


def _in_log(log: int, key: str) -> str:
    return f"after/{log}/{key}" if log else key


def chunks_folder(log: int) -> str:
    """Of the records of a log."""
    return _in_log(log, "chunks")


def chunk_key(log: int, index: int) -> str:
    """Of a chunk's record."""
    return _in_log(log, f"chunks/{index}.json")


def output_key(log: int) -> str:
    """Of the video's record."""
    return _in_log(log, "output.json")


def chunk(key: str) -> ChunkPlace | None:
    """What chunk's record this is, if it is one."""
    found = _CHUNK.fullmatch(key)
    return ChunkPlace(int(found["log"] or 0), int(found["index"])) if found else None


def outputs(keys: Iterable[str]) -> list[str]:
    """The keys among these of videos' records, from the newest log to the first."""
    found = [match for match in map(_OUTPUT.fullmatch, keys) if match]
    return [match[0] for match in sorted(found, key=lambda match: int(match["log"] or 0), reverse=True)]


def record(key: str) -> tuple[int | None, type[ChunkRecord | OutputRecord]]:
    """The log and the type of a record; None if this is none."""
    if (place := chunk(key)) is not None:
        return place.log, ChunkRecord
    found = _OUTPUT.fullmatch(key)
    return (int(found["log"] or 0) if found else None), OutputRecord


def is_closed(key: str) -> bool:
    """Whether this object closes attempts."""
    return _CLOSED.fullmatch(key) is not None


def closed(keys: Iterable[str]) -> int:
    """The attempt up to which these keys close the job."""
    return max((int(match[1]) for match in map(_CLOSED.fullmatch, keys) if match), default=0)


def attempt(key: str) -> int | None:
    """The attempt that a key of a segment, of latents or of a video names."""
    found = _MADE.fullmatch(key)
    return int(found[1]) if found else None
