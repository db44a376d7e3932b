"""What people get of a job, in each format that it asks for, made while its pieces are committed."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from videojob.runner.clock import Clock
from videojob.runner.hold import Permission
from videojob.runner.output import VideoFile, video_file
from videojob.runner.playlist import Playlist
from videojob.store import JobStore, PieceRecord


@dataclass(frozen=True)
class Made:
    """The video, ready to be committed."""

    mp4: Path | None
    playlist: str | None


class Delivery:
    """The MP4 and the playlist of the pieces that it is given, in the order of the video."""

    def __init__(self, mp4: VideoFile | None, playlist: Playlist | None) -> None:
        self.pieces = 0
        """That it was given."""
        self._mp4 = mp4
        self._playlist = playlist

    @property
    def seconds(self) -> float:
        """That were spent on joining the MP4."""
        return 0.0 if self._mp4 is None else self._mp4.seconds

    def add(self, record: PieceRecord, segment: bytes | None = None) -> None:
        """The next piece was committed, with this segment where it is at hand. Raises what `VideoFile.add` does."""
        if self._mp4 is not None:
            self._mp4.add(record, segment)
        if self._playlist is not None:
            self._playlist.add(record)
        self.pieces += 1

    async def finish(self) -> Made:
        """All of it. Raises what `VideoFile.finish` and `Playlist.finish` do."""
        return Made(
            mp4=None if self._mp4 is None else await self._mp4.finish(),
            playlist=None if self._playlist is None else await self._playlist.finish(),
        )


@asynccontextmanager
async def delivery(
    formats: Collection[str],
    files: JobStore,
    fps: Fraction,
    clock: Clock,
    permission: Permission,
    shown: Callable[[str], None],
) -> AsyncIterator[Delivery]:
    """A `Delivery` that works on nothing any more when the block ends; for `shown` see `Playlist`. Raises DiskError."""
    async with AsyncExitStack() as stack:
        mp4 = await stack.enter_async_context(video_file(files, fps, clock)) if "MP4" in formats else None
        playlist = Playlist(files, fps, permission, shown) if "HLS" in formats else None
        if playlist is not None:
            stack.push_async_callback(playlist.close)
        yield Delivery(mp4, playlist)
