"""Pictures of a video."""

import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from tests.media.pictures import Frames, moving_picture, psnr
from videojob.media import MediaError, contact_sheet, encode_segment, jpeg, picture, thumbnail
from videojob.media.stills import SHEET_SIDE, columns


def opened(data: bytes) -> Frames:
    """As another program than ours sees it."""
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG" and image.info["jfif"]
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("position", [0, 7, 59])
def test_a_frame_of_a_segment(position: int) -> None:
    frames = moving_picture(60)
    assert psnr(frames[position], picture(encode_segment(frames, Fraction(16), 5), position)) > 33


@pytest.mark.parametrize("position", [60, 99])
def test_a_frame_that_it_does_not_have(position: int) -> None:
    with pytest.raises(MediaError, match=f"no frame {position}"):
        picture(encode_segment(moving_picture(60), Fraction(16), 0), position)


def test_no_video_has_no_frame() -> None:
    with pytest.raises(MediaError, match="Could not read a frame"):
        picture(b"no video", 0)


@pytest.mark.parametrize(("width", "height"), [(832, 480), (17, 31), (480, 832)])
def test_a_jpeg_is_the_picture(width: int, height: int) -> None:
    (frame,) = moving_picture(1, width, height)
    assert psnr(frame, opened(jpeg(frame))) > 30


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 100, 50)])
def test_colours_survive(colour: tuple[int, int, int]) -> None:
    """From a segment, which is BT.709 in limited range, to a JPEG, which is BT.601 in full range."""
    frames = np.full((2, 64, 64, 3), colour, np.uint8)
    middle = opened(jpeg(picture(encode_segment(frames, Fraction(16), 0), 1)))[32, 32]
    assert np.abs(middle.astype(int) - colour).max() <= 4


@pytest.mark.parametrize("shots", [1, 2, 3, 4, 5, 16, 17, 64, 100, 1000])
@pytest.mark.parametrize(("width", "height"), [(832, 480), (480, 832), (4096, 4096), (16, 16)])
def test_a_contact_sheet_shows_each_shot_and_stays_small(shots: int, width: int, height: int) -> None:
    small = thumbnail(np.full((height, width, 3), 99, np.uint8), shots)
    assert small.shape[0] <= height and small.shape[1] <= width
    marked = [np.full_like(small, 1 + shot % 250) for shot in range(shots)]
    sheet = contact_sheet(marked)
    assert max(sheet.shape) <= SHEET_SIDE
    rows, across = sheet.shape[0] // small.shape[0], sheet.shape[1] // small.shape[1]
    assert across == columns(shots) and 0 <= rows * across - shots < across
    for shot in range(shots):
        y, x = shot // across * small.shape[0], shot % across * small.shape[1]
        assert sheet[y, x, 0] == 1 + shot % 250
