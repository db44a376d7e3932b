"""Segments and MP4s: decoded by FFmpeg and taken apart box by box."""

import asyncio
import io
import os
import struct
import subprocess
import sys
from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from tests.media.pictures import Frames, decode, moving_picture, psnr
from videojob.families import NTSC, frame_rate
from videojob.media import MediaError, Mp4Writer, encode_segment, probe, remux
from videojob.media.segment import MAX_SIDE

FPS = Fraction(24)
CHUNKS = (1, 12, 12, 8)
"""Frames of each chunk; the last one was cut."""
STARTS = (0, 1, 13, 25)


def segments(width: int = 96, height: int = 64) -> list[bytes]:
    """The segments of one video of 33 frames."""
    return [
        encode_segment(moving_picture(count, width, height, start), FPS, start)
        for count, start in zip(CHUNKS, STARTS, strict=True)
    ]


def boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The boxes of an MP4 at one level, with their contents."""
    at = 0
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        yield name.decode(), data[at + 8 : at + size]
        at += size


def box(data: bytes, *path: str) -> bytes:
    """The contents of a box inside others."""
    for name in path:
        data = dict(boxes(data))[name]
    return data


def times_from(start: int, count: int, fps: Fraction = FPS) -> list[Fraction]:
    return [frame / fps for frame in range(start, start + count)]


@pytest.mark.parametrize(("count", "start"), list(zip(CHUNKS, STARTS, strict=True)))
def test_a_segment_plays_alone_from_its_own_time(count: int, start: int) -> None:
    frames = moving_picture(count, first=start)
    times, decoded = decode(encode_segment(frames, FPS, start))
    assert times == times_from(start, count)
    assert decoded.shape == frames.shape
    assert psnr(frames, decoded) > 35


@pytest.mark.parametrize("fps", [frame_rate(each) for each in (1, 8, 16, 23, 24, 25, 30, 60, *NTSC)], ids=str)
@pytest.mark.parametrize("start", [0, 1, 85, 1_000_001])
def test_times_are_exact(fps: Fraction, start: int) -> None:
    times, _ = decode(encode_segment(moving_picture(3), fps, start))
    assert times == times_from(start, 3, fps)


def test_a_segment_is_one_fragment_that_carries_its_time_and_place() -> None:
    first, second, *_ = segments()
    for segment in (first, second):
        assert [name for name, _ in boxes(segment)] == ["ftyp", "moov", "moof", "mdat"]
    assert struct.unpack(">xxxxQ", box(second, "moof", "traf", "tfdt")) == (1 * 1000,)
    assert struct.unpack(">xxxxI", box(first, "moof", "mfhd")) < struct.unpack(">xxxxI", box(second, "moof", "mfhd"))


def test_only_the_first_frame_is_a_key_frame() -> None:
    noise = np.random.default_rng(7).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)  # every frame is a scene cut
    with av.open(io.BytesIO(encode_segment(noise, FPS, 0)), "r") as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
    assert [packet.is_keyframe for packet in packets] == [True] + [False] * 39
    assert all(packet.pts == packet.dts for packet in packets), "B-frames reorder"


@pytest.mark.parametrize("header_of_each", [False, True], ids=["init-and-fragments", "plain-concatenation"])
def test_segments_in_order_play_as_one(header_of_each: bool) -> None:
    first, *others = segments()
    later = b"".join(other if header_of_each else other[other.index(b"moof") - 4 :] for other in others)
    times, decoded = decode(first + later)
    assert times == times_from(0, 33)
    assert psnr(moving_picture(33), decoded) > 35


def test_all_segments_have_one_header() -> None:
    assert len({segment[: segment.index(b"moof") - 4] for segment in segments()}) == 1


def test_colours_survive() -> None:
    """Patches of the pure, the dark, the bright and the odd, each 32 x 32 pixels."""
    palette = [
        *((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)),
        *((255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 100, 50), (10, 200, 220), (64, 32, 96)),
    ]
    picture = np.zeros((96, 128, 3), np.uint8)
    for place, colour in enumerate(palette):
        y, x = divmod(place, 4)
        picture[32 * y : 32 * y + 32, 32 * x : 32 * x + 32] = colour
    _, decoded = decode(encode_segment([picture] * 5, FPS, 0))
    for place, colour in enumerate(palette):
        y, x = divmod(place, 4)
        middle = decoded[3, 32 * y + 8 : 32 * y + 24, 32 * x + 8 : 32 * x + 24].reshape(-1, 3)
        assert np.abs(middle.astype(int) - colour).max() <= 4, f"{colour} became {middle.mean(axis=0)}"


def test_colour_tags_and_format(tmp_path: Path) -> None:
    remux(segments(), tmp_path / "video.mp4", FPS)
    for data in (segments()[1], (tmp_path / "video.mp4").read_bytes()):
        with av.open(io.BytesIO(data), "r") as source:
            context = source.streams.video[0].codec_context
            assert (context.name, context.pix_fmt, context.width, context.height) == ("h264", "yuv420p", 96, 64)
            assert context.color_range == ColorRange.MPEG
            assert context.colorspace == Colorspace.ITU709
            assert context.color_primaries == ColorPrimaries.BT709
            assert context.color_trc == ColorTrc.BT709


def test_the_mp4_holds_the_whole_video(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    remux(segments(), path, FPS)
    times, decoded = decode(path)
    assert times == times_from(0, 33)
    assert psnr(moving_picture(33), decoded) > 35
    alone = np.concatenate([decode(segment)[1] for segment in segments()])
    assert np.array_equal(decoded, alone), "not the frames of the segments"
    with av.open(path) as source:
        stream = source.streams.video[0]
        assert stream.frames == 33
        assert stream.average_rate == FPS
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == 33 / FPS
        assert source.duration == 33 * av.time_base // FPS
    info = probe(path)
    assert (info.frames, info.width, info.height) == (33, 96, 64)
    assert info.duration_seconds == float(33 / FPS)


def test_the_index_comes_first(tmp_path: Path) -> None:
    remux(segments(), tmp_path / "video.mp4", FPS)
    names = [name for name, _ in boxes((tmp_path / "video.mp4").read_bytes()) if name != "free"]
    assert names == ["ftyp", "moov", "mdat"]


def test_bytes_contain_neither_time_nor_version(tmp_path: Path) -> None:
    remux(segments(), tmp_path / "video.mp4", FPS)
    for data in (segments()[0], (tmp_path / "video.mp4").read_bytes()):
        for word in (b"x264", b"Lavf", b"Lavc"):
            assert word not in data
        assert struct.unpack(">xxxxII", box(data, "moov", "mvhd")[:12]) == (0, 0), "creation and modification time"


ENCODE = """
import sys
from pathlib import Path
from tests.media.test_media import FPS, segments
from tests.media.pictures import Frames, decode, moving_picture, psnr
from videojob.families import NTSC, frame_rate
from videojob.media import remux
remux(segments(), Path(sys.argv[1]), FPS)
"""


def test_the_same_bytes_from_another_process(tmp_path: Path) -> None:
    """As after a resume: other chunks of the video were encoded elsewhere, with other processors at hand."""
    remux(segments(), tmp_path / "a.mp4", FPS)
    subprocess.run(
        (sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{0}})\n{ENCODE}", str(tmp_path / "b.mp4")),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        timeout=120,
    )
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


async def test_the_same_bytes_from_worker_threads_side_by_side() -> None:
    alone = segments(320, 192)
    together = await asyncio.gather(
        *(
            asyncio.to_thread(encode_segment, moving_picture(count, 320, 192, start), FPS, start)
            for count, start in zip(CHUNKS * 3, STARTS * 3, strict=True)
        )
    )
    assert together == alone * 3


class Made(Collection[Frames]):
    """So many frames, each made when it is asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __contains__(self, frame: object) -> bool:
        return False


