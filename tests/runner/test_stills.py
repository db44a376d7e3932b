"""The pictures of a video come from its segments, and never keep it from being finished."""

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media.pictures import Frames, moving_picture, psnr
from tests.runner import test_playlist
from tests.runner.builders import SMALL, Stored
from tests.runner.test_attempt import World, world
from tests.runner.test_formats import of
from videojob.runner import stills as stills_module
from videojob.runner.stills import Stills, stills
from videojob.store import CorruptObject, JobStore, PieceRecord

__all__ = ["world"]

COUNTS = test_playlist.COUNTS


@pytest.fixture
async def files(tmp_path: Path) -> JobStore:
    return JobStore(Stored(tmp_path).store, "team", "u-1")


@pytest.fixture
async def pieces(files: JobStore) -> list[PieceRecord]:
    return [await test_playlist.commit(files, index) for index in range(len(COUNTS))]


def opened(data: bytes | None) -> Frames:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    ("shots", "middles"), [((0,), [30]), ((0, 13), [6, 36]), ((0, 1, 25, 40), [0, 13, 32, 50])], ids=str
)
async def test_a_poster_and_a_frame_of_each_shot(
    files: JobStore, pieces: list[PieceRecord], shots: tuple[int, ...], middles: list[int]
) -> None:
    made = await stills(files, pieces, shots)

    frames = moving_picture(sum(COUNTS))
    assert psnr(frames[0], opened(made.poster)) > 30
    sheet, (height, width, _) = opened(made.contact_sheet), frames[0].shape
    across = sheet.shape[1] // width
    for place, middle in enumerate(middles):
        y, x = place // across * height, place % across * width
        assert psnr(frames[middle], sheet[y : y + height, x : x + width]) > 28


async def test_a_segment_that_is_damaged_costs_the_pictures_alone(
    files: JobStore, pieces: list[PieceRecord], tmp_path: Path
) -> None:
    (tmp_path / "team/u-1" / pieces[3].segment.key).write_bytes(b"torn")
    assert await stills(files, pieces, (0,)) == Stills()


async def test_a_store_that_does_not_answer_does_not_hold_up_the_video(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = of(world, "MP4")
    await job.chunks_are_made()
    asked, resolved = 0, job.job.status.resolved
    assert resolved is not None
    read = JobStore.read_segment

    async def silent(self: JobStore, record: PieceRecord) -> bytes:
        nonlocal asked
        asked += 1
        if asked <= resolved.chunks:
            return await read(self, record)
        await asyncio.Event().wait()
        raise CorruptObject("never")

    monkeypatch.setattr(JobStore, "read_segment", silent)
    monkeypatch.setattr(stills_module, "SECONDS", 0.05)
    await job.run()
    assert job.api.status["phase"] == "Succeeded"


async def test_they_are_on_the_status(world: World) -> None:
    job = of(world, "MP4")
    await job.chunks_are_made()
    await job.run()
    paths = [
        Path(job.api.status["output"][field].removeprefix("file://")) for field in ("posterURI", "contactSheetURI")
    ]
    await job.files.purge(keep_output=True)
    assert [opened(path.read_bytes()).shape for path in paths] == [(SMALL.height, SMALL.width, 3)] * 2
