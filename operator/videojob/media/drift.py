"""How far pictures have drifted from earlier ones of the same shot: signals that cost a few milliseconds a frame.

Videos that are made chunk by chunk wander off slowly: colours saturate, details wash out, the motion stops, another
picture takes the place of the first. What a piece of a video looks like is a handful of numbers, its `Look`; drift is
the distance of two of them, signal by signal, from 0, the same, to 1.

All that is summed up is a whole number, and scaling is exact, so equal frames give an equal look on every CPU.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt

from videojob.media.errors import explained
from videojob.media.stills import scaled

SIDE: Final = 320
"""Most pixels of the longer side that is looked at: what blurs less than a pixel there is not seen here."""
GRID: Final = 8
"""Fields of the small picture in each direction, as many as MPEG-7's colour layout descriptor has."""
DIGITS: Final = 6
"""Decimals of what is measured."""

# Below these, a picture has no contrast, details or motion to speak of: noise alone would count as drift.
LEAST_CONTRAST: Final = 0.01
LEAST_SHARPNESS: Final = 0.002
LEAST_MOTION: Final = 0.001

_Planes = npt.NDArray[np.uint8]
"""Red, green and blue, [3, H, W]."""
_Luma = npt.NDArray[np.int16]
"""[H, W], 0..255."""


@dataclass(frozen=True)
class Look:
    """What some frames in a row look like. Of 8-bit values, 255 is 1."""

    colour: tuple[float, float, float]
    """The mean of red, green and blue."""
    chroma: float
    """The mean of the largest less the smallest of the three in a pixel (the chroma of HSV's hexcone: Smith, 1978)."""
    contrast: float
    """The standard deviation of luma, of each frame, their mean (RMS contrast: Peli, 1990)."""
    sharpness: float
    """The mean absolute Laplacian of luma (a focus measure: Pertuz et al., 2013, family LAP)."""
    motion: float | None
    """The mean absolute difference of luma from frame to frame; None where there is one frame."""
    small: bytes
    """The mean colours of the fields of a grid, `[3, 8, 8]` uint8 (as in the colour layout descriptor of MPEG-7)."""


@dataclass(frozen=True)
class Drift:
    """How far one look is from another, from 0, the same, to 1. Either way: a picture may sharpen or blur."""

    colour: float
    """The distance of the mean colours, or the difference of chroma where that is more."""
    contrast: float
    """By what part one is less than the other; so are sharpness and motion."""
    sharpness: float
    motion: float | None
    """None where either has one frame: it is not judged."""
    dissimilarity: float
    """Of the small pictures: 0.5 where they have nothing in common, 1 where one is the other's negative."""


