"""The playlist of a video for HTTP Live Streaming: media segments of CMAF, named by ranges of bytes (RFC 8216).

A media segment is a fragment of a segment in the store. A first piece of one frame would be one of some hundredths of a
second, which players stumble over: it goes before the next fragment, in an object of its own. Because a fragment has at
most `most_frames` frames, the two together last no longer than TARGET_SECONDS.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

TARGET_SECONDS: Final = 2
"""The longest media segment."""
VERSION: Final = 6
"""EXT-X-MAP in a playlist that has not only I-frames (RFC 8216, section 7)."""


def most_frames(fps: Fraction) -> int:
    """How many frames a fragment may have, so that one more still fits before it."""
    return max(1, int(TARGET_SECONDS * fps) - 1)


@dataclass(frozen=True)
class Range:
    """Bytes of an object; `uri` is relative to the playlist."""

    uri: str
    start: int
    size_bytes: int


@dataclass(frozen=True)
class MediaSegment:
    """What a player fetches at a time."""

    at: Range
    frames: int


def playlist(header: Range, segments: Iterable[MediaSegment], fps: Fraction, *, ended: bool) -> str:
    """The playlist of what there is of a video; it grows at its end alone. `ended` where nothing follows."""
    lines = [
        "#EXTM3U",
        f"#EXT-X-VERSION:{VERSION}",
        f"#EXT-X-TARGETDURATION:{TARGET_SECONDS}",
        "#EXT-X-MEDIA-SEQUENCE:0",
        f"#EXT-X-PLAYLIST-TYPE:{'VOD' if ended else 'EVENT'}",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        # A player would else begin near the end of what is there, as with a broadcast.
        "#EXT-X-START:TIME-OFFSET=0",
        f'#EXT-X-MAP:URI="{header.uri}",BYTERANGE="{header.size_bytes}@{header.start}"',
    ]
    for segment in segments:
        lines += [
            f"#EXTINF:{float(segment.frames / fps):.6f},",
            f"#EXT-X-BYTERANGE:{segment.at.size_bytes}@{segment.at.start}",
            segment.at.uri,
        ]
    return "\n".join([*lines, *(["#EXT-X-ENDLIST"] if ended else []), ""])
