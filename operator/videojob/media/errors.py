"""What can go wrong with media, as sentences."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import av

_OF_THE_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class MediaError(Exception):
    """A video could not be encoded, joined or read; the message is a sentence for people."""


class DiskError(MediaError):
    """The disk is full, or cannot be written: that is not the video's fault."""


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn FFmpeg's errors within the block into a MediaError that names the step that failed."""
    try:
        yield
    except av.FFmpegError as error:
        kind = DiskError if error.errno in _OF_THE_DISK else MediaError
        raise kind(f"Could not {doing}: {error.strerror or error}.") from error
