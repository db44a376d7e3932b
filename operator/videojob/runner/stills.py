"""The poster and the contact sheet of a video, from the segments in the store.

The poster is the first frame: a player that shows it until the video begins then goes on from it without a jump. The
contact sheet has the middle frame of every shot, because a shot's first one may still look like the shot before.
"""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from videojob.media import MediaError, contact_sheet, jpeg, picture, thumbnail
from videojob.media.stills import Picture
from videojob.store import JobStore, PieceRecord, StoreError

log = logging.getLogger(__name__)

SECONDS: Final = 60.0
"""A video does not wait longer for its pictures."""


@dataclass(frozen=True)
class Stills:
    """Pictures of a video, as JPEG."""

    poster: bytes | None = None
    contact_sheet: bytes | None = None


async def stills(files: JobStore, pieces: Sequence[PieceRecord], shots: Sequence[int]) -> Stills:
    """The pictures of a finished video. Raises nothing: a video without them is a video.

    Args:
        files: Where its segments are.
        pieces: All of them.
        shots: The first frame of each shot.
    """
    try:
        async with asyncio.timeout(SECONDS):
            return await _stills(files, pieces, shots)
    except (StoreError, MediaError, TimeoutError) as error:
        log.warning("%s has no poster and no contact sheet: %s", files, str(error) or "it took too long")
    return Stills()


async def _stills(files: JobStore, pieces: Sequence[PieceRecord], shots: Sequence[int]) -> Stills:
    ends = [*accumulate(piece.frames for piece in pieces)]

    async def frame(position: int) -> Picture:
        index = bisect_right(ends, position)
        segment = await files.read_segment(pieces[index])
        return await asyncio.to_thread(picture, segment, position - (ends[index] - pieces[index].frames))

    async def poster() -> bytes:
        return await asyncio.to_thread(jpeg, await frame(0))

    async def sheet() -> bytes:
        small: list[Picture] = []
        for first, end in zip(shots, [*shots[1:], ends[-1]], strict=True):  # One after the other: they are large.
            small.append(await asyncio.to_thread(thumbnail, await frame((first + end) // 2), len(shots)))
        return await asyncio.to_thread(lambda: jpeg(contact_sheet(small)))

    return Stills(poster=await poster(), contact_sheet=await sheet())
