"""The time axis that segments and MP4 share."""

from fractions import Fraction


def ticks_per_frame(fps: Fraction) -> int:
    """Every frame lasts exactly this long on the time axis of its file, so no timestamp is ever rounded."""
    return 1000 if fps.denominator == 1 else fps.denominator


def tick(fps: Fraction) -> Fraction:
    """Seconds of one tick, the inverse of a whole number: files name that."""
    return 1 / (fps * ticks_per_frame(fps))


def muxer_options(fps: Fraction, *movflags: str) -> dict[str, str]:
    """Options of FFmpeg's MP4 muxer for exact times, and bytes without the time of day or the muxer's version."""
    timescale = str(1 / tick(fps))
    return {
        "movflags": "+".join(movflags),
        "video_track_timescale": timescale,
        "movie_timescale": timescale,
        # Times are written as they are. The muxer would else shift a file's first frame to 0.
        "avoid_negative_ts": "disabled",
        "use_editlist": "0",
        "fflags": "+bitexact",
    }
