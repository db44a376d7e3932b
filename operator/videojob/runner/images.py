"""The images that a job's shots begin and end with: from the job or from the pool's store, as frames of its video."""

import binascii
import hashlib
import re
from base64 import b64decode
from collections.abc import Sequence
from typing import Final

from videojob.api.reasons import Reason
from videojob.api.shots import Shot, ShotImage
from videojob.media import ImageError, read_image
from videojob.store import JobStore, ObjectTooLarge

MAX_BYTES: Final = 64 << 20
"""Of a file."""
_SPACE: Final = re.compile(r"\s")


class ImageRefusedError(Exception):
    """A job cannot be made with one of its images; the message is a sentence that names it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Images:
    """The images of one job.

    What a job is made from must stay what it was, so each that is in the store is copied at first to the job's own
    files. Every method may raise ImageRefusedError, StoreError and MediaError.
    """

    def __init__(self, files: JobStore, shots: Sequence[Shot], attempt: int, width: int, height: int) -> None:
        self._files = files
        self._shots = shots
        self._attempt = attempt
        self._size = (width, height)
        self._digests: dict[int, bytes] = {}

    async def check(self) -> None:
        """See that every image can be used, before anything is made."""
        for shot in range(len(self._shots)):
            await self.frames(shot)

    async def frames(self, shot: int) -> list[bytes]:
        """The first frame of a shot, and the last one as well, as far as they are given: see `read_image`.

        They are decoded each time: those of all shots would take more memory than a replica has.
        """
        frames = []
        for place, image in enumerate(self._shots[shot].images):
            name = f"shots[{shot}].{('image', 'lastImage')[place]}"
            data = await self._file(name, 2 * shot + place, image)
            try:
                frames.append(await read_image(data, *self._size))
            except ImageError as error:
                raise ImageRefusedError(Reason.IMAGE_INVALID, f"{name} {error}.") from error
        self._digests[shot] = b"".join(hashlib.sha256(frame).digest() for frame in frames)
        return frames

    def digest(self, shot: int) -> bytes:
        """What says which frames those of a shot are, once they were checked; empty where there are none."""
        return self._digests[shot]

    async def _file(self, name: str, index: int, image: ShotImage) -> bytes:
        if image.store is None:
            return _unpacked(name, image.inline or "")
        if (kept := await self._files.image(index)) is not None:
            return kept
        try:
            given = await self._files.given.read(image.store, MAX_BYTES)
        except ObjectTooLarge as error:
            raise ImageRefusedError(
                Reason.IMAGE_INVALID,
                f"{name} has {error.size >> 20} MiB: at most {MAX_BYTES >> 20} MiB are taken.",
            ) from error
        if given is None:
            raise ImageRefusedError(
                Reason.IMAGE_NOT_FOUND, f"{name} is not in the store: there is no {self._files.given.uri(image.store)}."
            )
        await self._files.keep_image(index=index, attempt=self._attempt, image=given)
        return await self._files.image(index) or given


def _unpacked(name: str, text: str) -> bytes:
    try:
        return b64decode(_SPACE.sub("", text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageRefusedError(
            Reason.IMAGE_INVALID, f"{name}.inline is no base64: write what `base64 FILE` prints."
        ) from error
