"""The commit protocol: what is finished stays finished and unchanged, whoever dies when."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.exceptions import GenericError

from tests.store.conftest import Place, without_pauses
from videojob.store import Commit, CorruptObject, JobStore, StoreError, open_store
from videojob.store import jobs as jobs_module

SECONDS = {"denoise": 1.5, "vae_decode": 0.25, "mux": 0.0}
WRITES = 3
"""Of one commit: segment, latents, record."""


def segment(index: int, variant: str = "") -> bytes:
    return f"segment {index} {variant}".encode() * 100


def latents(index: int, variant: str = "") -> bytes:
    return f"latents {index} {variant}".encode() * 100


async def commit(job: JobStore, index: int, attempt: int = 1, variant: str = "") -> Commit:
    return await job.commit_chunk(
        index=index,
        attempt=attempt,
        frames=1 if index == 0 else 12,
        segment=segment(index, variant),
        latents=latents(index, variant),
        stage_seconds=SECONDS,
    )


class ProcessDied(BaseException):
    """Stands for the end of the process: nothing of the code under test runs after it."""


@contextmanager
def dying(after: int, *, written: bool) -> Iterator[None]:
    """The process dies at a put: once `after` puts are done, before the next reaches the store, or after it did."""
    put, done = obstore.put_async, 0

    async def counted(*args: Any, **kwargs: Any) -> object:
        nonlocal done
        if done == after:
            if written:
                await put(*args, **kwargs)
            raise ProcessDied
        done += 1
        return await put(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(obstore, "put_async", counted)
        yield


async def test_a_new_job_has_nothing(place: Place) -> None:
    job = place.job()
    assert await job.committed() == ()
    assert await job.output() is None


async def test_a_committed_chunk_is_there_for_everybody(place: Place) -> None:
    committed = await commit(place.job(), 0)
    assert not committed.adopted
    reader = place.job()
    (record,) = await reader.committed()
    assert record == committed.record
    assert (record.index, record.attempt, record.frames, record.stage_seconds) == (0, 1, 1, SECONDS)
    assert await reader.read_segment(record) == segment(0)
    assert await reader.read_latents(record) == latents(0)
    assert record.segment.sha256 == hashlib.sha256(segment(0)).hexdigest()
    assert record.segment.size_bytes == len(segment(0))


async def test_the_layout_is_that_of_the_design(place: Place) -> None:
    job = place.job("team", "0b5c")
    await commit(job, 11, attempt=3)
    assert place.files() == {
        "team/0b5c/attempts/3/11.mp4",
        "team/0b5c/attempts/3/11.safetensors",
        "team/0b5c/chunks/11.json",
    }


@pytest.mark.parametrize(
    ("indexes", "expected"),
    [((), 0), ((0,), 1), ((1,), 0), ((0, 1, 2), 3), ((0, 1, 3, 4), 2), (tuple(range(25)), 25)],
    ids=["none", "first", "first-missing", "whole", "gap", "many"],
)
async def test_a_job_goes_on_at_the_first_missing_record(place: Place, indexes: tuple[int, ...], expected: int) -> None:
    for index in indexes:
        await commit(place.job(), index)
    assert [record.index for record in await place.job().committed()] == list(range(expected))


@pytest.mark.parametrize("variant", ["", "other bytes"], ids=["same-bytes", "other-bytes"])
@pytest.mark.parametrize("successor", [1, 2], ids=["same-attempt", "next-attempt"])
@pytest.mark.parametrize("written", [False, True], ids=["before-the-write", "after-the-write"])
@pytest.mark.parametrize("after", range(WRITES), ids=["segment", "latents", "record"])
async def test_a_successor_resumes_after_a_crash(
    place: Place, after: int, written: bool, successor: int, variant: str
) -> None:
    await commit(place.job(), 0)
    with pytest.raises(ProcessDied), dying(after, written=written):
        await commit(place.job(), 1)

    finished = after == WRITES - 1 and written
    job = place.job()
    assert len(await job.committed()) == (2 if finished else 1)
    again = await commit(job, 1, attempt=successor, variant=variant)
    # The same attempt with the same bytes cannot tell its own record from that of its predecessor, and need not.
    ours = (successor, variant) == (1, "")
    assert again.adopted == (finished and not ours)
    expected = "" if finished else variant
    records = await place.job().committed()
    assert records[1] == again.record
    assert await job.read_segment(records[1]) == segment(1, expected)
    assert await job.read_latents(records[1]) == latents(1, expected)
    assert records[1].attempt == (1 if finished else successor)


async def test_a_predecessor_may_still_commit_what_it_put(place: Place) -> None:
    """The successor has the predecessor's attempt but other bytes: it must not spoil what the other may yet commit."""
    with pytest.raises(ProcessDied), dying(2, written=False):
        await commit(place.job(), 0, variant="predecessor")
    successor = await commit(place.job(), 0, variant="successor")
    late = await commit(place.job(), 0, variant="predecessor")
    assert late.adopted
    assert late.record == successor.record
    assert await place.job().read_segment(successor.record) == segment(0, "successor")


