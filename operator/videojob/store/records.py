"""Records of a job's log: small JSON objects that are written once."""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

# Keys come back from the store, where anybody with access may have written them: they must stay below the job.
Key = Annotated[
    str, StringConstraints(pattern=re.compile(r"^(attempts/\d+|output)/\d+(-[0-9a-f]{16})?\.(mp4|safetensors)$"))
]
Sha256 = Annotated[str, StringConstraints(pattern=re.compile(r"^[0-9a-f]{64}$"))]
Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class StoredObject(_Record):
    """An object and what it must hold."""

    key: Key
    """Relative to the job."""
    sha256: Sha256
    """Hexadecimal."""
    size_bytes: Count


class ChunkRecord(_Record):
    """A finished chunk."""

    index: Count
    attempt: Count
    """The assignment that made it."""
    frames: Annotated[int, Field(ge=1)]
    segment: StoredObject
    latents: StoredObject
    stage_seconds: dict[str, FiniteFloat]
    """Seconds that each stage took for this chunk."""


class OutputRecord(StoredObject):
    """The finished video."""

    attempt: Count
    frames: Annotated[int, Field(ge=1)]
    duration_seconds: Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Commit:
    """The record in the log after a commit."""

    record: ChunkRecord
    adopted: bool
    """Whether another writer's record was there already. `record` is then theirs, and the caller's work is not used."""
