"""Single requests to a store: each with a time limit, retried within bounds, failing with a StoreError."""

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, S3Store
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_exponential_jitter

from videojob.store.errors import ObjectTooLarge, StoreError, border, error_code

T = TypeVar("T")
Store = LocalStore | S3Store

REQUEST_SECONDS: Final = 20.0
"""For a request to be answered, beside the time that its bytes take: one that is silent for longer is made again."""
TRIES: Final = 5
RETRY_SECONDS: Final = 60.0
"""After which nothing is tried again."""
SLOWEST: Final = 1 << 20
"""Bytes per second below which a transfer counts as stuck."""
DELETE_SECONDS: Final = 0.05
"""For an object of many that are deleted at once."""
TIDY_SECONDS: Final = 60.0
PART_BYTES: Final = 8 << 20
"""Of a multipart upload; S3 takes 10,000 parts."""
PARALLEL_PARTS: Final = 4
LIST_PAGE: Final = 1000

_ATTRIBUTES: Final = {
    ".mp4": {"Content-Type": "video/mp4"},
    # Players ask for it again and again, to see it grow.
    ".m3u8": {"Content-Type": "application/vnd.apple.mpegurl", "Cache-Control": "no-cache"},
    ".jpg": {"Content-Type": "image/jpeg"},
}
"""Without which a browser does not play what a server of a bucket gives it."""

# A client that is killed while it writes to a local folder leaves a file called NAME#N; listings do not show it.
_STAGED: Final = re.compile(r"#\d+$")


def retry_policy() -> AsyncRetrying:
    """At most 5 tries, some 5 seconds of pauses, for failures that may pass by themselves."""
    return AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, StoreError) and error.retryable),
        stop=stop_after_attempt(TRIES) | stop_after_delay(RETRY_SECONDS),
        wait=wait_exponential_jitter(multiplier=0.2, max=5),
        reraise=True,
    )


class Objects:
    """The objects of a store. Every method raises StoreError."""

    def __init__(self, store: Store, retrying: AsyncRetrying | None = None) -> None:
        self._store = store
        self._retrying = retrying or retry_policy()

    async def create(self, key: str, data: bytes) -> bool:
        """Put a small object unless there is one of that key; whether it was put.

        False may also mean that an earlier try of this very call succeeded and its answer was lost. Small, because an
        S3 server may refuse it and hang up before it has read the body: with one of some hundred KiB the client would
        see a broken connection, not the refusal.
        """

        async def action(limit: asyncio.Timeout) -> bool:
            try:
                await obstore.put_async(self._store, key, data, mode="create")
            except AlreadyExistsError:
                return False
            return True

        return await self._run(f"write {key}", action, len(data) / SLOWEST)

    async def put(self, key: str, data: bytes) -> None:
        """Put an object in place of what is there."""

        async def action(limit: asyncio.Timeout) -> None:
            await obstore.put_async(
                *(self._store, key, data), mode="overwrite", use_multipart=False, attributes=self._attributes(key)
            )

        await self._run(f"write {key}", action, len(data) / SLOWEST)

    async def upload(self, key: str, path: Path, size: int) -> None:
        """Put a file of `size` bytes in place of what is there, in parts; it is seen whole or not at all."""

        async def action(limit: asyncio.Timeout) -> None:
            await obstore.put_async(
                *(self._store, key, path),
                mode="overwrite",
                use_multipart=True,
                attributes=self._attributes(key),
                chunk_size=PART_BYTES,
                max_concurrency=PARALLEL_PARTS,
            )

        await self._run(f"write {key}", action, size / SLOWEST)

    async def get(self, key: str, most: int | None = None) -> bytes | None:
        """The object, or None if there is none of that key. Raises ObjectTooLarge beyond `most` bytes."""

        async def action(limit: asyncio.Timeout) -> bytes | None:
            try:
                answer = await obstore.get_async(self._store, key)
                if most is not None and answer.meta["size"] > most:
                    raise ObjectTooLarge(answer.meta["size"])
                _extend(limit, answer.meta["size"] / SLOWEST)
                return bytes(await answer.bytes_async())
            except FileNotFoundError as error:
                if error_code(str(error)) == "NoSuchBucket":
                    raise
                return None

        return await self._run(f"read {key}", action)

    async def list(self, prefix: str) -> list[str]:
        """The keys below a folder, in no order."""

        async def action(limit: asyncio.Timeout) -> list[str]:
            keys: list[str] = []
            async for page in obstore.list(self._store, prefix, chunk_size=LIST_PAGE):
                keys += [entry["path"] for entry in page]
                _extend(limit)
            return keys

        return await self._run(f"list {prefix}", action)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, many at once where the store can. A key that is gone already ends its batch early."""
        for first in range(0, len(keys), LIST_PAGE):
            batch = keys[first : first + LIST_PAGE]

            async def action(limit: asyncio.Timeout, batch: Sequence[str] = batch) -> None:
                try:
                    await obstore.delete_async(self._store, batch)
                except FileNotFoundError as error:
                    if error_code(str(error)) == "NoSuchBucket":
                        raise

            await self._run(f"delete {batch[0]} and {len(batch) - 1} more", action, len(batch) * DELETE_SECONDS)

    async def tidy(self, prefix: str) -> None:
        """Remove what a local folder keeps of deleted objects: empty folders, and parts that a killed writer left."""
        store = self._store
        if isinstance(store, LocalStore):

            async def action(limit: asyncio.Timeout) -> None:
                await asyncio.to_thread(_tidy, folder_of(store), prefix)

            await self._run(f"tidy {prefix}", action, TIDY_SECONDS)

    def _attributes(self, key: str) -> dict[str, str] | None:
        """What is kept with an object; a local folder takes nothing of the kind."""
        return None if isinstance(self._store, LocalStore) else _ATTRIBUTES.get(Path(key).suffix)

    async def _run(self, doing: str, action: Callable[[asyncio.Timeout], Awaitable[T]], more_seconds: float = 0.0) -> T:
        async def once() -> T:
            with border(doing):
                async with asyncio.timeout(REQUEST_SECONDS + more_seconds) as limit:
                    return await action(limit)

        return await self._retrying.copy()(once)


def _extend(limit: asyncio.Timeout, more_seconds: float = 0.0) -> None:
    """The store has answered: it gets the time of another answer, from now."""
    limit.reschedule(asyncio.get_running_loop().time() + REQUEST_SECONDS + more_seconds)


def folder_of(store: LocalStore) -> Path:
    """The folder of a local store."""
    return Path(str(store.prefix))


def _tidy(root: Path, prefix: str) -> None:
    for folder, _, names in os.walk(root / prefix, topdown=False):
        for name in names:
            if _STAGED.search(name):
                Path(folder, name).unlink(missing_ok=True)
        _remove_if_empty(Path(folder))
    for parent in (root / prefix).relative_to(root).parents[:-1]:
        _remove_if_empty(root / parent)


def _remove_if_empty(folder: Path) -> None:
    """A folder with something in it stays; so does one that another process has removed or filled meanwhile."""
    with contextlib.suppress(OSError):
        folder.rmdir()
