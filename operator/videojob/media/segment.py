"""One chunk of frames to one segment: a fragmented MP4 that plays alone and whose times continue the previous one's.

It is one fragment or, where it lasts longer than a media segment of a playlist may, several of about the same length.

Every segment has an encoder of its own and starts with an IDR frame, so its bytes depend on its frames and its place
alone, not on what was encoded before. Encoder settings are the same for every segment, so all have the same parameter
sets and one header serves them all: the first segment followed by the fragments of the others is one video, and so is
their plain concatenation for readers that skip a second header.
"""

import io
from collections.abc import Collection
from fractions import Fraction
from itertools import chain
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.bitstream import BitStreamFilterContext
from av.video.frame import PictureType
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from videojob.media.errors import explained
from videojob.media.playlist import most_frames
from videojob.media.timing import muxer_options

MAX_SIDE: Final = 4096
"""Largest width and height in pixels."""
SIDE_MULTIPLE: Final = 2
"""Width and height are multiples of this, as yuv420p has one colour for 2 x 2 pixels. H.264 codes macroblocks of 16 x
16: the encoder pads the last ones, and its parameter sets tell every decoder what to crop."""
THREADS: Final = 4
"""Encoder threads, whatever the machine has: x264's output depends on their number."""

# Constant quality, visually near lossless. Scene cuts and a keyframe interval would put more I-frames into a segment
# than it has fragments. `cpu-independent`: the same bytes from every CPU, whichever vector instructions it has.
_X264: Final = {
    "preset": "veryfast",
    "crf": "18",
    "bf": "0",
    "sc_threshold": "0",
    "g": str(2**24),
    "x264-params": "cpu-independent=1",
}
# x264 puts its version and settings into an SEI unit (type 6) of every segment.
_WITHOUT_SEI: Final = "filter_units=remove_types=6"
_EXACT: Final = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def encode_segment(frames: Collection[npt.NDArray[np.uint8]], fps: Fraction, first_frame: int) -> bytes:
    """Encode frames as H.264 (yuv420p, BT.709, limited range) in a fragmented MP4 of as few fragments as may be.

    Args:
        frames: Arrays [H, W, 3] of RGB, uint8, all of one size; taken one at a time.
        fps: Frames per second.
        first_frame: Position of the first of them in the video; its timestamp is `first_frame / fps` seconds.

    Raises:
        ValueError: There are no frames, or their shape or dtype is not as above.
        MediaError: FFmpeg failed.
    """
    if fps < 1 or first_frame < 0:
        raise ValueError(f"A segment cannot have {fps} frames per second and begin at frame {first_frame}.")
    if not len(frames):
        raise ValueError("A segment needs at least one frame.")
    fragments = -(-len(frames) // most_frames(fps))
    begin = {first_frame + len(frames) * each // fragments for each in range(fragments)}
    source = iter(frames)
    first = next(source)
    height, width = _size(first)
    # frag_discont: the fragment's time is that of its first frame, as if earlier fragments had been written before it.
    options = muxer_options(fps, "empty_moov", "default_base_moof", "frag_keyframe", "skip_trailer", "frag_discont")
    options["fragment_index"] = str(first_frame + 1)  # players expect it to rise from fragment to fragment
    buffer = io.BytesIO()
    with explained("encode a segment"), av.open(buffer, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", fps, options=_X264, width=width, height=height, pix_fmt="yuv420p")
        context = stream.codec_context
        context.thread_count = THREADS
        context.thread_type = "AUTO"
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        container.start_encoding()
        strip = BitStreamFilterContext(_WITHOUT_SEI, stream, stream)
        for position, frame in enumerate(chain((first,), source), start=first_frame):
            if _size(frame) != (height, width):
                raise ValueError(f"Frame {position} is {frame.shape}, the segment's first is {first.shape}.")
            picture = _to_yuv(frame)
            picture.pts = position
            picture.pict_type = PictureType.I if position in begin else PictureType.NONE
            for packet in stream.encode(picture):
                container.mux(strip.filter(packet))
        for packet in stream.encode(None):
            container.mux(strip.filter(packet))
        container.mux(strip.filter(None))
    return buffer.getvalue()


def _size(frame: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width, checked."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"A frame is [H, W, 3] of uint8, not {list(frame.shape)} of {frame.dtype}.")
    height, width, _ = frame.shape
    for side in (height, width):
        if not 0 < side <= MAX_SIDE or side % SIDE_MULTIPLE:
            raise ValueError(
                f"A frame of {width}x{height} cannot be encoded: "
                f"sides are multiples of {SIDE_MULTIPLE}, up to {MAX_SIDE}."
            )
    return height, width


def _to_yuv(frame: npt.NDArray[np.uint8]) -> av.VideoFrame:
    """The picture in BT.709, limited range; exact rounding, the same on every CPU."""
    return av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
        format="yuv420p",
        src_colorspace=Colorspace.ITU709,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        dst_color_trc=ColorTrc.BT709,
        dst_color_primaries=ColorPrimaries.BT709,
        interpolation=_EXACT,
        threads=1,
    )
