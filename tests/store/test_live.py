"""Playlists, and the segments that they name: what stays with a finished video, and what goes."""

import asyncio
from pathlib import Path

import obstore
import pytest

from tests.store.conftest import Place
from tests.store.writing import commit
from videojob.store import CorruptObject, JobStore, StoreError, live
from videojob.store.layout import LIVE, in_playlist, named
from videojob.store.objects import Store

FOLDER = "team/0b5c"


def text(*keys: str) -> str:
    """A playlist of these objects, the first of which has the header."""
    header, *segments = map(in_playlist, keys)
    return "\n".join(["#EXTM3U", f'#EXT-X-MAP:URI="{header}",BYTERANGE="7@0"', "#EXTINF:1.0,", *segments, ""])


async def watched_job(job: JobStore, attempt: int = 1) -> tuple[str, list[str]]:
    """A job of three pieces, the first of which is in a media segment of its own: its playlist, and what that names."""
    keys = [(await commit(job, index, attempt)).record.segment.key for index in range(3)]
    first = await job.live.put_first(attempt, b"one frame, and more")
    names = [keys[0], first.key, keys[2]]
    await job.live.write(text(*names))
    return text(*names), names


@pytest.mark.parametrize("mp4", [True, False], ids=["beside the MP4", "alone"])
@pytest.mark.parametrize("keep", [False, True], ids=["Delete", "Retain"])
async def test_what_a_playlist_names_belongs_to_the_output(place: Place, tmp_path: Path, mp4: bool, keep: bool) -> None:
    job = place.job()
    playlist, names = await watched_job(job)
    await commit(job, 3, variant="whose record somebody else wrote first")
    video = tmp_path / "video.mp4"
    video.write_bytes(b"video")

    record = await job.commit_output(
        attempt=1, path=video if mp4 else None, playlist=playlist, frames=25, duration_seconds=1.0
    )
    await job.live.end(playlist)
    await job.discard_parts()

    assert record.playlist is not None and (record.key == record.playlist.key) is not mp4
    assert await place.job().playlist(record) == playlist
    output = {f"{FOLDER}/{key}" for key in ("output.json", record.key, record.playlist.key, LIVE, *names)}
    assert place.files() == output
    await place.job().discard_parts()
    await place.job().purge(keep_output=keep)
    assert place.files() == (output if keep else set())


async def test_latents_that_are_left_go_with_the_job(place: Place) -> None:
    """The runner was cut off before it discarded them."""
    playlist, names = await watched_job(place.job())
    record = await place.job().commit_output(attempt=1, path=None, playlist=playlist, frames=25, duration_seconds=1.0)
    await place.job().purge(keep_output=True)
    assert place.files() == {f"{FOLDER}/{key}" for key in ("output.json", record.key, LIVE, *names)}


async def test_a_playlist_that_is_damaged_takes_no_segment_away(place: Place) -> None:
    playlist, names = await watched_job(place.job())
    record = await place.job().commit_output(attempt=1, path=None, playlist=playlist, frames=25, duration_seconds=1.0)
    (place.folder / FOLDER / record.key).write_text("torn")
    with pytest.raises(CorruptObject):
        await place.job().discard_parts()
    await place.job().purge(keep_output=True)
    assert {f"{FOLDER}/{key}" for key in names} <= place.files()
    assert not any(name.endswith(".safetensors") for name in place.files())


async def test_a_job_is_finished_with_something(place: Place) -> None:
    with pytest.raises(ValueError, match="an MP4, a playlist or both"):
        await place.job().commit_output(attempt=1, path=None, frames=1, duration_seconds=1.0)


@pytest.mark.parametrize("in_use", [True, False])
async def test_a_playlist_goes_before_what_it_names_is_swept(place: Place, in_use: bool) -> None:
    await watched_job(place.job())
    await place.job().sweep(1, in_use=in_use)
    assert place.files() == ({f"{FOLDER}/closed/1"} if in_use else set())


async def test_the_playlist_of_a_later_attempt_stays(place: Place) -> None:
    await commit(place.job(), 0, variant="of an attempt that lost the job")
    await place.job().close(1)
    later = place.job()
    playlist, names = await watched_job(later, 2)
    await place.job().sweep(1, in_use=True)
    assert await later.live.read() == playlist
    assert {f"{FOLDER}/{key}" for key in names} <= place.files()


async def test_pieces_after_those_that_are_known(place: Place) -> None:
    for index in range(3):
        await commit(place.job(), index)
    assert [record.index for record in await place.job().later_pieces(1)] == [1, 2]
    assert await place.job().later_pieces(3) == []


async def test_a_write_of_the_growing_one_does_not_last(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(live, "WRITE_SECONDS", 0.01)
    monkeypatch.setattr(obstore, "put_async", silent)
    with pytest.raises(StoreError, match="was not written within"):
        await place.job().live.write("text")


def test_what_a_playlist_names() -> None:
    playlist = text("attempts/1/0-a.mp4", "attempts/1/1-first-b.mp4", "attempts/12/2-c.mp4")
    assert named(playlist) == {"attempts/1/0-a.mp4", "attempts/1/1-first-b.mp4", "attempts/12/2-c.mp4"}
    assert in_playlist("attempts/1/0-a.mp4") == "../attempts/1/0-a.mp4"


async def test_a_bucket_knows_what_its_objects_are(place: Place, tmp_path: Path) -> None:
    """A browser asks for that; a local folder leaves it to whoever serves it."""
    job = place.job()
    playlist, names = await watched_job(job)
    video = tmp_path / "video.mp4"
    video.write_bytes(b"video")
    record = await job.commit_output(attempt=1, path=video, playlist=playlist, frames=25, duration_seconds=1.0)
    assert record.playlist is not None
    store: Store = place.open()
    kinds = {
        key: (await obstore.get_async(store, f"{FOLDER}/{key}")).attributes.get("Content-Type")
        for key in (record.key, record.playlist.key, LIVE, *names)
    }
    if place.endpoint is None:
        assert set(kinds.values()) == {None}
        return
    assert kinds == {key: "application/vnd.apple.mpegurl" if key.endswith("m3u8") else "video/mp4" for key in kinds}
