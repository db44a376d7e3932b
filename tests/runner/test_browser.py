"""A browser plays a video while it is made: Chromium with hls.js, over a plain web server."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from dev.browser import chromium, player
from tests.media.pictures import Frames, moving_picture, psnr
from tests.runner.builders import SMALL
from tests.runner.test_playlist import COUNTS, Watched, commit

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PATIENCE = 60.0
PAGE = Path(__file__).with_name("page.html")


class Viewer:
    """What a browser tells of what it plays, over the server that it plays from."""

    def __init__(self, store: Path) -> None:
        self.position = 0.0
        """Seconds."""
        self.frames: dict[int, Frames] = {}
        """Those that were drawn, by their number."""
        self.ended: float | None = None
        self.failed: str | None = None
        self.ranges: list[str] = []
        """Of bytes, that were asked for."""
        self._told = asyncio.Condition()
        self.server = web.Application(client_max_size=64 << 20, middlewares=[self._note])
        self.server.router.add_get("/", self._file(PAGE))
        self.server.router.add_get("/hls.js", self._file(player()))
        self.server.router.add_static("/store", store)
        self.server.router.add_post("/{what}", self._hear)

    async def until(self, position: float) -> None:
        """It has played so far."""
        await self._until(lambda: self.position > position)

    async def until_ended(self) -> None:
        """It has played to the end."""
        await self._until(lambda: self.ended is not None)

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE), self._told:
            await self._told.wait_for(lambda: holds() or self.failed)
        assert self.failed is None

    async def _hear(self, request: web.Request) -> web.Response:
        what, said = request.match_info["what"], request.query
        if what == "frame":
            shape = (int(said["height"]), int(said["width"]), 4)
            picture = np.frombuffer(await request.read(), np.uint8).reshape(shape)[:, :, :3]
            self.frames[round(float(said["seconds"]) * float(SMALL.rate))] = picture
        elif what == "position":
            self.position = float(said["seconds"])
        elif what == "ended":
            self.ended = float(said["seconds"])
        else:
            self.failed = said["why"]
        async with self._told:
            self._told.notify_all()
        return web.Response()

    def _file(self, path: Path) -> Handler:
        async def answer(request: web.Request) -> web.FileResponse:
            return web.FileResponse(path)

        return answer

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if "Range" in request.headers:
            self.ranges.append(request.headers["Range"])
        return await handler(request)


@contextmanager
def browser(url: str, profile: Path) -> Iterator[None]:
    """A browser that shows a page."""
    program = chromium()
    command = (
        str(program.path),
        "--no-sandbox",  # It is shown nothing but our page, and a container may forbid what its sandbox needs.
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--autoplay-policy=no-user-gesture-required",
        "--remote-debugging-port=0",  # Without it, it ends once the page is loaded.
        f"--user-data-dir={profile}",
        url,
    )
    with (profile.parent / "browser.log").open("wb") as log:
        environment = {**program.environment, "HOME": str(profile.parent)}
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "store")


@pytest.fixture
async def viewer(watched: Watched) -> Viewer:
    watched.folder.mkdir(parents=True)
    return Viewer(watched.folder)


@pytest.fixture
async def url(viewer: Viewer) -> AsyncIterator[str]:
    runner = web.AppRunner(viewer.server, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    yield f"http://{host}:{port}/"
    await runner.cleanup()


async def test_a_video_plays_while_it_is_made(watched: Watched, viewer: Viewer, url: str, tmp_path: Path) -> None:
    async with watched.playlist() as playlist:
        for index in (0, 1):
            playlist.add(await commit(watched.files, index))
        await watched.seen()
        there_at_first = sum(COUNTS[:2]) / float(SMALL.rate)
        with browser(url, tmp_path / "profile"):
            await viewer.until(there_at_first / 2)
            for index in (2, 3):
                playlist.add(await commit(watched.files, index, attempt=2))
            await viewer.until(there_at_first + 1)
            assert viewer.ended is None, "nobody has said that the video ends here"
            playlist.add(await commit(watched.files, 4, attempt=2))
            await watched.files.live.end(await playlist.finish())
            await viewer.until_ended()

    total = sum(COUNTS)
    assert viewer.ended == pytest.approx(total / float(SMALL.rate), abs=0.1)
    assert viewer.ranges, "the server was asked for whole objects"
    made = moving_picture(total)
    assert {number: psnr(made[number], drawn) > 30 for number, drawn in viewer.frames.items()} == dict.fromkeys(
        viewer.frames, True
    )
    assert len(viewer.frames) > total / 2, "most frames were not drawn"
