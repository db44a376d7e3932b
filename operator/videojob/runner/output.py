"""The video of a job: joined in a file while its pieces are committed, so that little is left to do after the last."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Final

from videojob.media import DiskError
from videojob.runner.clock import Clock
from videojob.runner.mux import write_mp4
from videojob.store import JobStore, PieceRecord
from videojob.store.folder import PARALLEL_READS, side_by_side

AT_HAND: Final = 8
"""Segments that wait in memory to be joined; of more that do, each is read from the store when its turn comes."""


class VideoFile:
    """The MP4 of the pieces that it is given, in the order of the video. It holds what is committed, and nothing else.

    Whatever keeps it from being joined is raised by the next `add`, or by `finish`: StoreError, JobClosed,
    CorruptObject, DiskError, MediaError.
    """

    def __init__(self, path: Path, files: JobStore, fps: Fraction, clock: Clock) -> None:
        self.pieces = 0
        """That it was given."""
        self.seconds = 0.0
        """That were spent on joining them."""
        self._path = path
        self._files = files
        self._clock = clock
        self._committed: asyncio.Queue[PieceRecord | None] = asyncio.Queue()  # As many as the job has pieces.
        self._at_hand: dict[int, bytes] = {}
        self._writing = asyncio.create_task(write_mp4(path, fps, self._segments()))

    def add(self, record: PieceRecord, segment: bytes | None = None) -> None:
        """The next piece was committed, with this segment; without one, it is read from the store."""
        if self._writing.done():
            self._writing.result()
        if segment is not None and len(self._at_hand) < AT_HAND:
            self._at_hand[record.index] = segment
        self._committed.put_nowait(record)
        self.pieces += 1

    async def finish(self) -> Path:
        """The file, once every piece that was added is in it."""
        self._committed.put_nowait(None)
        await self._writing
        return self._path

    async def close(self) -> None:
        """Nothing works on the file any more."""
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)

    async def _segments(self) -> AsyncIterator[bytes]:
        last = False
        while not last:
            batch = [await self._committed.get()]
            while len(batch) < PARALLEL_READS and not self._committed.empty():
                batch.append(self._committed.get_nowait())
            last = batch[-1] is None
            for segment in await side_by_side(self._segment, [record for record in batch if record is not None]):
                began = self._clock.monotonic()
                yield segment
                self.seconds += self._clock.monotonic() - began

    async def _segment(self, record: PieceRecord) -> bytes:
        at_hand = self._at_hand.pop(record.index, None)
        return await self._files.read_segment(record) if at_hand is None else at_hand


@asynccontextmanager
async def video_file(files: JobStore, fps: Fraction, clock: Clock) -> AsyncIterator[VideoFile]:
    """A `VideoFile` in a folder that goes when the block ends. Raises DiskError."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="videojob-", ignore_cleanup_errors=True)
    except OSError as error:
        raise DiskError(f"Could not make a folder for the video: {error.strerror or error}.") from error
    with folder as name:
        file = VideoFile(Path(name) / "output.mp4", files, fps, clock)
        try:
            yield file
        finally:
            await file.close()
