"""Images that people give: what is taken, as which frame, and what is refused in words."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.media.pictures import Frames, psnr
from videojob.media import ImageError, MediaError, read_image
from videojob.media.decode_image import MAX_PIXELS, decoded

WIDTH, HEIGHT = 96, 64


def noise(width: int = WIDTH, height: int = HEIGHT, channels: int = 3) -> Frames:
    pixels: Frames = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels


def smooth(width: int = WIDTH, height: int = HEIGHT) -> Frames:
    """Red grows to the right, green downwards."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels: Frames = np.stack([red, green, np.full_like(red, 128)], axis=-1).astype(np.uint8)
    return pixels


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def png(pixels: Frames) -> bytes:
    return file(Image.fromarray(pixels))


async def test_a_png_of_the_videos_size_is_the_frame() -> None:
    assert await read_image(png(noise()), WIDTH, HEIGHT) == noise().tobytes()


async def test_a_jpeg_is_nearly_the_frame() -> None:
    data = file(Image.fromarray(smooth()), "JPEG", quality=95)
    frame = np.frombuffer(await read_image(data, WIDTH, HEIGHT), np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert psnr(frame, smooth()) > 35


@pytest.mark.parametrize(("width", "height"), [(WIDTH * 4, HEIGHT * 4), (WIDTH * 4, HEIGHT), (WIDTH // 2, HEIGHT * 2)])
def test_another_size_covers_the_frame_without_distortion(width: int, height: int) -> None:
    """The middle stays the middle, and a pixel has the same step in both directions."""
    scale = max(WIDTH / width, HEIGHT / height)
    frame = decoded(png(smooth(width, height)), WIDTH, HEIGHT).astype(float)
    assert frame.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(frame[HEIGHT // 2, WIDTH // 2, :2] - 127.5).max() < 6
    across, down = 255 / (width * scale), 255 / (height * scale)
    inner = frame[8:-8, 8:-8]
    assert np.diff(inner[..., 0], axis=1).mean() == pytest.approx(across, rel=0.05)
    assert np.diff(inner[..., 1], axis=0).mean() == pytest.approx(down, rel=0.05)


def test_a_photograph_is_turned_as_it_says() -> None:
    turned = Image.fromarray(smooth()).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(decoded(file(turned, exif=exif), WIDTH, HEIGHT), smooth())


def test_what_is_transparent_is_white() -> None:
    pixels = np.dstack([noise(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    pixels[:, : WIDTH // 2, 3] = 255
    frame = decoded(png(pixels), WIDTH, HEIGHT)
    assert np.array_equal(frame[:, : WIDTH // 2], pixels[:, : WIDTH // 2, :3])
    assert (frame[:, WIDTH // 2 :] == 255).all()


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.fromarray(smooth()).convert("L"), "PNG"),
        (Image.fromarray(smooth()).convert("L"), "JPEG"),
        (Image.fromarray(smooth()).convert("P"), "PNG"),
        (Image.fromarray(smooth()).convert("1"), "PNG"),
        (Image.fromarray(smooth()).convert("LA"), "PNG"),
        (Image.fromarray(smooth()).convert("CMYK"), "JPEG"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.mode,
)
def test_any_mode_is_taken(image: Image.Image, kind: str) -> None:
    expected = np.asarray(image.convert("RGB"))
    assert np.abs(decoded(file(image, kind), WIDTH, HEIGHT).astype(int) - expected).mean() < 8


def test_sixteen_bits_of_grey_keep_their_shades() -> None:
    ramp = np.tile(np.linspace(0, 65535, WIDTH).astype(np.uint16), (HEIGHT, 1))
    frame = decoded(file(Image.fromarray(ramp)), WIDTH, HEIGHT)
    assert np.array_equal(frame[..., 0], (ramp >> 8).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def empty_png(width: int, height: int) -> bytes:
    """Of that size, with hardly any data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def flooded() -> bytes:
    """With a text that is 100 MiB once it is decompressed."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "a" * (100 << 20), zip=True)
    return file(Image.new("RGB", (8, 8)), pnginfo=info)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "is no PNG and no JPEG"),
    "text": (lambda: b"a picture of a fox", "is no PNG and no JPEG"),
    "another format": (lambda: file(Image.fromarray(noise()), "GIF"), "is no PNG and no JPEG"),
    "a page": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no PNG and no JPEG"),
    "a PNG cut short": (lambda: png(noise())[:5000], "is damaged"),
    "a JPEG cut short": (lambda: file(Image.fromarray(noise()), "JPEG")[:3000], "is damaged"),
    "a PNG with a wrong byte": (lambda: (d := png(noise()))[:3000] + bytes(20) + d[3020:], "is damaged"),
    "only the mark of a PNG": (lambda: b"\x89PNG\r\n\x1a\n", "is"),
    "more pixels than are taken": (lambda: empty_png(8192, 8192), "has 8192 x 8192 pixels"),
    "as many as an integer holds": (lambda: empty_png(2**31 - 1, 2**31 - 1), "too many pixels"),
    "a flood of text": (flooded, "is damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_in_words(name: str) -> None:
    make, words = BAD[name]
    with pytest.raises(ImageError, match=words):
        decoded(make(), WIDTH, HEIGHT)


async def test_a_refusal_comes_from_the_process_as_it_is() -> None:
    with pytest.raises(ImageError, match=f"^has 8192 x 8192 pixels, which are 64 Mi: at most {MAX_PIXELS >> 20} Mi"):
        await read_image(empty_png(8192, 8192), WIDTH, HEIGHT)


async def test_a_busy_machine_is_not_the_images_fault() -> None:
    with pytest.raises(MediaError, match=r"was not decoded within 0.001 s"):
        await read_image(png(noise()), WIDTH, HEIGHT, seconds=0.001)


def many_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: small, and slow to decode."""
    data = file(Image.fromarray(smooth(2048, 2048)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


async def test_an_image_that_takes_too_long_is_refused() -> None:
    """By the time that its process computes, so a busy machine makes no difference."""
    with pytest.raises(ImageError, match="takes too long to decode"):
        await read_image(many_scans(4000), WIDTH, HEIGHT, cpu_seconds=1)
