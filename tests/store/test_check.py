"""A store is used only if it keeps what the commit protocol rests on; else the error names what it lacks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import obstore
import pytest

from tests.s3 import running_s3
from tests.store.conftest import Place, without_pauses
from videojob.store import StoreError, check_store
from videojob.store.check import LARGE_BYTES

Patch = pytest.MonkeyPatch


async def test_a_store_that_keeps_its_promises(place: Place) -> None:
    await asyncio.gather(*(check_store(place.open()) for _ in range(3)))
    assert place.files() == set()
    if place.url.startswith("file:"):
        assert list(place.folder.iterdir()) == []


async def test_a_store_that_is_reached_by_ipv6(tmp_path: Path) -> None:
    with running_s3(tmp_path, host="::1") as server:
        assert server.endpoint.startswith("http://[::1]:")
        name = server.bucket()
        place = Place(f"s3://{name}", server.buckets / name, server.endpoint, server.credentials)
        await check_store(place.open(), without_pauses())
        assert (await place.job().committed()).units == ()


class Answer:
    """What `get_async` gives."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.meta = {"size": len(data)}

    async def bytes_async(self) -> bytes:
        return self.data


def ignores_conditions(patch: Patch) -> None:
    put = obstore.put_async

    async def overwrite(*args: Any, **kwargs: Any) -> object:
        return await put(*args, **{**kwargs, "mode": "overwrite"})

    patch.setattr(obstore, "put_async", overwrite)


def looks_before_it_writes(patch: Patch) -> None:
    """Conditions hold for one writer, and for two at once they do not."""
    put, together = obstore.put_async, asyncio.Barrier(2)

    async def in_two_steps(store: Any, key: str, *args: Any, **kwargs: Any) -> object:
        if kwargs["mode"] == "create" and key.endswith("/raced"):
            with pytest.raises(FileNotFoundError):
                await obstore.head_async(store, key)
            await together.wait()
            kwargs["mode"] = "overwrite"
        return await put(store, key, *args, **kwargs)

    patch.setattr(obstore, "put_async", in_two_steps)


def tears_large_objects(patch: Patch) -> None:
    put = obstore.put_async

    async def torn(store: Any, key: str, data: Any, **kwargs: Any) -> object:
        large = isinstance(data, bytes) and len(data) >= LARGE_BYTES
        return await put(store, key, data[:-1] if large else data, **kwargs)

    patch.setattr(obstore, "put_async", torn)


def reads_from_a_cache(patch: Patch) -> None:
    get, cache = obstore.get_async, dict[str, bytes]()

    async def cached(store: Any, key: str) -> Answer:
        if key not in cache:
            cache[key] = bytes(await (await get(store, key)).bytes_async())
        return Answer(cache[key])

    patch.setattr(obstore, "get_async", cached)


def still_gives_what_was_deleted(patch: Patch) -> None:
    get, cache = obstore.get_async, dict[str, bytes]()

    async def cached(store: Any, key: str) -> Answer:
        try:
            cache[key] = bytes(await (await get(store, key)).bytes_async())
        except FileNotFoundError:
            if key not in cache:
                raise
        return Answer(cache[key])

    patch.setattr(obstore, "get_async", cached)


def listing(change: Callable[[list[Any]], list[Any]]) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        real = obstore.list

        async def changed(*args: Any, **kwargs: Any) -> AsyncIterator[list[Any]]:
            yield change([entry async for page in real(*args, **kwargs) for entry in page])

        patch.setattr(obstore, "list", changed)

    return apply


def lists_what_was_deleted(patch: Patch) -> None:
    seen: dict[str, Any] = {}

    def change(entries: list[Any]) -> list[Any]:
        seen.update({entry["path"]: entry for entry in entries})
        return list(seen.values())

    listing(change)(patch)


def tears_uploads(patch: Patch) -> None:
    put = obstore.put_async

    async def torn(store: Any, key: str, data: Any, **kwargs: Any) -> object:
        if isinstance(data, Path):
            data.write_bytes(data.read_bytes()[:-1])
        return await put(store, key, data, **kwargs)

    patch.setattr(obstore, "put_async", torn)


def refuses_to_delete_twice(patch: Patch) -> None:
    delete, gone = obstore.delete_async, set[str]()

    async def once(store: Any, keys: list[str]) -> None:
        if gone & set(keys):
            raise obstore.exceptions.GenericError("status code: 400 <Code>NoSuchKey</Code><Message>No key.</Message>")
        gone.update(keys)
        await delete(store, keys)

    patch.setattr(obstore, "delete_async", once)


BROKEN: dict[str, tuple[Callable[[Patch], None], str]] = {
    "conditions": (ignores_conditions, "replaces an object that was to be created only if there is none"),
    "races": (looks_before_it_writes, "of two writers that create one object at the same time, not exactly one wins"),
    "large": (tears_large_objects, "does not give back what was put there a moment ago"),
    "stale reads": (reads_from_a_cache, "does not give back what was put there a moment ago"),
    "stale listings": (listing(lambda entries: entries[1:]), "a listing does not show the objects that were put"),
    "deleted, listed": (lists_what_was_deleted, "a listing still shows an object that was deleted"),
    "deleted, read": (still_gives_what_was_deleted, "still gives an object that was deleted"),
    "uploads": (tears_uploads, "does not give back what was put there a moment ago"),
    "deleted twice": (refuses_to_delete_twice, "failed to delete .*: No key"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_store_that_breaks_a_promise(place: Place, name: str, monkeypatch: Patch) -> None:
    breaks, sentence = BROKEN[name]
    store = place.open()
    with monkeypatch.context() as patch:
        breaks(patch)
        with pytest.raises(StoreError, match=sentence) as caught:
            await check_store(store, without_pauses())
    assert caught.value.unavailable
    assert str(caught.value).endswith(".")
    if name != "deleted twice":
        assert place.files() == set(), "a check that failed has left something"
    await check_store(store, without_pauses())
