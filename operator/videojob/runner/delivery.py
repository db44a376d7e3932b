"""What people get of a job, in each format that it asks for, made while its pieces are committed."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from videojob.api.videojob import OutputStatus
from videojob.runner.clock import Clock
from videojob.runner.hold import Permission
from videojob.runner.output import VideoFile, video_file
from videojob.runner.playlist import Playlist
from videojob.runner.stills import Stills, stills
from videojob.store import JobStore, OutputRecord, PieceRecord, StoredObject


@dataclass(frozen=True)
class Made:
    """The video, ready to be committed."""

    mp4: Path | None
    playlist: str | None
    stills: Stills


class Delivery:
    """The MP4 and the playlist of the pieces that it is given, in the order of the video."""

    def __init__(self, files: JobStore, shots: Sequence[int], mp4: VideoFile | None, playlist: Playlist | None) -> None:
        self._files = files
        self._shots = shots
        self._pieces: list[PieceRecord] = []
        self._mp4 = mp4
        self._playlist = playlist

    @property
    def pieces(self) -> int:
        """How many it was given."""
        return len(self._pieces)

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
        self._pieces.append(record)

    async def finish(self) -> Made:
        """All of it. Raises what `VideoFile.finish` and `Playlist.finish` do."""
        return Made(
            mp4=None if self._mp4 is None else await self._mp4.finish(),
            playlist=None if self._playlist is None else await self._playlist.finish(),
            stills=await stills(self._files, self._pieces, self._shots),
        )


@asynccontextmanager
async def delivery(
    formats: Collection[str],
    files: JobStore,
    fps: Fraction,
    clock: Clock,
    permission: Permission,
    shown: Callable[[str], None],
    shots: Sequence[int],
) -> AsyncIterator[Delivery]:
    """A `Delivery` that works on nothing any more when the block ends. Raises DiskError.

    For `shown` see `Playlist`; `shots` are the first frame of each shot.
    """
    async with AsyncExitStack() as stack:
        mp4 = await stack.enter_async_context(video_file(files, fps, clock)) if "MP4" in formats else None
        playlist = Playlist(files, fps, permission, shown) if "HLS" in formats else None
        if playlist is not None:
            stack.push_async_callback(playlist.close)
        yield Delivery(files, shots, mp4, playlist)


def output_status(files: JobStore, record: OutputRecord) -> OutputStatus:
    """What the job's status says of its finished video."""

    def uri(stored: StoredObject | None) -> str | None:
        return None if stored is None else files.uri(stored.key)

    return OutputStatus(
        uri=files.uri(record.key),
        sha256=record.sha256,
        size_bytes=record.size_bytes,
        frames=record.frames,
        duration_seconds=record.duration_seconds,
        playlist_uri=uri(record.playlist),
        poster_uri=uri(record.poster),
        contact_sheet_uri=uri(record.contact_sheet),
    )
