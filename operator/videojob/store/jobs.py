"""The files of one job, and the protocol by which they are written.

**Two logs.** One of what is denoised, a checkpoint a unit, and one of what is encoded, a segment a piece. An object is
put first, under a key that carries the attempt; then its record, create-only under its index, which names it with its
sha256. A crash before the record leaves a file that nobody looks at; after it, the unit is finished. A piece's record
names the sha256 of the checkpoint of every unit that its frames come from, and is put after theirs. A job goes on at
the first unit that has no record, and the first piece that has none, or names another checkpoint.

**Two writers.** One runner owns a job at a time, but an old one may still be running: a paused process, a cut network.
Nothing it does can change a committed chunk. Its files have keys of its own attempt. If its record comes first, that is
a valid chunk of this very job, which the successor adopts; if it comes second it is refused, and it learns who won.

**Closing.** Before the operator ends a job whose runner was lost, moves it to another pool or removes its files, it
closes the job for every attempt up to that runner's: `closed/<attempt>`, create-only, and the highest counts, so
closing is safe to repeat and nobody can lower it. From that moment on the log that was open is void, whatever is added
to it later: the attempts that follow write, and everybody reads, the log below `after/<attempt>/`. So no request of an
old runner, however late, can land where it counts, and a sweeper deletes only keys that no living attempt writes. A
runner learns of it at its next commit: it looks for `closed` too, and only a commit with no new `closed` counts. The
video's commit looks once its record is put. If that was before the closing, whoever reads after closing sees the
record; if after, the runner sees that it is closed. A finished video counts in whatever log it is, as long as its
attempt is not closed. An attempt is closed while it is the job's newest: closing an older one takes the chunks, though
never the video, of the attempt that is at work.

**The same key twice.** A restarted runner may keep its attempt, and its predecessor may be about to commit what it put.
So the key of an object says what is in it, by the beginning of its sha256: whoever writes that key writes the same
bytes, and writing it over again is always safe. A large video is uploaded in parts: a killed upload is never seen.

**Round trips.** The commit of a unit or a piece is two: its object, then its record. `closed` is looked for while the
record is put. So a closing that came before the commit began is seen by it, and one that comes during it by the next
commit. Until then a runner may take for committed what nobody else sees, and only goes on, and writes a status, which
the attempt fences. Only a video ends the job and deletes its parts; so that commit looks for `closed` after its record,
and confirms all before it.

**Playlists.** With that of the finished video the segments that it names belong to the output (see `LivePlaylist`).
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeVar

from tenacity import AsyncRetrying

from videojob.store import layout
from videojob.store.errors import CorruptObject, JobClosed, StoreError
from videojob.store.folder import Folder, both, side_by_side
from videojob.store.given import Given
from videojob.store.live import LivePlaylist
from videojob.store.objects import Store
from videojob.store.partial import Partials
from videojob.store.prefix import Committed, committed, unbroken
from videojob.store.records import (
    Commit,
    EntryT,
    ImageRecord,
    LayoutRecord,
    LookRecord,
    OutputRecord,
    PieceRecord,
    Record,
    StoredObject,
    UnitRecord,
)

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

R = TypeVar("R", bound=Record)


class JobStore:
    """The files of one job. Every method may raise StoreError; those that read, CorruptObject."""

    def __init__(self, store: Store, namespace: str, uid: str, retrying: AsyncRetrying | None = None) -> None:
        """Raises ValueError if namespace or uid could lead out of the job's folder."""
        for name in (namespace, uid):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no Kubernetes namespace or uid: it cannot be part of a path.")
        self._folder = Folder(store, f"{namespace}/{uid}", retrying)
        self.given = Given(store, namespace, retrying)
        """What people have put into the job's namespace."""
        self._after: int | None = None
        self.partials = Partials(self._folder)
        """What units have come to that were paused."""
        self.live = LivePlaylist(self._folder)
        """What people watch while the video is made."""

    def __repr__(self) -> str:
        return f"JobStore({self._folder})"

    def uri(self, key: str = "") -> str:
        """The URL of an object, given its key in a record; of the job's folder without one."""
        return self._folder.uri(key)

    async def closed(self) -> int:
        """The attempt up to which all have lost the job; 0 if none has."""
        return layout.closed(await self._folder.keys(layout.CLOSED))

    async def close(self, attempt: int) -> None:
        """Take the job from this attempt and all before it, for good. Safe to repeat; see the module."""
        await self._folder.create(f"{layout.CLOSED}/{attempt}", json.dumps({"attempt": attempt}).encode())

    async def committed(self) -> Committed:
        """What the job goes on from."""
        after = await self._opened()
        # Pieces first: a unit that is committed meanwhile is one more, but a piece would have none of its units.
        pieces = await self._entries(after, layout.PIECES, PieceRecord)
        return committed(await self._entries(after, layout.UNITS, UnitRecord), pieces)

    async def later_pieces(self, known: int) -> list[PieceRecord]:
        """The pieces that are committed after the first `known` ones. Raises JobClosed."""
        after = await self._opened()
        if (closed := await self.closed()) > after:
            raise JobClosed(self.uri(), closed)
        return await self._entries(after, layout.PIECES, PieceRecord, known)

    async def count(self) -> int:
        """How many units are committed; unlike `committed` it reads no record."""
        return len(await self._indexes(await self._opened(), layout.UNITS))

    async def commit_unit(
        self, *, index: int, attempt: int, checkpoint: bytes, stage_seconds: dict[str, float], refreshed: bool = False
    ) -> Commit[UnitRecord]:
        """Finish a unit. Safe to repeat, whatever became of an earlier try.

        The record that comes back may be of a later attempt: then the job is theirs. Raises JobClosed.

        Args:
            index: Of the unit in the job.
            attempt: The caller's assignment (`status.attempts`).
            checkpoint: safetensors.
            stage_seconds: Seconds by stage.
            refreshed: Whether it was made without the recent past of its shot.
        """
        after = await self._opened(attempt)
        stored = await self._folder.put(layout.object_name(attempt, index), ".safetensors", checkpoint)
        record = UnitRecord(
            index=index, attempt=attempt, checkpoint=stored, stage_seconds=stage_seconds, refreshed=refreshed
        )
        return await self._append(after, layout.UNITS, record)

    async def commit_piece(
        self,
        *,
        index: int,
        attempt: int,
        frames: int,
        segment: bytes,
        units: Iterable[UnitRecord],
        stage_seconds: dict[str, float],
        layout_record: LayoutRecord | None = None,
        look: LookRecord | None = None,
    ) -> Commit[PieceRecord]:
        """Finish a piece, all of whose units are. As `commit_unit`; CorruptObject where it was made of others.

        Args:
            index: Of the piece in the job.
            attempt: The caller's assignment (`status.attempts`).
            frames: How many the segment has.
            segment: MP4, as `videojob.media.encode_segment` makes it.
            units: Those that its frames come from.
            stage_seconds: Seconds by stage.
            layout_record: What is where in the segment; without it, a playlist reads it for that.
            look: What its frames look like; without it, nobody sees them drift.
        """
        after = await self._opened(attempt)
        record = PieceRecord(
            index=index,
            attempt=attempt,
            frames=frames,
            segment=await self._folder.put(layout.object_name(attempt, index), ".mp4", segment),
            layout=layout_record,
            look=look,
            units={unit.index: unit.checkpoint.sha256 for unit in units},
            stage_seconds=stage_seconds,
        )
        commit = await self._append(after, layout.PIECES, record)
        if commit.record.units != record.units:
            raise CorruptObject(f"Piece {index} of {self.uri()} was made from other checkpoints than the job has.")
        return commit

    async def keep_image(self, *, index: int, attempt: int, image: bytes) -> None:
        """Have the job made from this image, unless there is one of that index already. Raises JobClosed."""
        after, name = await self._opened(attempt), layout.object_name(attempt, index)
        record = ImageRecord(index=index, attempt=attempt, image=await self._folder.put(name, ".image", image))
        await self._append(after, layout.IMAGES, record)

    async def image(self, index: int) -> bytes | None:
        """The image that was kept first; None if none was."""
        key = layout.entry_key(await self._opened(), layout.IMAGES, index)
        record = await self._folder.read_record(key, ImageRecord)
        return None if record is None else await self._read(record.image)

    async def read_segment(self, record: PieceRecord) -> bytes:
        """The piece's segment, compared with its sha256."""
        return await self._read(record.segment)

    async def read_checkpoints(self, records: Iterable[UnitRecord]) -> list[bytes]:
        """The checkpoints of these units, each compared with its sha256."""
        return await side_by_side(self._read, [record.checkpoint for record in records])

    async def commit_output(
        self,
        *,
        attempt: int,
        path: Path | None,
        frames: int,
        duration_seconds: float,
        playlist: str | None = None,
        poster: bytes | None = None,
        contact_sheet: bytes | None = None,
    ) -> OutputRecord:
        """Finish the job, or return the record of what it was finished with before. Raises JobClosed, ValueError.

        Args:
            attempt: The caller's assignment (`status.attempts`).
            path: The MP4; without one, the playlist is the video.
            frames: Of the video.
            duration_seconds: Of the video.
            playlist: Of the whole video; the segments that it names then belong to the output.
            poster: JPEG.
            contact_sheet: JPEG.
        """
        after = await self._opened(attempt)
        if (existing := await self.output()) is not None:
            return existing
        name = layout.output_name(attempt)
        listed = None if playlist is None else await self._folder.put(name, ".m3u8", playlist.encode())
        video = listed if path is None else await self._folder.put_file(name, ".mp4", path)
        if video is None:
            raise ValueError("A job is finished with an MP4, a playlist or both.")
        record = OutputRecord(
            attempt=attempt,
            frames=frames,
            duration_seconds=duration_seconds,
            playlist=listed,
            poster=await self._still(attempt, "poster", poster),
            contact_sheet=await self._still(attempt, "shots", contact_sheet),
            **video.model_dump(),
        )
        key = layout.output_key(after)
        created = await self._folder.create(key, _json(record))
        return await self._committed(after, key, record, created, await self.closed())

    async def output(self) -> OutputRecord | None:
        """The record of the finished video, if it is finished."""
        return (await self._output())[1]

    async def playlist(self, record: OutputRecord) -> str | None:
        """The playlist of the whole video, where there is one."""
        return None if record.playlist is None else (await self._read(record.playlist)).decode()

    async def discard_parts(self) -> None:
        """Delete what the video was made of; it stays itself. Records first, so none is left that names nothing."""
        record = await self.output()
        kept = set[str]() if record is None else layout.named(await self.playlist(record) or "")
        await self._folder.delete(lambda keys: [key for key in keys if layout.entry(key) is not None])
        await self._folder.delete(lambda keys: [key for key in keys if layout.is_part(key) and key not in kept])

    async def purge(self, keep_output: bool, *, keep_closed: bool = False) -> int:
        """Delete everything of the job.

        Args:
            keep_output: Leave its finished video and that one's record, if it is finished.
            keep_closed: Leave `closed`, so that a runner which still works on the job stops.

        Returns:
            How many objects were deleted.
        """
        key, output = await self._output() if keep_output else (None, None)
        kept = {key, *await self._kept(output)} if output else set()

        def doomed(keys: list[str]) -> list[str]:
            first = [key for key in keys if key not in kept and not layout.is_closed(key)]
            if layout.LIVE in first:
                return [layout.LIVE]  # Before what it names.
            # Last of all, so that a runner which commits meanwhile learns that it must not.
            return first or [key for key in keys if layout.is_closed(key) and not keep_closed]

        return await self._folder.delete(doomed)

    async def sweep(self, attempt: int, *, in_use: bool) -> int:
        """Close this attempt and all before it, and delete what they have left.

        Args:
            attempt: The newest that has lost the job.
            in_use: Whether a later attempt may have its files here. `closed` then stays, because its log begins there.

        Returns:
            How many objects were deleted.
        """
        await self.close(attempt)
        newest = await self.closed()
        kept: set[str] = set()

        async def doomed(keys: list[str]) -> list[str]:
            asked = [key for key in keys if key not in kept]
            makers = await side_by_side(lambda key: self._maker(key, newest), asked)
            found = [key for key, made in zip(asked, makers, strict=True) if made is not None and made <= attempt]
            if layout.LIVE in keys and layout.named(await self.live.read()) & {*found}:
                await self.live.remove()
            kept.update({*asked} - {*found})
            return found

        deleted = await self._folder.delete(doomed)
        if in_use:
            return deleted
        return deleted + await self._folder.delete(
            lambda keys: [key for key in keys if layout.is_closed(key) or key == layout.LIVE]
        )

    async def _kept(self, output: OutputRecord) -> set[str]:
        """The keys of a finished video, and of all that goes with it."""
        objects = (output, output.playlist, output.poster, output.contact_sheet)
        kept = {stored.key for stored in objects if stored is not None}
        try:
            text = await self.playlist(output)
        except CorruptObject:
            return {layout.LIVE, *kept, *(key for key in await self._folder.keys() if key.endswith(".mp4"))}
        return kept if text is None else {layout.LIVE, *kept, *layout.named(text)}

    async def _still(self, attempt: int, what: str, jpeg: bytes | None) -> StoredObject | None:
        return None if jpeg is None else await self._folder.put(layout.output_name(attempt, what), ".jpg", jpeg)

    async def _maker(self, key: str, newest: int) -> int | None:
        """The attempt that made an object; None if that is none that is closed, or cannot be known."""
        if (attempt := layout.attempt(key)) is not None:
            return attempt
        after = layout.after(key)
        if after is None or after >= newest:
            return None
        try:
            record = await self._folder.read_record(key, Record)
        except CorruptObject:
            return None
        return None if record is None else record.attempt

    async def _indexes(self, after: int, log: str) -> set[int]:
        keys = await self._folder.keys(layout.log(after, log))
        return {index for index in map(layout.entry, keys) if index is not None}

    async def _entries(self, after: int, log: str, kind: type[EntryT], first: int = 0) -> list[EntryT]:
        """The records of a log from the first one on, up to the first that is missing."""

        async def read(index: int) -> EntryT:
            key = layout.entry_key(after, log, index)
            record = await self._folder.read_record(key, kind)
            if record is None or record.index != index:
                raise await self._corrupt(f"The record {self.uri(key)} is not that of number {index}.")
            return record

        return await side_by_side(read, unbroken(await self._indexes(after, log))[first:])

    async def _append(self, after: int, log: str, record: EntryT) -> Commit[EntryT]:
        key = layout.entry_key(after, log, record.index)
        created, closed = await both(self._folder.create(key, _json(record)), self.closed())
        winner = await self._committed(after, key, record, created, closed)
        return Commit(winner, adopted=winner != record)

    async def _opened(self, attempt: int | None = None) -> int:
        """After which closing this client works, which is what it found at first. Raises JobClosed."""
        if self._after is None:
            self._after = await self.closed()
        if attempt is not None and attempt <= self._after:
            raise JobClosed(self.uri(), self._after)
        return self._after

    async def _output(self) -> tuple[str | None, OutputRecord | None]:
        """Key and record of the finished video."""
        keys = await self._folder.keys()
        for key in layout.outputs(keys):
            record = await self._folder.read_record(key, OutputRecord)
            if record is not None and record.attempt > layout.closed(keys):
                return key, record
        return None, None

    async def _committed(self, after: int, key: str, record: R, created: bool, closed: int) -> R:
        """The record that counts now that ours was put or refused. Raises JobClosed."""
        if closed > after:
            raise JobClosed(self.uri(), closed)
        existing = record if created else await self._folder.read_record(key, type(record))
        if existing is None:
            raise StoreError(f"{self.uri(key)} was deleted while it was being committed.", retryable=True)
        return existing

    async def _read(self, stored: StoredObject) -> bytes:
        data = await self._folder.read(stored)
        if data is None:
            raise await self._corrupt(f"{self.uri(stored.key)} is missing, but its record is there.")
        return data

    async def _corrupt(self, sentence: str) -> StoreError:
        """What it means that an object is not there: the job may have been closed, and the attempt's files swept."""
        if self._after is not None and (closed := await self.closed()) > self._after:
            return JobClosed(self.uri(), closed)
        return CorruptObject(sentence)


def _json(record: Record) -> bytes:
    return record.model_dump_json(indent=1).encode()
