"""The files of one job, and the protocol by which they are written.

**Commit.** A chunk's segment and latents are put first, under keys that carry the attempt; then its record, create-only
under the chunk's index, which names both with their sha256. A crash before the record leaves files that nobody looks
at; after it, the chunk is finished for good. A job goes on at the first index that has no record.

**Two writers.** One runner owns a job at a time, but an old one may still be running: a paused process, a cut network.
Nothing it does can change a committed chunk. Its files have keys of its own attempt. If its record comes first, that is
a valid chunk of this very job, which the successor adopts; if it comes second it is refused, and it learns who won.

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
import re
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError
from tenacity import AsyncRetrying

from videojob.store.errors import CorruptObject, StoreError
from videojob.store.location import uri_of
from videojob.store.objects import Objects, Store
from videojob.store.records import ChunkRecord, Commit, OutputRecord, StoredObject

SINGLE_PUT_BYTES: Final = 64 << 20
"""Largest video that is put with one request, from memory."""
PARALLEL_READS: Final = 16
DELETE_ROUNDS: Final = 5
"""How often a purge looks again, because somebody else writes or deletes there as well."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_CHUNK_KEY = re.compile(r"chunks/(\d+)\.json")
_OUTPUT_KEY: Final = "output.json"

R = TypeVar("R", ChunkRecord, OutputRecord)


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

    def __repr__(self) -> str:
        return f"JobStore({self._root})"

    def uri(self, key: str = "") -> str:
        """The URL of an object, given its key in a record; of the job's folder without one."""
        return uri_of(self._store, f"{self._root}/{key}".rstrip("/"))

    async def committed(self) -> tuple[ChunkRecord, ...]:
        """The records of chunks 0 to n - 1, where chunk n is the first that is not finished."""
        found = set()
        for key in await self._objects.list(self._key("chunks")):
            if match := _CHUNK_KEY.fullmatch(self._relative(key)):
                found.add(int(match[1]))
        unbroken = next(index for index in range(len(found) + 1) if index not in found)
        room = asyncio.Semaphore(PARALLEL_READS)

        async def read(index: int) -> ChunkRecord:
            async with room:
                record = await self._read_record(_chunk_key(index), ChunkRecord)
            if record is None or record.index != index:
                raise CorruptObject(f"The record {self.uri(_chunk_key(index))} is not that of chunk {index}.")
            return record

        return tuple(await asyncio.gather(*(read(index) for index in range(unbroken))))

    async def commit_chunk(
        self, *, index: int, attempt: int, frames: int, segment: bytes, latents: bytes, stage_seconds: dict[str, float]
    ) -> Commit:
        """Finish a chunk. Safe to repeat, whatever became of an earlier try.

        Args:
            index: Of the chunk in the job.
            attempt: The caller's assignment (`status.attempts`).
            frames: How many the segment has.
            segment: MP4, as `videojob.media.encode_segment` makes it.
            latents: safetensors.
            stage_seconds: Seconds by stage.
        """
        record = ChunkRecord(
            index=index,
            attempt=attempt,
            frames=frames,
            segment=await self._put(f"attempts/{attempt}/{index}", ".mp4", segment),
            latents=await self._put(f"attempts/{attempt}/{index}", ".safetensors", latents),
            stage_seconds=stage_seconds,
        )
        winner = await self._commit(_chunk_key(index), record)
        return Commit(winner, adopted=winner != record)

    async def read_segment(self, record: ChunkRecord) -> bytes:
        """The chunk's segment, compared with its sha256."""
        return await self._read(record.segment)

    async def read_latents(self, record: ChunkRecord) -> bytes:
        """The chunk's latents as safetensors, compared with their sha256."""
        return await self._read(record.latents)

    async def commit_output(self, *, attempt: int, path: Path, frames: int, duration_seconds: float) -> OutputRecord:
        """Finish the job with the MP4 at `path`, or return the record of the one it was finished with before."""
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
        return await self._commit(_OUTPUT_KEY, record)

    async def output(self) -> OutputRecord | None:
        """The record of the finished video, if it is finished."""
        return await self._read_record(_OUTPUT_KEY, OutputRecord)

    async def discard_chunks(self) -> None:
        """Delete records, segments and latents; the video stays. Records first, so none is left that names nothing."""
        await self._delete_below("chunks")
        await self._delete_below("attempts")

    async def purge(self, keep_output: bool) -> int:
        """Delete everything of the job, or everything but its finished video and that one's record.

        Returns:
            How many objects were deleted.
        """
        output = await self.output() if keep_output else None
        return await self._delete_below("", keep=frozenset({_OUTPUT_KEY, output.key}) if output else frozenset())

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

    async def _commit(self, key: str, record: R) -> R:
        """Put the record unless there is one; the record that counts from now on."""
        if await self._objects.create(self._key(key), record.model_dump_json(indent=1).encode()):
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
            raise CorruptObject(f"{self.uri(stored.key)} is missing, but its record is there.")
        if len(data) != stored.size_bytes or await asyncio.to_thread(_sha256, data) != stored.sha256:
            raise CorruptObject(f"{self.uri(stored.key)} is damaged: its sha256 is not that of its record.")
        return data

    async def _delete_below(self, folder: str, keep: frozenset[str] = frozenset()) -> int:
        deleted: set[str] = set()
        for _ in range(DELETE_ROUNDS):
            keys = [key for key in await self._objects.list(self._key(folder)) if self._relative(key) not in keep]
            if not keys:
                await self._objects.tidy(self._key(folder))
                return len(deleted)
            await self._objects.delete(keys)
            deleted.update(keys)
        raise StoreError(f"{self.uri(folder)} cannot be emptied: somebody still writes there.", retryable=True)

    def _key(self, relative: str) -> str:
        return f"{self._root}/{relative}".rstrip("/")

    def _relative(self, key: str) -> str:
        return key.removeprefix(f"{self._root}/")


def _chunk_key(index: int) -> str:
    return f"chunks/{index}.json"


def _named_by_content(name: str, suffix: str, digest: str) -> str:
    return f"{name}-{digest[:16]}{suffix}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
