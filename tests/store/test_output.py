"""The finished video, and what is left of a job when it goes."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError

from tests.store.conftest import Place, without_pauses
from tests.store.writing import WRITES, ProcessDied, commit, dying
from videojob.store import Committed, JobStore, StoreError, open_store
from videojob.store import folder as folder_module


def contents(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(os.urandom(20 << 20))
    return path


@pytest.mark.parametrize("in_parts", [False, True], ids=["one-request", "in-parts"])
async def test_the_video_is_committed_once(
    place: Place, video: Path, tmp_path: Path, in_parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_parts:
        monkeypatch.setattr(folder_module, "SINGLE_PUT_BYTES", 1 << 20)
    first = await place.job().commit_output(attempt=2, path=video, frames=33, duration_seconds=1.375)
    assert (first.attempt, first.frames, first.duration_seconds) == (2, 33, 1.375)
    content = contents(video)
    assert first.sha256 == hashlib.sha256(content).hexdigest()
    assert contents(place.folder / "team/0b5c" / first.key) == content
    assert first.key == f"output/2-{first.sha256[:16]}.mp4"

    other = tmp_path / "what a zombie made.mp4"
    await asyncio.to_thread(other.write_bytes, b"something else")
    late = await place.job().commit_output(attempt=1, path=other, frames=33, duration_seconds=1.375)
    assert late == first == await place.job().output()


@pytest.mark.parametrize("in_parts", [False, True], ids=["one-request", "in-parts"])
@pytest.mark.parametrize("written", [False, True], ids=["before-the-write", "after-the-write"])
@pytest.mark.parametrize("after", [0, 1], ids=["video", "record"])
async def test_the_video_is_committed_after_a_crash(
    place: Place, video: Path, after: int, written: bool, in_parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_parts:
        monkeypatch.setattr(folder_module, "SINGLE_PUT_BYTES", 1 << 20)

    async def finish() -> Any:
        return await place.job().commit_output(attempt=1, path=video, frames=33, duration_seconds=1.375)

    with pytest.raises(ProcessDied), dying(after, written=written):
        await finish()
    record = await finish()
    assert await place.job().output() == record
    assert contents(place.folder / "team/0b5c" / record.key) == contents(video)
    assert len(place.files()) == 2


async def test_of_two_videos_one_wins(place: Place, video: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(b"another video")

    def finish(attempt: int, path: Path) -> Awaitable[Any]:
        return place.job().commit_output(attempt=attempt, path=path, frames=1, duration_seconds=1.0)

    records = await asyncio.gather(finish(1, video), finish(2, other), finish(2, video))
    assert len({record.key for record in records}) == 1
    stored = (place.folder / "team/0b5c" / records[0].key).read_bytes()
    assert hashlib.sha256(stored).hexdigest() == records[0].sha256


async def finished_job(job: JobStore, video: Path) -> str:
    """A job with its video, whose key it returns."""
    for index in range(3):
        await commit(job, index)
    return (await job.commit_output(attempt=1, path=video, frames=25, duration_seconds=1.0)).key


async def test_success_leaves_the_video_alone(place: Place, video: Path) -> None:
    key = await finished_job(place.job(), video)
    await place.job().discard_parts()
    assert place.files() == {"team/0b5c/output.json", f"team/0b5c/{key}"}
    assert await place.job().committed() == Committed((), ())


@pytest.mark.parametrize("keep", [False, True], ids=["all", "keep-output"])
async def test_purge(place: Place, video: Path, keep: bool) -> None:
    key = await finished_job(place.job(), video)
    (place.folder / "team/0b5c/output/2.mp4").write_bytes(b"of an attempt that came second")
    others = [place.job("team", "0b5c1"), place.job("team2", "0b5c"), place.job("team", "0b5")]
    for other in others:
        await commit(other, 0)
    kept = {"team/0b5c/output.json", f"team/0b5c/{key}"} if keep else set()

    assert await place.job().purge(keep_output=keep) == 3 * WRITES + 3 - len(kept)
    assert {name for name in place.files() if name.startswith("team/0b5c/")} == kept
    assert await place.job().purge(keep_output=keep) == 0
    for other in others:
        assert len((await other.committed()).pieces) == 1


async def test_purge_of_an_unfinished_job_leaves_nothing(place: Place) -> None:
    await commit(place.job(), 0)
    assert await place.job().purge(keep_output=True) == WRITES
    assert place.files() == set()


async def test_purge_of_many_objects(place: Place) -> None:
    folder = place.folder / "team/0b5c/attempts/1"
    folder.mkdir(parents=True)
    for index in range(2_500):
        (folder / f"{index}.mp4").touch()
    assert await place.job().purge(keep_output=False) == 2_500
    assert place.files() == set()


async def test_two_purges_at_once(place: Place) -> None:
    for index in range(10):
        await commit(place.job(), index)
    await asyncio.gather(place.job().purge(keep_output=False), place.job().purge(keep_output=True))
    assert place.files() == set()


async def test_a_local_folder_keeps_nothing_of_a_purged_job(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    job = JobStore(store, "team", "0b5c")
    await commit(job, 0)
    (tmp_path / "store/team/0b5c/attempts/1/1.mp4#3").write_bytes(b"left by a writer that was killed")
    await job.purge(keep_output=False)
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "a\\b", "A", "a.b", "-a", "a-", "a\n", "a" * 64, "ä", "#1", "a b"]
)
def test_no_name_reaches_a_path_unchecked(tmp_path: Path, name: str) -> None:
    store = open_store(f"file://{tmp_path}")
    with pytest.raises(ValueError, match="cannot be part of a path"):
        JobStore(store, name, "0b5c")
    with pytest.raises(ValueError, match="cannot be part of a path"):
        JobStore(store, "team", name)


async def test_retries_are_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    record, calls = (await commit(place.job(), 0)).record, 0

    async def failing(*_: Any, **__: Any) -> None:
        nonlocal calls
        calls += 1
        raise GenericError("Generic S3 error: HTTP error: error sending request")

    monkeypatch.setattr(obstore, "get_async", failing)
    with pytest.raises(StoreError) as caught:
        await JobStore(place.open(), "team", "0b5c", without_pauses(4)).read_segment(record)
    assert calls == 4
    assert caught.value.retryable


async def test_a_failure_that_passes_is_not_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    put, calls = obstore.put_async, 0

    async def flaky(*args: Any, **kwargs: Any) -> object:
        nonlocal calls
        calls += 1
        if calls % 3:
            raise GenericError("Server returned non-2xx status code: 503 Service Unavailable")
        return await put(*args, **kwargs)

    monkeypatch.setattr(obstore, "put_async", flaky)
    assert not (await commit(place.job(), 0)).adopted
    assert calls == 3 * WRITES


def test_uris(tmp_path: Path) -> None:
    local = JobStore(open_store(f"file://{tmp_path}/my%20store"), "team", "0b5c")
    assert local.uri("output/1.mp4") == f"file://{tmp_path}/my%20store/team/0b5c/output/1.mp4"
    secret = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    remote = JobStore(open_store("s3://bucket/some/prefix/", credentials=secret), "team", "0b5c")
    assert remote.uri("output/1.mp4") == "s3://bucket/some/prefix/team/0b5c/output/1.mp4"
    assert JobStore(open_store("s3://bucket", credentials=secret), "team", "0b5c").uri() == "s3://bucket/team/0b5c"
