"""Images that people give, PNG and JPEG: decoded by a process of its own, with limits on pixels, memory and time.

A small file may ask for hours and gigabytes (a JPEG of many thousand scans, a PNG of one colour and any size), and a
decoder may crash: where that process dies, no harm is done.
"""

import asyncio
import signal
import sys
from typing import Final

from videojob.media.errors import MediaError

CPU_SECONDS: Final = 15
"""That are computed for an image."""
DECODE_SECONDS: Final = 60.0
"""For that to happen, on a machine however busy."""
REFUSED: Final = 3
"""Exit status of the process where the image is refused; then a sentence is on standard error."""


_CRASHES: Final = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})


class ImageError(Exception):
    """An image cannot be used; the message says why, as what follows its name."""


async def read_image(
    data: bytes, width: int, height: int, cpu_seconds: int = CPU_SECONDS, seconds: float = DECODE_SECONDS
) -> bytes:
    """The image as one frame, RGB `[height, width, 3]` uint8, one byte after the other.

    It is scaled to cover the frame, and cut evenly at two edges where its shape is another one. As photographs say how
    they are to be turned, they are; what is transparent becomes white. Raises ImageError, or MediaError where it is not
    the image's fault.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "videojob.media.decode_image", str(width), str(height), str(cpu_seconds)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            frame, said = await process.communicate(data)
    except TimeoutError:
        raise MediaError(f"An image was not decoded within {seconds:g} s.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    ended = process.returncode or 0
    if ended == REFUSED:
        raise ImageError(said.decode().strip())
    if ended == -signal.SIGXCPU:
        raise ImageError("takes too long to decode")
    if -ended in _CRASHES:
        raise ImageError("makes its decoder crash")
    if ended or len(frame) != width * height * 3:
        raise MediaError(f"The decoder of images ended with status {ended}: {said.decode()[-300:]}")
    return frame
