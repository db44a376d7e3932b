"""Moving pictures, and what comes back of them."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Interpolation

Frames = npt.NDArray[np.uint8]


def moving_picture(frames: int, width: int = 96, height: int = 64, first: int = 0) -> Frames:
    """Smooth waves that move a little with every frame [F, H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    time = np.arange(first, first + frames)[:, None, None]
    waves = (np.sin((x + 3 * time) / 17), np.sin((y + 2 * time) / 13), np.sin((x + y - 4 * time) / 23))
    picture: Frames = (128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
    return picture


def decode(data: bytes | Path) -> tuple[list[Fraction], Frames]:
    """Times in seconds and RGB of each frame."""
    times: list[Fraction] = []
    pictures: list[Frames] = []
    with av.open(io.BytesIO(data) if isinstance(data, bytes) else data, "r") as source:
        for frame in source.decode(video=0):
            assert frame.pts is not None
            assert frame.time_base is not None
            times.append(frame.pts * frame.time_base)
            pictures.append(
                frame.reformat(
                    format="rgb24",
                    src_colorspace=frame.colorspace,
                    src_color_range=frame.color_range,
                    dst_color_range=ColorRange.JPEG,
                    interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
                )
                .to_ndarray()
                .astype(np.uint8)
            )
    return times, np.stack(pictures)


def psnr(a: Frames, b: Frames) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))
