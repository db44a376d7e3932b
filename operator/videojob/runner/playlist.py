"""The playlist of a job: written over while its pieces are committed, and whole at the end.

Nothing waits for the writes of the one that grows: one that fails is tried again, and whatever is committed meanwhile
goes into the next. Only a runner that is fresh writes it, from the log as it is just before. So nobody writes one that
is older than the log, and what it names is there: segments are put before their records.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import chain
from typing import Final

from videojob.media import MediaError, MediaSegment, Range, layout_of, playlist
from videojob.runner.hold import Permission, Standing
from videojob.store import FragmentRecord, JobClosed, JobStore, LayoutRecord, PieceRecord, StoredObject, StoreError
from videojob.store.layout import in_playlist

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 5.0
"""Until one that is behind is tried again, where no piece is committed before."""


def layout_record(segment: bytes) -> LayoutRecord:
    """What is where in a segment, as its record says it. Raises MediaError."""
    found = layout_of(segment)
    return LayoutRecord(
        header_bytes=found.header_bytes,
        header_sha256=hashlib.sha256(segment[: found.header_bytes]).hexdigest(),
        fragments=tuple(FragmentRecord(frames=each.frames, size_bytes=each.size_bytes) for each in found.fragments),
    )


class Playlist:
    """The playlist of the pieces that it is given, in the order of the video.

    `shown` is called with its URL once it is in the store, and after every other write.
    """

    def __init__(self, files: JobStore, fps: Fraction, permission: Permission, shown: Callable[[str], None]) -> None:
        self._files = files
        self._fps = fps
        self._permission = permission
        self._shown = shown
        self._pieces: list[PieceRecord] = []
        self._layouts: list[LayoutRecord] = []
        """Of as many pieces as were needed so far."""
        self._first: StoredObject | None = None
        self._more = asyncio.Event()
        self._writing = asyncio.create_task(self._write_for_ever())

    def add(self, record: PieceRecord) -> None:
        """The next piece was committed."""
        self._pieces.append(record)
        self._more.set()

    async def finish(self) -> str:
        """That of all pieces, ended; nothing is written any more. Raises StoreError, MediaError."""
        await self.close()
        text = await self._text(self._pieces, ended=True)
        if text is None:
            raise MediaError("A video needs at least one segment.")
        return text

    async def close(self) -> None:
        """Nothing is written any more."""
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)

    async def _write_for_ever(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            try:
                behind = not await self._write()
            except JobClosed:
                return
            except (StoreError, MediaError) as error:
                log.warning("The playlist of %s is behind its video: %s", self._files, error)
                behind = True
            if behind:
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._more.set)

    async def _write(self) -> bool:
        """Whether it shows all that there is."""
        pieces = [*self._pieces]
        pieces += await self._files.later_pieces(len(pieces))
        text = await self._text(pieces, ended=False)
        if text is None:
            return True
        if self._permission.standing is not Standing.FRESH:
            return False
        await self._files.live.write(text)
        self._shown(self._files.live.uri)
        return True

    async def _text(self, pieces: Sequence[PieceRecord], *, ended: bool) -> str | None:
        """The playlist of these pieces; None while there is no media segment."""
        for piece in pieces[len(self._layouts) :]:
            self._layouts.append(piece.layout or layout_record(await self._files.read_segment(piece)))
        if len({each.header_sha256 for each in self._layouts}) > 1:
            raise MediaError(
                "The segments of the video have different headers. All chunks of a job have to be encoded by one "
                "version of the runner."
            )
        if not pieces:
            return None
        segments = list(chain.from_iterable(map(_segments, pieces, self._layouts)))
        if segments[0].frames == 1:
            if len(segments) > 1:
                first = await self._join(pieces[0], pieces[1])
                frames = segments[0].frames + segments[1].frames
                segments[:2] = [MediaSegment(Range(in_playlist(first.key), 0, first.size_bytes), frames)]
            elif not ended:
                return None
        header = Range(in_playlist(pieces[0].segment.key), 0, self._layouts[0].header_bytes)
        return playlist(header, segments, self._fps, ended=ended)

    async def _join(self, first: PieceRecord, second: PieceRecord) -> StoredObject:
        """The first media segment, where it is of two pieces. It is the same from whoever makes it."""
        if self._first is None:
            header, into = self._layouts[0].header_bytes, self._layouts[1]
            frame, more = await self._files.read_segment(first), await self._files.read_segment(second)
            data = frame[header:] + more[into.header_bytes :][: into.fragments[0].size_bytes]
            self._first = await self._files.live.put_first(second.attempt, data)
        return self._first


def _segments(piece: PieceRecord, layout: LayoutRecord) -> list[MediaSegment]:
    """The media segments of a piece, one a fragment."""
    segments, start = list[MediaSegment](), layout.header_bytes
    for fragment in layout.fragments:
        at = Range(in_playlist(piece.segment.key), start, fragment.size_bytes)
        segments.append(MediaSegment(at, fragment.frames))
        start += fragment.size_bytes
    return segments
