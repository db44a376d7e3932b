"""The program that decodes one image for `read_image`: the file on standard input, the frame on standard output."""

import io
import resource
import sys
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from videojob.media.image import REFUSED, ImageError
from videojob.media.stills import Picture

MAX_PIXELS: Final = 48 << 20
"""Of an image as it is in the file: more than most cameras make."""
MEMORY_BYTES: Final = 8 << 30
"""Of addresses. An image of the most pixels, and with transparency, takes half a GiB of memory."""


def decoded(data: bytes, width: int, height: int) -> Picture:
    """The frame, RGB `[height, width, 3]`. Raises ImageError. See `read_image`."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if (pixels := image.width * image.height) > MAX_PIXELS:
                raise ImageError(
                    f"has {image.width} x {image.height} pixels, which are {pixels >> 20} Mi: at most "
                    f"{MAX_PIXELS >> 20} Mi are taken"
                )
            ImageOps.exif_transpose(image, in_place=True)
            frame = _over_white(ImageOps.fit(_of_eight_bits(image), (width, height), Image.Resampling.LANCZOS))
    except UnidentifiedImageError:
        raise ImageError("is no PNG and no JPEG") from None
    except MemoryError:
        raise ImageError("takes too much memory to decode") from None
    except Image.DecompressionBombError:
        raise ImageError(f"has too many pixels: at most {MAX_PIXELS >> 20} Mi are taken") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError) as error:
        # Pillow's decoders raise any of these for a file that is cut short or was changed.
        raise ImageError(f"is damaged: {error}") from error
    return np.asarray(frame)


def _of_eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits for each of three colours, and for its transparency where it has any."""
    if image.mode.startswith("I"):  # 16 bits of grey, which a conversion would cut off at 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def main() -> None:
    """Command line: width and height of the frame, and the seconds that may be computed for it."""
    width, height, seconds = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # a signal that says why, then one that kills
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        frame = decoded(sys.stdin.buffer.read(), width, height)
    except ImageError as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
    sys.stdout.buffer.write(frame.tobytes())


if __name__ == "__main__":
    main()
