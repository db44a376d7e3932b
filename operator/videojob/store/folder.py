"""A folder of a store: its objects by keys relative to it, compared with what their records say of them.

A local folder is not synced to the disk at every write, so a file may be torn after a power failure. Reading compares
each with its sha256: this shows as CorruptObject, never as a wrong video.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from tenacity import AsyncRetrying

from videojob.store import layout
from videojob.store.errors import CorruptObject, StoreError
from videojob.store.location import uri_of
from videojob.store.objects import Objects, Store
from videojob.store.records import StoredObject

SINGLE_PUT_BYTES: Final = 64 << 20
"""Largest file that is put with one request, from memory."""
PARALLEL_READS: Final = 16
DELETE_ROUNDS: Final = 5
"""How often a deletion looks again, because somebody else writes or deletes there as well."""

R = TypeVar("R", bound=BaseModel)
K = TypeVar("K")
S = TypeVar("S")
T = TypeVar("T")


class Folder:
    """The objects below one folder. Every method may raise StoreError; those that read, CorruptObject."""

    def __init__(self, store: Store, root: str, retrying: AsyncRetrying | None = None) -> None:
        self._store = store
        self._root = root
        self._objects = Objects(store, retrying)

    def __repr__(self) -> str:
        return f"Folder({self._root})"

    def uri(self, key: str = "") -> str:
        """The URL of an object; of the folder without a key."""
        return uri_of(self._store, self._key(key))

    async def keys(self, below: str = "") -> list[str]:
        """The keys of all objects, or of those in a folder within, in no order."""
        return [key.removeprefix(f"{self._root}/") for key in await self._objects.list(self._key(below))]

    async def create(self, key: str, data: bytes) -> bool:
        """Put an object unless there is one; see `Objects.create`."""
        return await self._objects.create(self._key(key), data)

    async def put(self, name: str, suffix: str, data: bytes) -> StoredObject:
        """Put bytes under a key that begins with `name` and names them: whoever writes that key writes the same."""
        digest = await asyncio.to_thread(_sha256, data)
        stored = StoredObject(key=layout.content_key(name, digest, suffix), sha256=digest, size_bytes=len(data))
        await self.put_named(stored.key, data)
        return stored

    async def put_named(self, key: str, data: bytes) -> None:
        """Put bytes under a key that names them."""
        await self._objects.put(self._key(key), data)

    async def put_file(self, name: str, suffix: str, path: Path) -> StoredObject:
        """As `put`, the file at `path`, of any size."""
        size = (await asyncio.to_thread(path.stat)).st_size
        if size <= SINGLE_PUT_BYTES:
            return await self.put(name, suffix, await asyncio.to_thread(path.read_bytes))
        digest = await asyncio.to_thread(_sha256_of_file, path)
        stored = StoredObject(key=layout.content_key(name, digest, suffix), sha256=digest, size_bytes=size)
        await self._objects.upload(self._key(stored.key), path, size)
        return stored

    async def get(self, key: str, most: int | None = None) -> bytes | None:
        """An object, compared with nothing; None if it is missing. ObjectTooLarge if it has more than `most` bytes."""
        return await self._objects.get(self._key(key), most)

    async def read(self, stored: StoredObject) -> bytes | None:
        """An object, compared with its sha256; None if it is missing."""
        data = await self._objects.get(self._key(stored.key))
        if data is not None and (
            len(data) != stored.size_bytes or await asyncio.to_thread(_sha256, data) != stored.sha256
        ):
            raise CorruptObject(f"{self.uri(stored.key)} is damaged: its sha256 is not that of its record.")
        return data

    async def read_record(self, key: str, kind: type[R]) -> R | None:
        """A record; None if there is none."""
        data = await self._objects.get(self._key(key))
        try:
            return None if data is None else kind.model_validate_json(data)
        except ValidationError as error:
            raise CorruptObject(
                f"The record {self.uri(key)} cannot be read: {error.error_count()} of its fields are wrong."
            ) from error

    async def remove(self, keys: Sequence[str]) -> None:
        """Delete these."""
        await self._objects.delete([self._key(key) for key in keys])

    async def delete(self, doomed: Callable[[list[str]], list[str] | Awaitable[list[str]]]) -> int:
        """Delete the keys that `doomed` chooses from all, again and again until it chooses none; how many they were."""
        deleted: set[str] = set()
        for _ in range(DELETE_ROUNDS):
            chosen = doomed(await self.keys())
            keys = chosen if isinstance(chosen, list) else await chosen
            if not keys:
                await self._objects.tidy(self._root)
                return len(deleted)
            await self.remove(keys)
            deleted.update(keys)
        raise StoreError(f"{self.uri()} cannot be emptied: somebody still writes there.", retryable=True)

    def _key(self, relative: str) -> str:
        return f"{self._root}/{relative}".rstrip("/")


async def side_by_side(read: Callable[[K], Awaitable[T]], keys: Iterable[K]) -> list[T]:
    """What `read` gives for each key, in order, with some reads at a time. The first error ends the others."""
    room = asyncio.Semaphore(PARALLEL_READS)

    async def one(key: K) -> T:
        async with room:
            return await read(key)

    tasks = [asyncio.create_task(one(key)) for key in keys]
    await all_done(tasks)
    return [task.result() for task in tasks]


async def both(first: Coroutine[Any, Any, S], second: Coroutine[Any, Any, T]) -> tuple[S, T]:
    """What both give, made at the same time. The first error ends the other."""
    tasks = asyncio.create_task(first), asyncio.create_task(second)
    await all_done(tasks)
    return tasks[0].result(), tasks[1].result()


async def all_done(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait for all of them. The first error ends the others, and is raised once they have ended."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
