"""Chunks to commit, and processes that die in the middle of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import obstore
import pytest

from videojob.store import Commit, JobStore

SECONDS = {"denoise": 1.5, "vae_decode": 0.25, "mux": 0.0}
WRITES = 3
"""Of one commit: segment, latents, record."""


def segment(index: int, variant: str = "") -> bytes:
    return f"segment {index} {variant}".encode() * 100


def latents(index: int, variant: str = "") -> bytes:
    return f"latents {index} {variant}".encode() * 100


async def commit(job: JobStore, index: int, attempt: int = 1, variant: str = "") -> Commit:
    return await job.commit_chunk(
        index=index,
        attempt=attempt,
        frames=1 if index == 0 else 12,
        segment=segment(index, variant),
        latents=latents(index, variant),
        stage_seconds=SECONDS,
    )


class ProcessDied(BaseException):
    """Stands for the end of the process: nothing of the code under test runs after it."""


@contextmanager
def dying(after: int, *, written: bool) -> Iterator[None]:
    """The process dies at a put: once `after` puts are done, before the next reaches the store, or after it did."""
    put, done = obstore.put_async, 0

    async def counted(*args: Any, **kwargs: Any) -> object:
        nonlocal done
        if done == after:
            if written:
                await put(*args, **kwargs)
            raise ProcessDied
        done += 1
        return await put(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(obstore, "put_async", counted)
        yield
