"""The files of one job, and the protocol by which they are written.

**Commit.** A chunk's segment and latents are put first, under keys that carry the attempt; then its record, create-only
under the chunk's index, which names both with their sha256. A crash before the record leaves files that nobody looks
at; after it, the chunk is finished for good. A job goes on at the first index that has no record.

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
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from tenacity import AsyncRetrying

from videojob.store import layout
from videojob.store.errors import CorruptObject, JobClosed, StoreError
from videojob.store.location import uri_of
from videojob.store.objects import Objects, Store
from videojob.store.records import ChunkRecord, Commit, OutputRecord, StoredObject

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
        self._log: int | None = None

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

    async def committed(self) -> tuple[ChunkRecord, ...]:
        """The records of chunks 0 to n - 1, where chunk n is the first that is not finished."""
        log = await self._opened()
        found = await self._indexes(log)
        unbroken = next(index for index in range(len(found) + 1) if index not in found)

        async def read(index: int) -> ChunkRecord:
            key = layout.chunk_key(log, index)
            record = await self._read_record(key, ChunkRecord)
            if record is None or record.index != index:
                raise await self._corrupt(f"The record {self.uri(key)} is not that of chunk {index}.")
            return record

        return tuple(await _side_by_side(read, range(unbroken)))

    async def count(self) -> int:
        """How many chunks are committed; unlike `committed` it reads no record."""
        return len(await self._indexes(await self._opened()))

    async def commit_chunk(
        self, *, index: int, attempt: int, frames: int, segment: bytes, latents: bytes, stage_seconds: dict[str, float]
    ) -> Commit:
        """Finish a chunk. Safe to repeat, whatever became of an earlier try.

        The record that comes back may be of a later attempt: then the job is theirs. Raises JobClosed.

        Args:
            index: Of the chunk in the job.
            attempt: The caller's assignment (`status.attempts`).
            frames: How many the segment has.
            segment: MP4, as `videojob.media.encode_segment` makes it.
            latents: safetensors.
            stage_seconds: Seconds by stage.
        """
        log = await self._opened(attempt)
        record = ChunkRecord(
            index=index,
            attempt=attempt,
            frames=frames,
            segment=await self._put(f"attempts/{attempt}/{index}", ".mp4", segment),
            latents=await self._put(f"attempts/{attempt}/{index}", ".safetensors", latents),
            stage_seconds=stage_seconds,
        )
        winner = await self._commit(log, layout.chunk_key(log, index), record)
        return Commit(winner, adopted=winner != record)

    async def read_segment(self, record: ChunkRecord) -> bytes:
        """The chunk's segment, compared with its sha256."""
        return await self._read(record.segment)

    async def read_latents(self, records: Iterable[ChunkRecord]) -> list[bytes]:
        """The latents of these chunks as safetensors, each compared with its sha256."""
        return await _side_by_side(self._read, [record.latents for record in records])

    async def commit_output(self, *, attempt: int, path: Path, frames: int, duration_seconds: float) -> OutputRecord:
        """Finish the job with the MP4 at `path`, or return the record of the one it was finished with before.

        Raises JobClosed.
        """
        log = await self._opened(attempt)
        if (existing := await self.output()) is not None:
            return existing
        name = f"output/{attempt}"
        size = (await asyncio.to_thread(path.stat)).st_size
        if size <= SINGLE_PUT_BYTES:
            video = await self._put(name, ".mp4", await asyncio.to_thread(path.read_bytes))
        else:
            digest = await asyncio.to_thread(_sha256_of_file, path)
            video = StoredObject(key=_named_by_content(name, ".mp4", digest), sha256=digest, size_bytes=size)
            await self._objects.upload(self._key(video.key), path, size)
        record = OutputRecord(attempt=attempt, frames=frames, duration_seconds=duration_seconds, **video.model_dump())
        return await self._commit(log, layout.output_key(log), record)

    async def output(self) -> OutputRecord | None:
        """The record of the finished video, if it is finished."""
        return (await self._output())[1]

    async def discard_chunks(self) -> None:
        """Delete records, segments and latents; the video stays. Records first, so none is left that names nothing."""
        await self._delete(lambda keys: [key for key in keys if layout.chunk(key)])
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
            found = []
            for key in keys:
                if key in kept:
                    continue
                if (maker := await self._maker(key, newest)) is not None and maker <= attempt:
                    found.append(key)
                else:
                    kept.add(key)
            return found

        deleted = await self._delete(doomed)
        if in_use:
            return deleted
        return deleted + await self._delete(lambda keys: [key for key in keys if layout.is_closed(key)])

    async def _maker(self, key: str, newest: int) -> int | None:
        """The attempt that made an object; None if that is none that is closed, or cannot be known."""
        if (attempt := layout.attempt(key)) is not None:
            return attempt
        log, kind = layout.record(key)
        if log is None or log >= newest:
            return None
        try:
            record = await self._read_record(key, kind)
        except CorruptObject:
            return None
        return None if record is None else record.attempt

    async def _indexes(self, log: int) -> set[int]:
        keys = await self._objects.list(self._key(layout.chunks_folder(log)))
        return {place.index for place in map(layout.chunk, map(self._relative, keys)) if place is not None}

    async def _opened(self, attempt: int | None = None) -> int:
        """The log that this client works on, which is what it found at first. Raises JobClosed."""
        if self._log is None:
            self._log = await self.closed()
        if attempt is not None and attempt <= self._log:
            raise JobClosed(self.uri(), self._log)
        return self._log

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

    async def _commit(self, log: int, key: str, record: R) -> R:
        """Put the record unless there is one; the record that counts from now on. Raises JobClosed."""
        created = await self._objects.create(self._key(key), record.model_dump_json(indent=1).encode())
        if (closed := await self.closed()) > log:
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
        if self._log is not None and (closed := await self.closed()) > self._log:
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