def test_frames_are_taken_one_at_a_time() -> None:
    """An encoder that collected its frames would hold a chunk twice."""
    alive: list[int] = []

    class Source(Made):
        def __iter__(self) -> Iterator[Frames]:
            for number in range(len(self)):
                alive.append(number)
                yield moving_picture(1, first=number)[0]

    encode_segment(Source(200), FPS, 0)
    assert len(alive) == 200


def test_a_failing_source_is_not_hidden() -> None:
    class Source(Made):
        def __iter__(self) -> Iterator[Frames]:
            yield moving_picture(1)[0]
            raise ConnectionError("the server is gone")

    with pytest.raises(ConnectionError, match="the server is gone"):
        encode_segment(Source(2), FPS, 0)


@pytest.mark.parametrize(
    ("width", "height"),
    [(2, 2), (16, 16), (18, 30), (832, 480), (1280, 720), (1920, 1080), (16, MAX_SIDE), (MAX_SIDE, 16)],
)
def test_sizes(width: int, height: int) -> None:
    frames = moving_picture(2, width, height)
    times, decoded = decode(encode_segment(frames, FPS, 0))
    assert len(times) == 2
    assert decoded.shape == (2, height, width, 3)
    for edge in (np.s_[:, -1:], np.s_[:, :, -1:]):
        assert psnr(frames[edge], decoded[edge]) > 30, "what was padded shows"


