"""The files of one job, and the protocol by which they are written.

**Two logs.** One of what is denoised, a checkpoint a unit, and one of what is encoded, a segment a piece. An object is
put first, under a key that carries the attempt; then its record, create-only under its index, which names it with its
sha256. A crash before the record leaves a file that nobody looks at; after it, the unit or the piece is finished for
good. A piece's record names the sha256 of the checkpoint of every unit that its frames come from, and is put after
theirs. A job goes on at the first unit that has no record, and at the first piece that has none, or names another
checkpoint than the log of units does.

**Two writers.** One runner owns a job at a time, but an old one may still be running: a paused process, a cut network.
Nothing it does can change a committed chunk. Its files have keys of its own attempt. If its record comes first, that is
a valid chunk of this very job, which the successor adopts; if it comes second it is refused, and it learns who won.

**Closing.** Before the operator ends a job whose runner was lost, moves it to another pool or removes its files, it
closes the job for every attempt up to that runner's: `closed/<attempt>`, create-only, and the highest counts, so
closing is safe to repeat and nobody can lower it. From that moment on the log that was open is void, whatever is added
to it later: the attempts that follow write, and everybody reads, the log below `after/<attempt>/`. So no request of an
old runner, however late, can land where it counts, and a sweeper deletes only keys that no living attempt writes. A
runner learns of it at its next commit: it looks for `closed` once its record is put, and only a commit with no new
`closed` counts. If its record was put before the closing, whoever reads after closing sees that record; if after, the
runner sees that it is closed. A finished video counts in whatever log it is, as long as its attempt is not closed. An
attempt is closed while it is the job's newest: closing an older one takes the chunks, though never the video, of the
attempt that is at work.

**The same key twice.** A restarted runner may keep its attempt and put a file that its predecessor had put before it
died. If the bytes are the same, as they are where chunks are reproducible, the file is used as it is. If they differ
(another library, a file torn by a power failure) it must not be replaced, because the predecessor may be about to
commit it. The new bytes then go under a key that ends in their own sha256: whoever writes that key writes the same
bytes, so writing it over again is always safe.

**Large files.** No store takes more than one request create-only through this client. A video of more than
`SINGLE_PUT_BYTES` is uploaded in parts, straight to a key with its sha256, for the same reason. A killed upload is
never seen; on S3, let a lifecycle rule of the bucket abort incomplete multipart uploads.

**Power failures.** A local folder is not synced to the disk at every write, so a file may be torn afterwards. Reading
compares each file with its sha256: this shows as CorruptObject, never as a wrong video.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from tenacity import AsyncRetrying

from videojob.store import layout
from videojob.store.errors import CorruptObject, JobClosed, StoreError
from videojob.store.location import uri_of
from videojob.store.objects import Objects, Store
from videojob.store.prefix import Committed, committed, unbroken
from videojob.store.records import Commit, EntryT, OutputRecord, PieceRecord, Record, StoredObject, UnitRecord

SINGLE_PUT_BYTES: Final = 64 << 20
"""Largest video that is put with one request, from memory."""
PARALLEL_READS: Final = 16
DELETE_ROUNDS: Final = 5
"""How often a purge looks again, because somebody else writes or deletes there as well."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

R = TypeVar("R", bound=BaseModel)
K = TypeVar("K")
T = TypeVar("T")


