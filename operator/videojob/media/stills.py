"""Pictures of a video, as JPEG: a poster, and a contact sheet of its shots."""

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from videojob.media.errors import MediaError, explained

SHEET_SIDE: Final = 2560
"""Most pixels of a contact sheet's width and height."""
THUMBNAIL_SIDE: Final = 320
"""Most pixels of the longer side of a picture in it."""
QUALITY: Final = 3
"""FFmpeg's scale for JPEG, from 2, the best, to 31."""
_SCALED: Final = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT

Picture = npt.NDArray[np.uint8]
"""RGB, [H, W, 3]."""


def picture(segment: bytes, position: int) -> Picture:
    """The frame at that position of a segment, counted from 0. Raises MediaError."""
    with explained("read a frame of a segment"), av.open(io.BytesIO(segment), "r", format="mp4") as source:
        for number, frame in enumerate(source.decode(video=0)):
            if number == position:
                return scaled(frame, frame.width, frame.height)
    raise MediaError(f"The segment has no frame {position}.")


def thumbnail(of: Picture, shots: int) -> Picture:
    """The picture as a contact sheet of so many shots has it: never larger than it is."""
    side = min(THUMBNAIL_SIDE, SHEET_SIDE // columns(shots))
    height, width, _ = of.shape
    scale = min(1.0, side / max(width, height))
    frame = av.VideoFrame.from_ndarray(of, format="rgb24")
    with explained("scale a picture"):
        return scaled(frame, max(1, round(width * scale)), max(1, round(height * scale)))


def columns(shots: int) -> int:
    """Of a contact sheet, which is about as high as it is wide in pictures."""
    return math.ceil(math.sqrt(shots))


def contact_sheet(thumbnails: Sequence[Picture]) -> Picture:
    """Pictures of one size in rows, in order; what is left of the last row is black."""
    across = columns(len(thumbnails))
    height, width, _ = thumbnails[0].shape
    sheet = np.zeros((-(-len(thumbnails) // across) * height, across * width, 3), np.uint8)
    for place, each in enumerate(thumbnails):
        top, left = place // across * height, place % across * width
        sheet[top : top + height, left : left + width] = each
    return sheet


def jpeg(of: Picture) -> bytes:
    """The picture as a JPEG file. Raises MediaError."""
    height, width, _ = of.shape
    with explained("make a JPEG"):
        frame = av.VideoFrame.from_ndarray(of, format="rgb24").reformat(
            format="yuvj420p",
            # JFIF has no other than these.
            dst_colorspace=Colorspace.ITU601,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG,
        )
        encoder = VideoCodecContext.create("mjpeg", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
        encoder.time_base = encoder.sample_aspect_ratio = Fraction(1)
        encoder.options = {"qmin": str(QUALITY), "qmax": str(QUALITY), "flags": "+bitexact"}
        return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def scaled(frame: av.VideoFrame, width: int, height: int) -> Picture:
    """The frame in RGB and of that size: of the pixels that it loses the mean, the same on every CPU."""
    made = frame.reformat(
        width,
        height,
        format="rgb24",
        src_colorspace=frame.colorspace,
        src_color_range=frame.color_range,
        dst_color_range=ColorRange.JPEG,
        interpolation=_SCALED,
        threads=1,
    )
    return made.to_ndarray().astype(np.uint8, copy=False)
