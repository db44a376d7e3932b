"""The final MP4, written in a thread: joining segments and moving the index to the front would stop the heartbeat."""

import asyncio
from collections.abc import AsyncIterable, Callable
from contextlib import AsyncExitStack
from fractions import Fraction
from pathlib import Path
from typing import ParamSpec, TypeVar

from videojob.media import Mp4Writer

P = ParamSpec("P")
T = TypeVar("T")


async def write_mp4(path: Path, fps: Fraction, segments: AsyncIterable[bytes]) -> None:
    """Join the segments, taken in order and one at a time. Where it is cancelled, no thread works on the file after.

    Raises MediaError, and what `segments` raises; then there is no file.
    """
    async with AsyncExitStack() as stack:
        mp4 = Mp4Writer(path, fps)
        stack.push_async_exit(lambda *error: _to_the_end(mp4.__exit__, *error))
        async for segment in segments:
            await _to_the_end(mp4.add, segment)


async def _to_the_end(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run it in a thread and wait for its end even where the caller is cancelled: FFmpeg's state is not for two."""
    thread = asyncio.create_task(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait({thread})
        raise
