"""Whether a store keeps every promise that the commit protocol rests on, tried for real."""

import asyncio
import contextlib
import secrets
import tempfile
from pathlib import Path
from typing import Final

from tenacity import AsyncRetrying

from videojob.store.errors import StoreError
from videojob.store.objects import Objects, Store

CHECKS: Final = ".check"
"""Folder of the checks' objects. No namespace can be called so."""
SMALL_BYTES: Final = 4096
LARGE_BYTES: Final = 256 << 10

NAMES: Final = ("read", "created", "raced", "large", "parts")
"""Of the objects that a check puts."""


async def check_store(store: Store, retrying: AsyncRetrying | None = None) -> None:
    """Try what jobs will do in the store, and leave nothing behind; replicas do so at the same time.

    Raises:
        StoreError: The store cannot be used; or it answers, and the sentence names the promise that it breaks.
    """
    # Nobody else uses this folder: neither another replica nor an earlier check.
    objects, folder = Objects(store, retrying), f"{CHECKS}/{secrets.token_hex(8)}"
    try:
        await _reads_follow_writes(objects, f"{folder}/read")
        await _first_create_wins(objects, f"{folder}/created")
        await _one_of_two_creates_wins(objects, f"{folder}/raced")
        await _large_objects_are_whole(objects, folder)
        await _listings_follow_writes(objects, folder)
    finally:
        with contextlib.suppress(StoreError):
            for name in NAMES:  # One by one: a key that is gone already ends its batch.
                await objects.delete([f"{folder}/{name}"])
            await objects.tidy(folder)


async def _reads_follow_writes(objects: Objects, key: str) -> None:
    for _ in range(2):
        data = secrets.token_bytes(SMALL_BYTES)
        await objects.put(key, data)
        await _expect(objects, key, data)


async def _first_create_wins(objects: Objects, key: str) -> None:
    first, second = secrets.token_bytes(SMALL_BYTES), secrets.token_bytes(SMALL_BYTES)
    await objects.create(key, first)
    await _expect(objects, key, first)
    if await objects.create(key, second) or await objects.get(key) != first:
        raise _broken("it replaces an object that was to be created only if there is none (If-None-Match: *)")


async def _one_of_two_creates_wins(objects: Objects, key: str) -> None:
    rivals = [secrets.token_bytes(SMALL_BYTES) for _ in range(2)]
    won = await asyncio.gather(*(objects.create(key, data) for data in rivals))
    found = await objects.get(key)
    # Nobody has won where the answer to the winner's first try was lost.
    winners = [data for data, created in zip(rivals, won, strict=True) if created] or rivals
    if all(won) or found not in winners:
        raise _broken("of two writers that create one object at the same time, not exactly one wins (If-None-Match: *)")


async def _large_objects_are_whole(objects: Objects, folder: str) -> None:
    large = secrets.token_bytes(LARGE_BYTES)
    await objects.put(f"{folder}/large", large)
    await _expect(objects, f"{folder}/large", large)
    parts = secrets.token_bytes(SMALL_BYTES)
    with tempfile.TemporaryDirectory(prefix="videojob-") as local:
        path = Path(local, "parts")
        await asyncio.to_thread(path.write_bytes, parts)
        await objects.upload(f"{folder}/parts", path, len(parts))
    await _expect(objects, f"{folder}/parts", parts)


async def _listings_follow_writes(objects: Objects, folder: str) -> None:
    keys = {f"{folder}/{name}" for name in NAMES}
    if set(await objects.list(folder)) != keys:
        raise _broken("a listing does not show the objects that were put before it")
    gone = f"{folder}/read"
    await objects.delete([gone])
    if set(await objects.list(folder)) != keys - {gone}:
        raise _broken("a listing still shows an object that was deleted before it, or does not show one that is there")
    if await objects.get(gone) is not None:
        raise _broken("it still gives an object that was deleted")
    await objects.delete([gone])


async def _expect(objects: Objects, key: str, data: bytes) -> None:
    if await objects.get(key) != data:
        raise _broken("it does not give back what was put there a moment ago")


def _broken(what: str) -> StoreError:
    return StoreError(
        f"The store cannot be used, because {what}: finished work could be lost there. Use a store with strong "
        "consistency and conditional writes, without a cache in front of it.",
        retryable=True,
    )
