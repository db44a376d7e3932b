"""Object stores in memory, below the real JobStore: a bucket takes the place of a store, and has faults of its own.

What the commit protocol rests on holds here as in S3 and in a folder: an object is put whole or not at all, create-only
where asked for, and seen by everybody from then on.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from tests.simulation.clock import Clock
from tests.simulation.process import current
from videojob import store as store_package
from videojob.store import StoreError, folder, layout

Found = TypeVar("Found")
Ledger = Callable[[str, str, bool], None]
"""Called with the full key of an object, what happened to it (create, put, delete), and whether it was put."""


@dataclass
class Bucket:
    """The objects of one store, by key."""

    url: str
    clock: Clock
    rng: random.Random
    objects: dict[str, bytes] = field(default_factory=dict)
    down_until: float = 0.0
    """No request is answered."""
    locked: dict[str, float] = field(default_factory=dict)
    """By prefix: until then its objects cannot be deleted or written."""
    failing: float = 0.0
    """Share of requests that fail; half of the writes among them have taken place."""
    written: dict[str, float] = field(default_factory=dict)
    """When objects were put that are there or were."""
    ledger: Ledger = lambda key, what, done: None

    def below(self, prefix: str) -> list[str]:
        """Keys below a folder."""
        return sorted(key for key in self.objects if key == prefix or key.startswith(f"{prefix}/"))


class ModelObjects:
    """The requests that JobStore makes; see `videojob.store.objects.Objects`."""

    def __init__(self, store: Bucket, retrying: object = None) -> None:
        self._bucket = store

    async def create(self, key: str, data: bytes) -> bool:
        def action() -> bool:
            if key in self._bucket.objects:
                self._bucket.ledger(key, "create", False)
                return False
            self._write(key, data, "create")
            return True

        return await self._run(key, action, writes=True)

    async def put(self, key: str, data: bytes) -> None:
        await self._run(key, lambda: self._write(key, data, "put"), writes=True)

    async def upload(self, key: str, path: Path, size: int) -> None:
        await self.put(key, await asyncio.to_thread(path.read_bytes))

    async def get(self, key: str) -> bytes | None:
        return await self._run(key, lambda: self._bucket.objects.get(key))

    async def list(self, prefix: str) -> list[str]:
        return await self._run(prefix, lambda: self._bucket.below(prefix))

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._run(key, lambda key=key: self._delete(key), writes=True)  # type: ignore[misc]

    async def tidy(self, prefix: str) -> None:
        pass

    def _write(self, key: str, data: bytes, what: str) -> None:
        self._bucket.objects[key] = data
        self._bucket.written[key] = self._bucket.clock.monotonic()
        self._bucket.ledger(key, what, True)

    def _delete(self, key: str) -> None:
        if self._bucket.objects.pop(key, None) is not None:
            self._bucket.ledger(key, "delete", True)

    async def _run(self, key: str, action: Callable[[], Found], *, writes: bool = False) -> Found:
        """One request, tried again as the real client does."""
        for _ in range(3):
            try:
                return await self._once(key, action, writes)
            except StoreError as error:
                if not error.retryable:
                    raise
                last = error
                await asyncio.sleep(self._bucket.rng.uniform(0.2, 1.0))
        raise last

    async def _once(self, key: str, action: Callable[[], Found], writes: bool) -> Found:
        bucket, now = self._bucket, self._bucket.clock.monotonic()
        await asyncio.sleep(bucket.rng.uniform(0.001, 0.01))
        process = current()
        if process is not None and process.dead:
            raise asyncio.CancelledError
        if now < bucket.down_until:
            await asyncio.sleep(bucket.rng.choice((0.0, 3.0)))
            raise StoreError(f"{bucket.url} does not answer.", retryable=True)
        if writes and any(now < until and key.startswith(prefix) for prefix, until in bucket.locked.items()):
            raise StoreError(f"{bucket.url}/{key} must not be written.", retryable=False)
        if bucket.rng.random() < bucket.failing:
            if bucket.rng.random() < 0.5:
                action()
            raise StoreError(f"{bucket.url} failed.", retryable=True)
        return action()


@dataclass
class Stores:
    """All buckets, by URL."""

    clock: Clock
    rng: random.Random
    buckets: dict[str, Bucket] = field(default_factory=dict)

    def open(self, url: str, **options: Any) -> Bucket:
        """The bucket of that URL."""
        url = url.rstrip("/")
        if url not in self.buckets:
            self.buckets[url] = Bucket(url, self.clock, self.rng)
        return self.buckets[url]

    def calm(self) -> None:
        """No fault from now on."""
        for bucket in self.buckets.values():
            bucket.down_until, bucket.failing = 0.0, 0.0
            bucket.locked.clear()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Below everything that opens a store."""
        with ExitStack() as stack:
            stack.enter_context(patch.object(folder, "Objects", ModelObjects))
            stack.enter_context(patch.object(folder, "uri_of", lambda bucket, key: f"{bucket.url}/{key}"))
            stack.enter_context(patch.object(store_package, "open_store", self.open))
            yield


def committed(bucket: Bucket, root: str) -> dict[int, float]:
    """Pieces of a job whose records count: when each was put."""
    keys = [key.removeprefix(f"{root}/") for key in bucket.below(root)]
    log = layout.log(layout.closed(keys), layout.PIECES)
    found = {}
    for key in keys:
        index = layout.entry(key)
        if index is not None and key.startswith(f"{log}/"):
            found[index] = bucket.written[f"{root}/{key}"]
    return found