async def test_of_many_writers_one_wins(place: Place) -> None:
    for index in range(5):
        commits = await asyncio.gather(*(commit(place.job(), index, attempt) for attempt in range(1, 9)))
        assert [one.adopted for one in commits].count(False) == 1
        (winner,) = (one.record for one in commits if not one.adopted)
        assert {one.record.attempt for one in commits} == {winner.attempt}
        assert (await place.job().committed())[index] == winner
        assert await place.job().read_segment(winner) == segment(index)


@pytest.mark.parametrize("lost", range(WRITES), ids=["segment", "latents", "record"])
async def test_a_lost_answer_is_not_mistaken_for_another_writer(
    place: Place, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = obstore.put_async, 0

    async def without_answer(*args: Any, **kwargs: Any) -> object:
        nonlocal calls
        calls += 1
        result = await put(*args, **kwargs)
        if calls == lost + 1:
            raise GenericError("Generic S3 error: HTTP error: error sending request")
        return result

    monkeypatch.setattr(obstore, "put_async", without_answer)
    committed = await commit(place.job(), 0)
    assert not committed.adopted
    assert await place.job().committed() == (committed.record,)
    assert len(place.files()) == WRITES


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(1, 3), st.sampled_from(["a", "b"]), st.integers(0, WRITES), st.booleans()
        ),
        max_size=14,
    )
)
def test_a_record_never_changes_and_always_holds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, str, int, bool]]
) -> None:
    """Runners of any attempt commit any chunk with any bytes, and die at any write."""
    place = Place(f"file://{tmp_path_factory.mktemp('store')}", Path())

    async def run() -> None:
        seen: dict[int, object] = {}
        for index, attempt, variant, after, written in steps:
            try:
                with dying(after, written=written):
                    await commit(place.job(), index, attempt, variant)
            except ProcessDied:
                pass
            job = place.job()
            for record in await job.committed():
                assert seen.setdefault(record.index, record) == record
                content = (await job.read_segment(record), await job.read_latents(record))
                assert content in [(segment(record.index, it), latents(record.index, it)) for it in "ab"]

    asyncio.run(run())


KILLED = """
import asyncio, json, sys
from tests.store.conftest import Place
from tests.store.test_commit import commit
from pathlib import Path
url, endpoint, credentials = json.loads(sys.argv[1])

async def main():
    job = Place(url, Path(), endpoint, credentials).job()
    for index in range(len(await job.committed()), 10_000):
        await commit(job, index, attempt=int(sys.argv[2]))
        print(index, flush=True)

asyncio.run(main())
"""


async def test_kill_9_loses_no_finished_chunk(place: Place) -> None:
    where = json.dumps([place.url, place.endpoint, dict(place.credentials) if place.credentials else None])
    reported = -1
    for attempt in (1, 2, 3):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", KILLED, where, str(attempt)),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert process.stdout is not None
        for _ in range(4 + attempt):
            reported = int(await process.stdout.readline())
        process.kill()
        await process.wait()
        job = place.job()
        records = await job.committed()
        assert len(records) > reported
        for record in records:
            assert await job.read_segment(record) == segment(record.index)
            assert await job.read_latents(record) == latents(record.index)
    assert {record.attempt for record in records} == {1, 2, 3}


