"""The images of a job: from the job or the store, kept as they were at first, and refused by name."""

import io
from base64 import b64encode, encodebytes
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videojob.api.reasons import Reason
from videojob.api.shots import Shot, ShotImage
from videojob.runner import images
from videojob.runner.images import ImageRefusedError, Images
from videojob.store import JobStore, open_store

WIDTH, HEIGHT = 32, 16


def frame(shade: int) -> bytes:
    return np.full((HEIGHT, WIDTH, 3), shade, np.uint8).tobytes()


def png(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (shade, shade, shade)).save(data, "PNG")
    return data.getvalue()


def inline(data: bytes) -> ShotImage:
    return ShotImage(inline=b64encode(data).decode())


def shot(first: ShotImage | None = None, last: ShotImage | None = None) -> Shot:
    return Shot(prompt="a fox", seconds=1, image=first, last_image=last)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "team" / "inputs"
    folder.mkdir(parents=True)
    return folder


def of(tmp_path: Path, *shots: Shot, attempt: int = 1) -> Images:
    files = JobStore(open_store(f"file://{tmp_path}"), "team", "0b5c")
    return Images(files, shots, attempt, WIDTH, HEIGHT)


async def test_each_shot_has_its_own(tmp_path: Path, inputs: Path) -> None:
    (inputs / "one.png").write_bytes(png(1))
    kept = ShotImage(store="inputs/one.png")
    found = of(tmp_path, shot(), shot(kept), shot(inline(png(2)), kept))
    await found.check()
    assert [await found.frames(index) for index in range(3)] == [[], [frame(1)], [frame(2), frame(1)]]


async def test_what_becomes_of_the_original_makes_no_difference(tmp_path: Path, inputs: Path) -> None:
    """To this attempt or a later one: else the rest of a video would begin with another image."""
    original = inputs / "one.png"
    original.write_bytes(png(1))
    wanted = shot(ShotImage(store="inputs/one.png"))
    await of(tmp_path, wanted).check()
    original.write_bytes(png(2))
    assert await of(tmp_path, wanted, attempt=2).frames(0) == [frame(1)]
    original.unlink()
    assert await of(tmp_path, wanted, attempt=3).frames(0) == [frame(1)]


async def test_a_job_that_was_closed_begins_with_the_image_as_it_is_then_and_knows_that_it_is_another(
    tmp_path: Path, inputs: Path
) -> None:
    """So that no unit goes on from what it had come to with the image before."""
    (inputs / "one.png").write_bytes(png(1))
    shots = (shot(), shot(ShotImage(store="inputs/one.png")))
    first, again, closed = (of(tmp_path, *shots, attempt=attempt) for attempt in (1, 2, 2))
    await first.check()
    (inputs / "one.png").write_bytes(png(2))
    await again.check()
    await JobStore(open_store(f"file://{tmp_path}"), "team", "0b5c").close(1)
    await closed.check()
    assert [one.digest(0) for one in (first, again, closed)] == [b""] * 3
    assert first.digest(1) == again.digest(1) != closed.digest(1)


async def test_base64_may_be_in_lines(tmp_path: Path) -> None:
    """As `base64` prints it, and YAML keeps it."""
    text = encodebytes(png(1)).decode()
    assert "\n" in text
    assert await of(tmp_path, shot(ShotImage(inline=text))).frames(0) == [frame(1)]


@pytest.mark.parametrize(
    ("image", "reason", "words"),
    [
        (inline(b"GIF89a"), Reason.IMAGE_INVALID, r"shots\[1\].lastImage is no PNG and no JPEG."),
        (inline(png(1)[:60]), Reason.IMAGE_INVALID, r"shots\[1\].lastImage is damaged: "),
        (ShotImage(inline="no base64!"), Reason.IMAGE_INVALID, r"shots\[1\].lastImage.inline is no base64: write"),
        (ShotImage(inline="YWJ"), Reason.IMAGE_INVALID, "is no base64"),
        (ShotImage(inline="ü"), Reason.IMAGE_INVALID, "is no base64"),
        (ShotImage(store="inputs/two.png"), Reason.IMAGE_NOT_FOUND, "there is no file:///.*/team/inputs/two.png."),
        (ShotImage(store="inputs/folder"), Reason.IMAGE_NOT_FOUND, "there is no file:///"),
        (ShotImage(store="inputs/large.png"), Reason.IMAGE_INVALID, "has 2 MiB: at most 1 MiB are taken."),
        (ShotImage(store="inputs/notes.txt"), Reason.IMAGE_INVALID, "is no PNG and no JPEG."),
    ],
)
async def test_one_that_cannot_be_used_is_named(
    tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch, image: ShotImage, reason: Reason, words: str
) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 1 << 20)
    (inputs / "large.png").write_bytes(png(1) + bytes(2 << 20))
    (inputs / "notes.txt").write_text("a fox")
    (inputs / "folder").mkdir()
    with pytest.raises(ImageRefusedError, match=words) as refused:
        await of(tmp_path, shot(inline(png(1))), shot(inline(png(1)), image)).check()
    assert refused.value.reason is reason