class JobStore:
    """The files of one job. Every method may raise StoreError; those that read, CorruptObject."""

    def __init__(self, store: Store, namespace: str, uid: str, retrying: AsyncRetrying | None = None) -> None:
        """Raises ValueError if namespace or uid could lead out of the job's folder."""
        for name in (namespace, uid):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot be part of a path in the store: it is no Kubernetes namespace or uid."
                )
        self._store = store
        self._root = f"{namespace}/{uid}"
        self._objects = Objects(store, retrying)
        self._after: int | None = None

    def __repr__(self) -> str:
        return f"JobStore({self._root})"

    def uri(self, key: str = "") -> str:
        """The URL of an object, given its key in a record; of the job's folder without one."""
        return uri_of(self._store, f"{self._root}/{key}".rstrip("/"))

    async def closed(self) -> int:
        """The attempt up to which all have lost the job; 0 if none has."""
        keys = await self._objects.list(self._key(layout.CLOSED))
        return layout.closed([self._relative(key) for key in keys])

    async def close(self, attempt: int) -> None:
        """Take the job from this attempt and all before it, for good. Safe to repeat; see the module."""
        await self._objects.create(self._key(f"{layout.CLOSED}/{attempt}"), json.dumps({"attempt": attempt}).encode())

    async def committed(self) -> Committed:
        """What the job goes on from."""
        after = await self._opened()
        # Pieces first: a unit that is committed meanwhile is one more, but a piece would have none of its units.
        pieces = await self._entries(after, layout.PIECES, PieceRecord)
        return committed(await self._entries(after, layout.UNITS, UnitRecord), pieces)

    async def count(self) -> int:
        """How many units are committed; unlike `committed` it reads no record."""
        return len(await self._indexes(await self._opened(), layout.UNITS))

    async def commit_unit(
        self, *, index: int, attempt: int, checkpoint: bytes, stage_seconds: dict[str, float]
    ) -> Commit[UnitRecord]:
        """Finish a unit. Safe to repeat, whatever became of an earlier try.

        The record that comes back may be of a later attempt: then the job is theirs. Raises JobClosed.

        Args:
            index: Of the unit in the job.
            attempt: The caller's assignment (`status.attempts`).
            checkpoint: safetensors.
            stage_seconds: Seconds by stage.
        """
        after = await self._opened(attempt)
        stored = await self._put(layout.object_name(attempt, index), ".safetensors", checkpoint)
        record = UnitRecord(index=index, attempt=attempt, checkpoint=stored, stage_seconds=stage_seconds)
        return await self._append(after, layout.UNITS, record)

    async def commit_piece(
        self,
        *,
        index: int,
        attempt: int,
        frames: int,
        segment: bytes,
        units: Mapping[int, str],
        stage_seconds: dict[str, float],
    ) -> Commit[PieceRecord]:
        """Finish a piece, all of whose units are. As `commit_unit`; CorruptObject where it was made of others.

        Args:
            index: Of the piece in the job.
            attempt: The caller's assignment (`status.attempts`).
            frames: How many the segment has.
            segment: MP4, as `videojob.media.encode_segment` makes it.
            units: Those that its frames come from: the sha256 of the checkpoint of each, by index.
            stage_seconds: Seconds by stage.
        """
        after = await self._opened(attempt)
        record = PieceRecord(
            index=index,
            attempt=attempt,
            frames=frames,
            segment=await self._put(layout.object_name(attempt, index), ".mp4", segment),
            units=dict(units),
            stage_seconds=stage_seconds,
        )
        commit = await self._append(after, layout.PIECES, record)
        if commit.record.units != record.units:
            raise CorruptObject(
                f"Piece {index} of {self.uri()} was made from other checkpoints than the job's units have."
            )
        return commit

    async def read_segment(self, record: PieceRecord) -> bytes:
        """The piece's segment, compared with its sha256."""
        return await self._read(record.segment)

    async def read_checkpoints(self, records: Iterable[UnitRecord]) -> list[bytes]:
        """The checkpoints of these units, each compared with its sha256."""
        return await _side_by_side(self._read, [record.checkpoint for record in records])

    async def commit_output(self, *, attempt: int, path: Path, frames: int, duration_seconds: float) -> OutputRecord:
        """Finish the job with the MP4 at `path`, or return the record of the one it was finished with before.

        Raises JobClosed.
        """
        after = await self._opened(attempt)
        if (existing := await self.output()) is not None:
            return existing
        name = layout.output_name(attempt)
        size = (await asyncio.to_thread(path.stat)).st_size
        if size <= SINGLE_PUT_BYTES:
            video = await self._put(name, ".mp4", await asyncio.to_thread(path.read_bytes))
        else:
            digest = await asyncio.to_thread(_sha256_of_file, path)
            video = StoredObject(key=_named_by_content(name, ".mp4", digest), sha256=digest, size_bytes=size)
            await self._objects.upload(self._key(video.key), path, size)
        record = OutputRecord(attempt=attempt, frames=frames, duration_seconds=duration_seconds, **video.model_dump())
        return await self._commit(after, layout.output_key(after), record)

    async def output(self) -> OutputRecord | None:
        """The record of the finished video, if it is finished."""
        return (await self._output())[1]

    async def discard_parts(self) -> None:
        """Delete what the video was made of; it stays itself. Records first, so none is left that names nothing."""
        await self._delete(lambda keys: [key for key in keys if layout.entry(key) is not None])
        await self._delete(lambda keys: [key for key in keys if key.startswith(f"{layout.ATTEMPTS}/")])

    async def purge(self, keep_output: bool, *, keep_closed: bool = False) -> int:
        """Delete everything of the job.

        Args:
            keep_output: Leave its finished video and that one's record, if it is finished.
            keep_closed: Leave `closed`, so that a runner which still works on the job stops.

        Returns:
            How many objects were deleted.
        """
        key, output = await self._output() if keep_output else (None, None)
        kept = {key, output.key} if output else set()

        def doomed(keys: list[str]) -> list[str]:
            first = [key for key in keys if key not in kept and not layout.is_closed(key)]
            # Last of all, so that a runner which commits meanwhile learns that it must not.
            return first or [key for key in keys if layout.is_closed(key) and not keep_closed]

        return await self._delete(doomed)

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
            makers = await _side_by_side(lambda key: self._maker(key, newest), asked)
            found = [key for key, made in zip(asked, makers, strict=True) if made is not None and made <= attempt]
            kept.update({*asked} - {*found})
            return found

        deleted = await self._delete(doomed)
        if in_use:
            return deleted
        return deleted + await self._delete(lambda keys: [key for key in keys if layout.is_closed(key)])

    async def _maker(self, key: str, newest: int) -> int | None:
        """The attempt that made an object; None if that is none that is closed, or cannot be known."""
        if (attempt := layout.attempt(key)) is not None:
            return attempt
        after = layout.after(key)
        if after is None or after >= newest:
            return None
        try:
            record = await self._read_record(key, Record)
        except CorruptObject:
            return None
        return None if record is None else record.attempt

    async def _indexes(self, after: int, log: str) -> set[int]:
        keys = await self._objects.list(self._key(layout.log(after, log)))
        return {index for index in map(layout.entry, map(self._relative, keys)) if index is not None}

    async def _entries(self, after: int, log: str, kind: type[EntryT]) -> list[EntryT]:
        """The records of a log, up to the first that is missing."""

        async def read(index: int) -> EntryT:
            key = layout.entry_key(after, log, index)
            record = await self._read_record(key, kind)
            if record is None or record.index != index:
                raise await self._corrupt(f"The record {self.uri(key)} is not that of number {index}.")
            return record

        return await _side_by_side(read, unbroken(await self._indexes(after, log)))

    async def _append(self, after: int, log: str, record: EntryT) -> Commit[EntryT]:
        winner = await self._commit(after, layout.entry_key(after, log, record.index), record)
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
        keys = [self._relative(key) for key in await self._objects.list(self._root)]
        for key in layout.outputs(keys):
            record = await self._read_record(key, OutputRecord)
            if record is not None and record.attempt > layout.closed(keys):
                return key, record
        return None, None

    async def _put(self, name: str, suffix: str, data: bytes) -> StoredObject:
        """Put bytes so that no other bytes under the same key are ever replaced; see the module."""
        digest = await asyncio.to_thread(_sha256, data)
        key = name + suffix
        if not await self._objects.create(self._key(key), data):
            there = await self._objects.get(self._key(key))
            if there is None or await asyncio.to_thread(_sha256, there) != digest:
                key = _named_by_content(name, suffix, digest)
                await self._objects.put(self._key(key), data)
        return StoredObject(key=key, sha256=digest, size_bytes=len(data))

    async def _commit(self, after: int, key: str, record: R) -> R:
        """Put the record unless there is one; the record that counts from now on. Raises JobClosed."""
        created = await self._objects.create(self._key(key), record.model_dump_json(indent=1).encode())
        if (closed := await self.closed()) > after:
            raise JobClosed(self.uri(), closed)
        if created:
            return record
        existing = await self._read_record(key, type(record))
        if existing is None:
            raise StoreError(f"{self.uri(key)} was deleted while it was being committed.", retryable=True)
        return existing

    async def _read_record(self, key: str, kind: type[R]) -> R | None:
        data = await self._objects.get(self._key(key))
        try:
            return None if data is None else kind.model_validate_json(data)
        except ValidationError as error:
            raise CorruptObject(
                f"The record {self.uri(key)} cannot be read: {error.error_count()} of its fields are wrong."
            ) from error

    async def _read(self, stored: StoredObject) -> bytes:
        data = await self._objects.get(self._key(stored.key))
        if data is None:
            raise await self._corrupt(f"{self.uri(stored.key)} is missing, but its record is there.")
        if len(data) != stored.size_bytes or await asyncio.to_thread(_sha256, data) != stored.sha256:
            raise CorruptObject(f"{self.uri(stored.key)} is damaged: its sha256 is not that of its record.")
        return data

    async def _corrupt(self, sentence: str) -> StoreError:
        """What it means that an object is not there: the job may have been closed, and the attempt's files swept."""
        if self._after is not None and (closed := await self.closed()) > self._after:
            return JobClosed(self.uri(), closed)
        return CorruptObject(sentence)

    async def _delete(self, doomed: Callable[[list[str]], list[str] | Awaitable[list[str]]]) -> int:
        """Delete the keys that `doomed` chooses from all, again and again until it chooses none."""
        deleted: set[str] = set()
        for _ in range(DELETE_ROUNDS):
            chosen = doomed([self._relative(key) for key in await self._objects.list(self._root)])
            keys = chosen if isinstance(chosen, list) else await chosen
            if not keys:
                await self._objects.tidy(self._root)
                return len(deleted)
            await self._objects.delete([self._key(key) for key in keys])
            deleted.update(keys)
        raise StoreError(f"{self.uri()} cannot be emptied: somebody still writes there.", retryable=True)

    def _key(self, relative: str) -> str:
        return f"{self._root}/{relative}".rstrip("/")

    def _relative(self, key: str) -> str:
        return key.removeprefix(f"{self._root}/")


async def _side_by_side(read: Callable[[K], Awaitable[T]], keys: Iterable[K]) -> list[T]:
    """What `read` gives for each key, in order, with some reads at a time. The first error ends the others."""
    room = asyncio.Semaphore(PARALLEL_READS)

    async def one(key: K) -> T:
        async with room:
            return await read(key)

    tasks = [asyncio.create_task(one(key)) for key in keys]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _named_by_content(name: str, suffix: str, digest: str) -> str:
    return f"{name}-{digest[:16]}{suffix}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
