"""Partial checkpoints: what a unit has come to that was paused between two of its steps.

Each is one object that describes itself: a header, one line of JSON, and what the denoiser gave. It is a hint. Whoever
goes on from one compares all that the unit's bytes depend on, so it is as good as the steps that it saves, whoever has
left it; and one that is torn, cannot be read or does not match is as good as none. So there is no log of them, and
closing the job takes none away.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from videojob.store import layout
from videojob.store.folder import Folder
from videojob.store.records import Count, Sha256

VERSION: Final = 1
"""Of the objects. Raise it where a family keeps other things between two steps than before."""


class Origin(BaseModel):
    """All that the steps of a unit are a function of."""

    model_config = ConfigDict(frozen=True, strict=True)

    unit: Count
    steps: Annotated[int, Field(ge=1)]
    past: Mapping[Count, Sha256]
    """The sha256 of the checkpoint of each unit that it needs."""
    request: Sha256
    """Of the unit, its settings and its images, as stages are asked for it."""
    weights: str
    """The digest of the model's weights."""


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    version: Literal[1] = VERSION
    origin: Origin
    step: Annotated[int, Field(ge=1)]
    sha256: Sha256
    """Of what follows."""


@dataclass(frozen=True)
class Partial:
    """What a unit has come to."""

    step: int
    """The steps that are made."""
    checkpoint: bytes
    """What the next one needs."""


class Partials:
    """The partial checkpoints of a job. Every method may raise StoreError."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    async def put(self, origin: Origin, attempt: int, partial: Partial) -> None:
        """Leave one. It replaces none: its key says what is in it."""
        data = await asyncio.to_thread(_packed, origin, partial)
        name = layout.partial_name(origin.unit, attempt, partial.step)
        await self._folder.put_named(layout.content_key(name, await asyncio.to_thread(_sha256, data), ""), data)

    async def find(self, origin: Origin) -> Partial | None:
        """The one with the most steps of those that come from this very origin."""
        for key in layout.partials(await self._folder.keys(layout.partial_folder(origin.unit))):
            data = await self._folder.get(key)
            if data is not None and (found := await asyncio.to_thread(_unpacked, data, origin)) is not None:
                return found
        return None

    async def discard(self, unit: int) -> None:
        """Delete those of a unit: it is committed."""
        await self._folder.remove(layout.partials(await self._folder.keys(layout.partial_folder(unit))))


def _packed(origin: Origin, partial: Partial) -> bytes:
    header = _Header(origin=origin, step=partial.step, sha256=_sha256(partial.checkpoint))
    return header.model_dump_json().encode() + b"\n" + partial.checkpoint


def _unpacked(data: bytes, origin: Origin) -> Partial | None:
    """What an object holds, where it is whole and comes from there."""
    line, _, checkpoint = data.partition(b"\n")
    try:
        header = _Header.model_validate_json(line)
    except ValidationError:
        return None
    whole = header.origin == origin and header.step < origin.steps
    if not whole or _sha256(checkpoint) != header.sha256:
        return None
    return Partial(header.step, checkpoint)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