def test_the_largest_size() -> None:
    frames = np.full((1, MAX_SIDE, MAX_SIDE, 3), 90, np.uint8)
    _, decoded = decode(encode_segment(frames, FPS, 0))
    assert decoded.shape == frames.shape


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        (np.zeros((0, 64, 64, 3), np.uint8), "at least one frame"),
        (np.zeros((1, 64, 71, 3), np.uint8), "multiples of 2"),
        (np.zeros((1, 9, 64, 3), np.uint8), "multiples of 2"),
        (np.zeros((1, 16, MAX_SIDE + 2, 3), np.uint8), "up to 4096"),
        (np.zeros((1, 64, 64, 4), np.uint8), r"\[H, W, 3\] of uint8"),
        (np.zeros((1, 64, 64), np.uint8), r"\[H, W, 3\] of uint8"),
        (np.zeros((1, 64, 64, 3), np.float32), r"\[H, W, 3\] of uint8"),
        ([np.zeros((64, 64, 3), np.uint8), np.zeros((64, 96, 3), np.uint8)], "the segment's first is"),
    ],
    ids=["none", "width", "height", "too-large", "rgba", "grey", "float", "two-sizes"],
)
def test_frames_that_cannot_be_encoded(frames: Frames, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        encode_segment(frames, FPS, 0)


@pytest.mark.parametrize(("fps", "start"), [(0, 0), (-1, 0), (24, -1)])
def test_times_that_cannot_be(fps: int, start: int) -> None:
    with pytest.raises(ValueError, match="A segment cannot"):
        encode_segment(moving_picture(1), Fraction(fps), start)


def other(**changes: int) -> bytes:
    """A segment for place 1 that is unlike the others."""
    given = {"frames": 12, "fps": 24, "start": 1, "width": 96, **changes}
    return encode_segment(moving_picture(given["frames"], given["width"]), Fraction(given["fps"]), given["start"])


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ([], "at least one segment"),
        ([1], "Frame 0 is missing"),
        ([0, 2], "Frame 1 is missing"),
        ([0, 0], "Frame 1 is missing"),
        ([0, other(fps=25)], "another size, frame rate or encoder setting"),
        ([0, other(width=112)], "another size, frame rate or encoder setting"),
        ([0, b"not a video"], "Could not"),
        ([0, segments()[1][:1200]], "torn"),
        ([0, segments()[1][:-1]], "torn"),
        ([0, segments()[1][:800]], "torn"),
        ([0, segments()[1][:100]], "Could not|torn|no video"),
        ([0, b""], "Could not"),
    ],
    ids=[
        "none",
        "no-first",
        "gap",
        "twice",
        "frame-rate",
        "size",
        "garbage",
        "torn",
        "a-byte-short",
        "index-torn",
        "header-torn",
        "empty",
    ],
)
def test_segments_that_are_not_one_video(tmp_path: Path, chosen: list[int | bytes], sentence: str) -> None:
    made = segments()
    with pytest.raises(MediaError, match=sentence):
        remux([made[one] if isinstance(one, int) else one for one in chosen], tmp_path / "video.mp4", FPS)
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with Mp4Writer(path, FPS) as mp4:
        for segment in segments():
            mp4.add(segment)
            assert not path.exists()
    assert mp4.frames == 33
    assert [one.name for one in tmp_path.iterdir()] == ["video.mp4"]

    whole = path.read_bytes()
    with pytest.raises(ConnectionError), Mp4Writer(path, FPS) as mp4:
        mp4.add(segments()[0])
        raise ConnectionError
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [None, b"", b"no video at all"], ids=["missing", "empty", "text"])
def test_probe_refuses_a_file_that_is_no_video(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "video.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=r"Could not read .*video\.mp4"):
        probe(path)


FULL = """
import resource, sys
from pathlib import Path
from tests.media.test_media import FPS, segments
from tests.media.pictures import Frames, decode, moving_picture, psnr
from videojob.families import NTSC, frame_rate
from videojob.media import MediaError, remux
made = segments()
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
try:
    remux(made, Path(sys.argv[1]), FPS)
except MediaError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """A limit on the size of files refuses a write in its middle, as a full disk or a quota does."""
    done = subprocess.run(
        (sys.executable, "-c", FULL, str(tmp_path / "video.mp4")),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == f"Could not write {tmp_path}/video.mp4: File too large.\n"
    assert list(tmp_path.iterdir()) == []
