"""What an attempt leaves in the store, by the formats that its job asks for."""

from pathlib import Path

import pytest

from tests.runner.builders import SMALL, assigned_job, commit, made
from tests.runner.test_attempt import World, world
from videojob.media import probe
from videojob.store import StoreError
from videojob.store.layout import LIVE
from videojob.store.live import LivePlaylist

__all__ = ["world"]


def of(world: World, *formats: str) -> World:
    """A world whose job asks for these."""
    return World(world.folder, assigned_job(output={"formats": formats}))


def stored(world: World) -> set[str]:
    """Suffixes of the objects, and the playlist that grows."""
    names = [path for path in world.folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(world.folder / "team/u-1")) for path in names if path.name == Path(LIVE).name} | {
        path.suffix for path in names
    }


@pytest.mark.parametrize("formats", [("MP4",), ("HLS",), ("MP4", "HLS"), ("HLS", "MP4")], ids=" and ".join)
async def test_a_video_is_there_in_each_format_that_is_asked_for(world: World, formats: tuple[str, ...]) -> None:
    watched = of(world, *formats)
    await watched.chunks_are_made()

    await watched.run()

    status = watched.api.status
    assert status["phase"] == "Succeeded"
    output = status["output"]
    assert output["uri"].endswith(".mp4" if "MP4" in formats else ".m3u8")
    assert ("playlistURI" in output) == ("HLS" in formats)
    for uri in {output["uri"], output.get("playlistURI", output["uri"])}:
        info = probe(Path(uri.removeprefix("file://")))
        assert (info.frames, info.width, info.height) == (SMALL.frames, SMALL.width, SMALL.height)
    assert stored(watched) == {".mp4", ".jpg", ".json"} | ({".m3u8", LIVE} if "HLS" in formats else set())


async def test_the_playlist_ends_before_the_job_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the runner that has committed the video died before it wrote that."""
    watched = of(world, "HLS")
    await watched.chunks_are_made()
    end = LivePlaylist.end

    async def refused(self: LivePlaylist, text: str) -> None:
        raise StoreError("the store is away", retryable=True)

    monkeypatch.setattr(LivePlaylist, "end", refused)
    await watched.run()
    assert (watched.api.status["phase"], watched.api.status["reason"]) == ("Pending", "StoreUnavailable")
    assert await watched.files.output() is not None

    monkeypatch.setattr(LivePlaylist, "end", end)
    after = of(world, "HLS")
    await after.run()
    assert after.api.status["phase"] == "Succeeded"
    assert (await after.files.live.read()).endswith("#EXT-X-ENDLIST\n")


async def test_a_playlist_is_on_the_status_while_the_video_is_made(world: World) -> None:
    watched = of(world, "MP4", "HLS")
    await commit(watched.files, made(0))
    watched.serving = Waiting(watched)

    await watched.run()

    assert watched.api.status["phase"] == "Pending", "its model did not come"
    assert watched.api.status["playlistURI"] == watched.files.live.uri
    assert "EVENT" in await watched.files.live.read()


class Waiting:
    """A `Serving` whose model does not come, and that says so once the playlist is shown."""

    def __init__(self, world: World) -> None:
        self._serving = world.serving
        self._world = world

    def doubt(self, name: str) -> None:
        self._serving.doubt(name)

    async def take(self, *args: object) -> None:
        await self._world.until(lambda: "playlistURI" in self._world.api.status)
        await self._serving.take(*args)
