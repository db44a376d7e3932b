"""Playlists: their text, and what FFmpeg plays by them."""

import io
import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.media.pictures import decode, moving_picture
from videojob.families import NTSC, frame_rate
from videojob.media import MediaError, MediaSegment, Range, encode_segment, layout_of, playlist, remux
from videojob.media.playlist import TARGET_SECONDS, most_frames

HEADER = Range("../attempts/1/0-a.mp4", 0, 745)
RATES = [frame_rate(number) for number in (*range(1, 61), *NTSC)]


def test_the_text_of_one_that_grows_and_of_a_whole_one() -> None:
    segments = [
        MediaSegment(Range("../attempts/1/1-first-b.mp4", 0, 900), 13),
        MediaSegment(Range("../attempts/2/2-c.mp4", 745, 800), 12),
    ]
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:6",
        "#EXT-X-TARGETDURATION:2",
        "#EXT-X-MEDIA-SEQUENCE:0",
        "#EXT-X-PLAYLIST-TYPE:EVENT",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        "#EXT-X-START:TIME-OFFSET=0",
        '#EXT-X-MAP:URI="../attempts/1/0-a.mp4",BYTERANGE="745@0"',
        "#EXTINF:0.542208,",
        "#EXT-X-BYTERANGE:900@0",
        "../attempts/1/1-first-b.mp4",
        "#EXTINF:0.500500,",
        "#EXT-X-BYTERANGE:800@745",
        "../attempts/2/2-c.mp4",
    ]
    rate = Fraction(24_000, 1001)
    assert playlist(HEADER, segments, rate, ended=False).splitlines() == lines
    assert playlist(HEADER, segments, rate, ended=True).splitlines() == [
        *lines[:4],
        "#EXT-X-PLAYLIST-TYPE:VOD",
        *lines[5:],
        "#EXT-X-ENDLIST",
    ]


@given(st.sampled_from(RATES), st.lists(st.integers(1, 200), max_size=5))
def test_one_that_grows_changes_at_its_end_alone(fps: Fraction, frames: list[int]) -> None:
    segments = [MediaSegment(Range(f"{count}.mp4", 0, count), count) for count in frames]
    shown = [playlist(HEADER, segments[:count], fps, ended=False) for count in range(len(segments) + 1)]
    assert all(after.startswith(before) for before, after in itertools.pairwise(shown))


@pytest.mark.parametrize("fps", RATES, ids=str)
def test_no_fragment_lasts_longer_than_a_media_segment_may_with_a_frame_before_it(fps: Fraction) -> None:
    assert (most_frames(fps) + 1) / fps <= TARGET_SECONDS


@pytest.mark.parametrize(
    ("frames", "fps", "fragments"),
    [(1, 24, [1]), (47, 24, [47]), (48, 24, [24, 24]), (100, 24, [33, 33, 34]), (3, 1, [1, 1, 1]), (4, 2, [2, 2])],
)
def test_a_long_piece_has_fragments_of_about_the_same_length(frames: int, fps: int, fragments: list[int]) -> None:
    segment = encode_segment(moving_picture(frames), Fraction(fps), 0)
    layout = layout_of(segment)
    assert [fragment.frames for fragment in layout.fragments] == fragments
    assert layout.header_bytes + sum(fragment.size_bytes for fragment in layout.fragments) == len(segment)
    start = layout.header_bytes
    for fragment in layout.fragments:
        _, decoded = decode(segment[: layout.header_bytes] + segment[start : start + fragment.size_bytes])
        assert len(decoded) == fragment.frames, "a fragment does not play alone"
        start += fragment.size_bytes


@pytest.mark.parametrize("cut", [0, 100, 745, 800, -1])
def test_what_is_no_whole_segment_has_no_layout(cut: int) -> None:
    with pytest.raises(MediaError, match=r"torn|no fragment"):
        layout_of(encode_segment(moving_picture(2), Fraction(24), 0)[:cut])


@pytest.mark.parametrize("number", [1, 16, 23.976])
def test_ffmpeg_plays_it(tmp_path: Path, number: float) -> None:
    fps, counts, starts = frame_rate(number), (5, 12, 70, 3), (0, 5, 17, 87)
    ranges: list[MediaSegment] = []
    for index, (count, start) in enumerate(zip(counts, starts, strict=True)):
        segment = encode_segment(moving_picture(count, first=start), fps, start)
        (tmp_path / f"{index}.mp4").write_bytes(segment)
        layout = layout_of(segment)
        at = layout.header_bytes
        for fragment in layout.fragments:
            ranges.append(MediaSegment(Range(f"{index}.mp4", at, fragment.size_bytes), fragment.frames))
            at += fragment.size_bytes
    path = tmp_path / "playlist.m3u8"
    path.write_text(playlist(Range("0.mp4", 0, layout.header_bytes), ranges, fps, ended=True))

    times, decoded = decode(path)
    assert [round(float(time), 4) for time in times] == [round(float(frame / fps), 4) for frame in range(90)]
    alone = np.concatenate([decode(tmp_path / f"{index}.mp4")[1] for index in range(4)])
    assert np.array_equal(decoded, alone)
    with av.open(path) as source:
        assert source.format.name == "hls"
        assert source.duration is not None
        assert source.duration / av.time_base == pytest.approx(float(90 / fps), abs=0.001)


def test_what_safari_asks_of_a_file(tmp_path: Path) -> None:
    """Codec and parameter sets in the header (avc1, not avc3, and no HEVC), 4:2:0 of 8 bits, the index in front."""
    segment = encode_segment(moving_picture(12), Fraction(16), 0)
    remux([segment], tmp_path / "video.mp4", Fraction(16))
    for data in (segment, (tmp_path / "video.mp4").read_bytes()):
        assert b"avc1" in data and b"avcC" in data
        assert not any(other in data for other in (b"avc3", b"hvc1", b"hev1", b"edts"))
        assert data.index(b"moov") < data.index(b"mdat")
        with av.open(io.BytesIO(data)) as source:
            context = source.streams.video[0].codec_context
            assert (context.pix_fmt, context.profile) == ("yuv420p", "High")
            assert context.extradata is not None
            version, profile, _, level = context.extradata[:4]
            assert (version, profile) == (1, 100) and level <= 52
