"""What can go wrong with media, as sentences."""

from collections.abc import Iterator
from contextlib import contextmanager

import av


class MediaError(Exception):
    """A video could not be encoded, joined or read; the message is a sentence for people."""


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn FFmpeg's errors within the block into a MediaError that names the step that failed."""
    try:
        yield
    except av.FFmpegError as error:
        raise MediaError(f"Could not {doing}: {error.strerror or error}.") from error