def look(frames: Collection[npt.NDArray[np.uint8]]) -> Look:
    """What the frames look like.

    Args:
        frames: Arrays [H, W, 3] of RGB, uint8, all of one size, at least one; taken one at a time.

    Raises:
        ValueError: There are no frames.
        MediaError: FFmpeg failed.
    """
    if not len(frames):
        raise ValueError("Without frames there is nothing to look at.")
    contrast = sharpness = motion = 0.0
    chroma = pixels = 0
    colours = np.zeros((3, GRID, GRID), np.int64)
    before: _Luma | None = None
    for frame in frames:
        planes = _planes(frame)
        luma = _luma(planes)
        pixels = luma.size
        colours += _fields(planes)
        chroma += _sum(planes.max(axis=0) - planes.min(axis=0))
        contrast += _deviation(luma)
        sharpness += _laplacian(luma)
        motion += 0.0 if before is None else _sum(np.abs(luma - before)) / pixels
        before = luma
    count = len(frames)
    of_field = count * pixels // GRID**2
    red, green, blue = (_sum(each) for each in colours)
    return Look(
        colour=(_part(red, count * pixels), _part(green, count * pixels), _part(blue, count * pixels)),
        chroma=_part(chroma, count * pixels),
        contrast=_part(contrast, count),
        sharpness=_part(sharpness, count),
        motion=_part(motion, count - 1) if count > 1 else None,
        small=((colours + of_field // 2) // of_field).astype(np.uint8).tobytes(),
    )


def drift(first: Look, now: Look) -> Drift:
    """How far `now` is from `first`."""
    judged = first.motion is not None and now.motion is not None
    return Drift(
        colour=round(max(math.dist(first.colour, now.colour) / math.sqrt(3), abs(first.chroma - now.chroma)), DIGITS),
        contrast=_change(first.contrast, now.contrast, LEAST_CONTRAST),
        sharpness=_change(first.sharpness, now.sharpness, LEAST_SHARPNESS),
        motion=_change(first.motion or 0.0, now.motion or 0.0, LEAST_MOTION) if judged else None,
        dissimilarity=_dissimilarity(first.small, now.small),
    )


def _planes(frame: npt.NDArray[np.uint8]) -> _Planes:
    """The frame as planes, not larger than is looked at, with sides that the grid divides."""
    height, width, _ = frame.shape
    scale = min(1.0, SIDE / max(width, height))
    wanted_width, wanted_height = (max(1, round(side * scale / GRID)) * GRID for side in (width, height))
    if (wanted_width, wanted_height) != (width, height):
        with explained("scale a picture"):
            frame = scaled(av.VideoFrame.from_ndarray(frame, format="rgb24"), wanted_width, wanted_height)
    return np.ascontiguousarray(frame.transpose(2, 0, 1))


def _luma(planes: _Planes) -> _Luma:
    """BT.709's weights, in parts of 256."""
    red, green, blue = planes.astype(np.uint16)
    luma: _Luma = ((54 * red + 183 * green + 19 * blue) >> 8).astype(np.int16)
    return luma


def _fields(planes: _Planes) -> npt.NDArray[np.int64]:
    """Sums of the fields of the grid, `[3, 8, 8]`."""
    _, height, width = planes.shape
    columns = planes.reshape(3, height, GRID, width // GRID).sum(axis=3, dtype=np.int64)
    sums: npt.NDArray[np.int64] = columns.reshape(3, GRID, height // GRID, GRID).sum(axis=2)
    return sums


def _deviation(luma: _Luma) -> float:
    pixels, total = int(luma.size), _sum(luma)
    squares = _sum(np.square(luma, dtype=np.int32))
    return math.sqrt((squares * pixels - total * total) / (pixels * pixels))


def _laplacian(luma: _Luma) -> float:
    """The mean absolute value of it, without the border."""
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return _sum(np.abs(4 * luma[1:-1, 1:-1] - around)) / int(around.size)


def _sum(values: npt.NDArray[Any]) -> int:
    """Of whole numbers, as one without bound."""
    return int(values.sum(dtype=np.int64))


def _part(total: float, count: int) -> float:
    return round(total / count / 255, DIGITS)


def _change(first: float, now: float, least: float) -> float:
    low, high = sorted((max(first, least), max(now, least)))
    return round(1 - low / high, DIGITS)


def _dissimilarity(first: bytes, now: bytes) -> float:
    """By their normalised cross-correlation (Lewis, 1995), to which brightness and contrast make no difference.

    A picture of one colour is like every other of one colour, and has nothing in common with any else.
    """
    a, b = (_centred(np.frombuffer(each, np.uint8)) for each in (first, now))
    norms = int(a @ a) * int(b @ b)
    if not norms:
        return 0.0 if not (a.any() or b.any()) else 0.5
    return round(min(1.0, max(0.0, (1 - int(a @ b) / math.sqrt(norms)) / 2)), DIGITS)


def _centred(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Less their mean, times their number, so that they stay whole."""
    wide = values.astype(np.int64)
    centred: npt.NDArray[np.int64] = wide * wide.size - wide.sum()
    return centred
