"""The time axis that segments and MP4 share."""

from fractions import Fraction
from typing import Final

TICKS_PER_FRAME: Final = 1000
"""Every frame lasts exactly this long on the time axis of its file, so no timestamp is ever rounded."""


def tick(fps: int) -> Fraction:
    """Seconds of one tick."""
    return Fraction(1, fps * TICKS_PER_FRAME)


def muxer_options(fps: int, *movflags: str) -> dict[str, str]:
    """Options of FFmpeg's MP4 muxer for exact times, and bytes without the time of day or the muxer's version."""
    timescale = str(fps * TICKS_PER_FRAME)
    return {
        "movflags": "+".join(movflags),
        "video_track_timescale": timescale,
        "movie_timescale": timescale,
        # Times are written as they are. The muxer would else shift a file's first frame to 0.
        "avoid_negative_ts": "disabled",
        "use_editlist": "0",
        "fflags": "+bitexact",
    }
