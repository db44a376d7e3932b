"""Closing a job: what an old runner adds afterwards never counts, and what counts is never swept."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.store.conftest import Place
from tests.store.writing import WRITES, checkpoint, commit, commit_unit, named, segment
from videojob.store import Committed, JobClosed
from videojob.store.objects import Objects


async def test_nothing_is_closed_at_first(place: Place) -> None:
    assert await place.job().closed() == 0


async def test_the_highest_attempt_counts(place: Place) -> None:
    for attempt in (2, 1, 2, 10, 9):
        await place.job().close(attempt)
    assert await place.job().closed() == 10
    assert json.loads((place.folder / "team/0b5c/closed/10").read_text()) == {"attempt": 10}


async def test_a_closed_attempt_puts_nothing(place: Place) -> None:
    await place.job().close(2)
    for attempt in (1, 2):
        with pytest.raises(JobClosed, match="closed for attempts up to 2") as caught:
            await commit(place.job(), 0, attempt)
        assert not caught.value.retryable
        assert not caught.value.unavailable
    assert place.files() == {"team/0b5c/closed/2"}
    assert not (await commit(place.job(), 0, 3)).adopted


async def test_a_runner_learns_of_the_closing_at_its_next_commit(place: Place, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"video")
    runner = place.job()
    await commit(runner, 0)
    await place.job().close(1)
    with pytest.raises(JobClosed):
        await commit(runner, 1)
    with pytest.raises(JobClosed):
        await runner.commit_output(attempt=1, path=tmp_path / "video.mp4", frames=1, duration_seconds=1.0)
    assert await place.job().committed() == Committed((), ())
    assert await place.job().output() is None


async def test_a_closing_that_comes_while_a_record_is_put_is_seen_by_the_next_commit(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was put then does not count, whatever its runner believes until it commits once more."""
    runner, looked = place.job(), asyncio.Event()
    await commit_unit(runner, 0)
    create, listing = Objects.create, Objects.list

    async def late(self: Objects, key: str, data: bytes) -> bool:
        if key.endswith("latents/1.json"):
            await looked.wait()
            await create(Objects(place.open()), "team/0b5c/closed/1", b"{}")
        return await create(self, key, data)

    async def look(self: Objects, prefix: str) -> list[str]:
        found = await listing(self, prefix)
        looked.set()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "create", late)
        patch.setattr(Objects, "list", look)
        async with asyncio.timeout(20):
            await commit_unit(runner, 1)
    assert await place.job().committed() == Committed((), ())
    with pytest.raises(JobClosed):
        await commit_unit(runner, 2)


async def test_a_closing_that_comes_before_the_record_of_the_video_takes_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is ended and its parts are deleted on the strength of that record alone."""
    (tmp_path / "video.mp4").write_bytes(b"video")
    create = Objects.create

    async def late(self: Objects, key: str, data: bytes) -> bool:
        await create(Objects(place.open()), "team/0b5c/closed/1", b"{}")
        return await create(self, key, data)

    monkeypatch.setattr(Objects, "create", late)
    with pytest.raises(JobClosed):
        await place.job().commit_output(attempt=1, path=tmp_path / "video.mp4", frames=1, duration_seconds=1.0)
    assert await place.job().output() is None


async def test_the_attempts_after_a_closing_begin_anew(place: Place) -> None:
    await commit(place.job(), 0, 1, "old")
    await place.job().close(1)
    successor = place.job()
    assert await successor.committed() == Committed((), ())
    committed = await commit(successor, 0, 2, "new")
    assert not committed.adopted
    assert (await place.job().committed()).pieces == (committed.record,)
    assert await place.job().read_segment(committed.record) == segment(0, "new")


async def test_a_video_counts_in_whatever_log_it_is(place: Place, tmp_path: Path) -> None:
    """A closing that comes late, from an operator that was paused, takes no finished video."""
    (tmp_path / "video.mp4").write_bytes(b"video")
    video = await place.job().commit_output(attempt=2, path=tmp_path / "video.mp4", frames=1, duration_seconds=1.0)
    await place.job().sweep(1, in_use=True)
    assert await place.job().output() == video
    await place.job().purge(keep_output=True)
    assert await place.job().output() == video
    assert place.files() == {"team/0b5c/output.json", f"team/0b5c/{video.key}"}


async def test_sweep_deletes_what_closed_attempts_have_left(place: Place, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"video")
    old = place.job()
    await commit(old, 0, 1)
    await place.job().close(1)
    await commit(place.job(), 0, 2)
    await place.job().commit_output(attempt=2, path=tmp_path / "video.mp4", frames=1, duration_seconds=1.0)
    with pytest.raises(JobClosed):
        await commit(old, 1, 1)
    (place.folder / "team/0b5c/output/1-0123456789abcdef.mp4").write_bytes(b"of an upload that ended late")

    assert await place.job().sweep(1, in_use=True) == WRITES + 3
    assert place.files() == {
        "team/0b5c/after/1/latents/0.json",
        "team/0b5c/after/1/output.json",
        "team/0b5c/after/1/segments/0.json",
        named("team/0b5c/attempts/2/0", ".mp4", segment(0)),
        named("team/0b5c/attempts/2/0", ".safetensors", checkpoint(0)),
        "team/0b5c/closed/1",
        named("team/0b5c/output/2", ".mp4", b"video"),
    }
    assert len((await place.job().committed()).pieces) == 1
    assert await place.job().sweep(1, in_use=True) == 0


async def test_what_cannot_be_read_is_not_swept(place: Place) -> None:
    await commit(place.job(), 0)
    await commit(place.job(), 1)
    (place.folder / "team/0b5c/latents/0.json").write_bytes(b"{")
    assert await place.job().sweep(1, in_use=True) == 2 * WRITES - 1
    assert place.files() == {"team/0b5c/latents/0.json", "team/0b5c/closed/1"}


async def test_the_log_of_an_earlier_version_is_swept_as_well(place: Place) -> None:
    path = place.folder / "team/0b5c/chunks/0.json"
    await commit(place.job(), 0, 2)
    path.parent.mkdir(parents=True)
    path.write_text('{"index": 0, "attempt": 1, "frames": 1}')
    assert await place.job().sweep(1, in_use=True) == 1
    assert not path.exists()


@pytest.mark.parametrize("keep_closed", [False, True], ids=["all", "keep-closed"])
async def test_a_purge_deletes_what_closes_the_job_last(place: Place, keep_closed: bool) -> None:
    await commit(place.job(), 0)
    await place.job().close(1)
    await commit(place.job(), 0, 2)
    await place.job().purge(keep_output=False, keep_closed=keep_closed)
    assert place.files() == ({"team/0b5c/closed/1"} if keep_closed else set())