def damage_one_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [damage_one_byte, lambda path: os.truncate(path, 10), lambda path: os.truncate(path, 0), Path.unlink],
    ids=["one-bit", "torn", "emptied", "missing"],
)
@pytest.mark.parametrize("suffix", ["mp4", "safetensors"])
async def test_a_damaged_object_is_noticed(place: Place, suffix: str, damage: Callable[[Path], None]) -> None:
    record = (await commit(place.job(), 0)).record
    damage(place.folder / f"team/0b5c/attempts/1/0.{suffix}")
    read = place.job().read_segment if suffix == "mp4" else place.job().read_latents
    with pytest.raises(CorruptObject, match=rf"attempts/1/0\.{suffix} is (damaged|missing)") as caught:
        await read(record)
    assert not caught.value.retryable
    assert not caught.value.unavailable


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{}", b'{"index": 7}', None],
    ids=["empty", "no-json", "no-fields", "few-fields", "another-chunk"],
)
async def test_a_damaged_record_is_noticed(place: Place, content: bytes | None) -> None:
    await commit(place.job(), 0)
    await commit(place.job(), 1)
    path = place.folder / "team/0b5c/chunks/0.json"
    path.write_bytes((place.folder / "team/0b5c/chunks/1.json").read_bytes() if content is None else content)
    with pytest.raises(CorruptObject, match=r"chunks/0\.json"):
        await place.job().committed()


@pytest.mark.parametrize("key", ["../other/attempts/1/0.mp4", "/etc/passwd", "attempts/1/../../x.mp4", "chunks/0.json"])
async def test_a_record_cannot_point_out_of_its_job(place: Place, key: str) -> None:
    await commit(place.job(), 0)
    path = place.folder / "team/0b5c/chunks/0.json"
    path.write_text(path.read_text().replace("attempts/1/0.mp4", key))
    with pytest.raises(CorruptObject):
        await place.job().committed()


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
        monkeypatch.setattr(jobs_module, "SINGLE_PUT_BYTES", 1 << 20)
    first = await place.job().commit_output(attempt=2, path=video, frames=33, duration_seconds=1.375)
    assert (first.attempt, first.frames, first.duration_seconds) == (2, 33, 1.375)
    content = contents(video)
    assert first.sha256 == hashlib.sha256(content).hexdigest()
    assert contents(place.folder / "team/0b5c" / first.key) == content
    assert first.key == (f"output/2-{first.sha256[:16]}.mp4" if in_parts else "output/2.mp4")

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
        monkeypatch.setattr(jobs_module, "SINGLE_PUT_BYTES", 1 << 20)

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


async def finished_job(job: JobStore, video: Path) -> None:
    for index in range(3):
        await commit(job, index)
    await job.commit_output(attempt=1, path=video, frames=25, duration_seconds=1.0)


async def test_success_leaves_the_video_alone(place: Place, video: Path) -> None:
    await finished_job(place.job(), video)
    await place.job().discard_chunks()
    assert place.files() == {"team/0b5c/output.json", "team/0b5c/output/1.mp4"}
    assert await place.job().committed() == ()


@pytest.mark.parametrize("keep", [False, True], ids=["all", "keep-output"])
async def test_purge(place: Place, video: Path, keep: bool) -> None:
    await finished_job(place.job(), video)
    (place.folder / "team/0b5c/output/2.mp4").write_bytes(b"of an attempt that came second")
    others = [place.job("team", "0b5c1"), place.job("team2", "0b5c"), place.job("team", "0b5")]
    for other in others:
        await commit(other, 0)
    kept = {"team/0b5c/output.json", "team/0b5c/output/1.mp4"} if keep else set()

    assert await place.job().purge(keep_output=keep) == 12 - len(kept)
    assert {name for name in place.files() if name.startswith("team/0b5c/")} == kept
    assert await place.job().purge(keep_output=keep) == 0
    for other in others:
        assert len(await other.committed()) == 1


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
    calls = 0

    async def failing(*_: Any, **__: Any) -> None:
        nonlocal calls
        calls += 1
        raise GenericError("Generic S3 error: HTTP error: error sending request")

    monkeypatch.setattr(obstore, "get_async", failing)
    with pytest.raises(StoreError) as caught:
        await JobStore(place.open(), "team", "0b5c", without_pauses(4)).output()
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
