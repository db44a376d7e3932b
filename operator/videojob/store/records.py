"""Records of a job: small JSON objects that are written once."""

import re
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

# Keys come back from the store, where anybody with access may have written them: they must stay below the job. Those
# that earlier versions of this software gave do not always say what is in the object.
Key = Annotated[
    str,
    StringConstraints(
        pattern=re.compile(r"^(attempts/\d+|output)/\d+(-[a-z]+)?(-[0-9a-f]{16})?\.(mp4|safetensors|m3u8|jpg|image)$")
    ),
]
Sha256 = Annotated[str, StringConstraints(pattern=re.compile(r"^[0-9a-f]{64}$"))]
Count = Annotated[int, Field(ge=0)]
Level = Annotated[float, Field(ge=0, le=1)]


class _Immutable(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class StoredObject(_Immutable):
    """An object and what it must hold."""

    key: Key
    """Relative to the job."""
    sha256: Sha256
    """Hexadecimal."""
    size_bytes: Count


class Record(_Immutable):
    """What every record says, whatever else is in it."""

    attempt: Count
    """The assignment that made it."""


class Indexed(Record):
    """A record in a log."""

    index: Count


class ImageRecord(Indexed):
    """An image that the job is made from: whatever becomes of the one that it was copied from."""

    image: StoredObject


class Entry(Indexed):
    """A record of something that was made."""

    stage_seconds: dict[str, FiniteFloat]
    """Seconds that each stage took for it."""


class UnitRecord(Entry):
    """A denoised unit."""

    checkpoint: StoredObject
    refreshed: bool = False
    """Whether it was made without the recent past of its shot, and those that follow without what was before it."""


class FragmentRecord(_Immutable):
    """A part of a segment that begins with a key frame."""

    frames: Annotated[int, Field(ge=1)]
    size_bytes: Count


class LayoutRecord(_Immutable):
    """A segment from its first byte to its last."""

    header_bytes: Count
    header_sha256: Sha256
    """All segments of a video have the same header, so that of the first serves them all."""
    fragments: Annotated[tuple[FragmentRecord, ...], Field(min_length=1)]


class LookRecord(_Immutable):
    """What a piece's frames look like: see `Look` of `videojob.media`. Of 8-bit values, 255 is 1."""

    colour: tuple[Level, Level, Level]
    """The mean of red, green and blue."""
    chroma: Level
    contrast: Level
    sharpness: Annotated[float, Field(ge=0, le=8)]
    motion: Level | None
    """None of a single frame."""
    small: Annotated[str, StringConstraints(pattern=re.compile(r"^[0-9a-f]{384}$"))]
    """A picture of 8 x 8 pixels, `[3, 8, 8]` uint8: hexadecimal."""


class PieceRecord(Entry):
    """A finished piece of the video."""

    frames: Annotated[int, Field(ge=1)]
    segment: StoredObject
    layout: LayoutRecord | None = None
    """Of the segment; earlier versions of this software did not write it down."""
    look: LookRecord | None = None
    """Of its frames; likewise."""
    units: Annotated[dict[Count, Sha256], Field(min_length=1)]
    """The units that its frames come from, by index: the sha256 of the checkpoint of each."""


class OutputRecord(Record, StoredObject):
    """The finished video: the MP4 or, where none is asked for, the playlist."""

    frames: Annotated[int, Field(ge=1)]
    duration_seconds: Annotated[float, Field(gt=0)]
    playlist: StoredObject | None = None
    """Of the whole video. It names segments: they belong to the output."""
    poster: StoredObject | None = None
    contact_sheet: StoredObject | None = None


EntryT = TypeVar("EntryT", bound=Indexed)


@dataclass(frozen=True)
class Commit(Generic[EntryT]):
    """The record in the log after a commit."""

    record: EntryT
    adopted: bool
    """Whether another writer's record was there already. `record` is then theirs, and the caller's work is not used."""
