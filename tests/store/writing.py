"""Chunks to commit, and processes that die in the middle of it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import obstore
import pytest

from videojob.store import Commit, JobStore, PieceRecord, UnitRecord

SECONDS = {"denoise": 1.5, "vae_decode": 0.25, "mux": 0.0}
WRITES = 4
"""Of a unit and its piece: checkpoint, record, segment, record."""


def segment(index: int, variant: str = "") -> bytes:
    return f"segment {index} {variant}".encode() * 100


def checkpoint(index: int, variant: str = "") -> bytes:
    return f"checkpoint {index} {variant}".encode() * 100


def named(name: str, suffix: str, data: bytes) -> str:
    """The key of an object: it says what is in it."""
    return f"{name}-{hashlib.sha256(data).hexdigest()[:16]}{suffix}"


async def commit_unit(job: JobStore, index: int, attempt: int = 1, variant: str = "") -> Commit[UnitRecord]:
    return await job.commit_unit(
        index=index, attempt=attempt, checkpoint=checkpoint(index, variant), stage_seconds=SECONDS
    )


async def commit(job: JobStore, index: int, attempt: int = 1, variant: str = "") -> Commit[PieceRecord]:
    """A unit and the piece that comes of it, which has its index."""
    unit = (await commit_unit(job, index, attempt, variant)).record
    return await job.commit_piece(
        index=index,
        attempt=attempt,
        frames=1 if index == 0 else 12,
        segment=segment(index, variant),
        units=[unit],
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
