"""Jobs as a replica holds them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tests.planner.builders import RESOLVED
from videojob.api import transitions
from videojob.api.meta import ObjectMeta
from videojob.api.shots import Shot
from videojob.api.videojob import StageSeconds, VideoJob, VideoJobSpec, VideoJobStatus
from videojob.kube.client import Json
from videojob.media import encode_segment, look
from videojob.runner.drifting import look_record
from videojob.runner.recipe import MadePiece, MadeUnit
from videojob.runner.status import Owner
from videojob.runner.triton import TritonGoneError
from videojob.store import JobStore, StoreError, open_store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = Owner("p", "r", 1)


def assigned_job(**spec: object) -> VideoJob:
    """A job in its first attempt, on replica r of pool p."""
    return VideoJob(
        metadata=ObjectMeta(name="film", namespace="team", uid="u-1", generation=1),
        spec=VideoJobSpec(model="tiny", shots=(Shot(prompt="a cat", seconds=1),), **spec),  # type: ignore[arg-type]
        status=transitions.assigned(
            VideoJobStatus(), pool="p", replica="r", resolved=RESOLVED, store_uri="file:///s", now=NOW, generation=1
        ),
    )


def wire(job: VideoJob) -> Json:
    """The job as the API server has it."""
    return job.wire()


SMALL = RESOLVED.model_copy(update={"width": 64, "height": 48, "fps": 12, "frames": 4, "chunks": 2})
"""What a video of two chunks of two frames each is made from."""


@dataclass(frozen=True)
class Chunk:
    """A unit and the piece that comes of it."""

    unit: MadeUnit
    piece: MadePiece


def made(index: int, shade: int = 0) -> Chunk:
    """A finished chunk of SMALL, in that shade of grey."""
    frames = np.full((2, SMALL.height, SMALL.width, 3), shade, np.uint8)
    segment = encode_segment(frames, SMALL.rate, 2 * index)
    return Chunk(
        MadeUnit(index, bytes([shade] * 4), StageSeconds(denoise=1.0)),
        MadePiece(index, (index,), 2, segment, look(frames), StageSeconds(vae_decode=1.0), hidden_decode=0.0),
    )


async def commit(files: JobStore, chunk: Chunk, attempt: int = 1) -> None:
    """Put a chunk into the store, as that attempt."""
    unit, piece, seconds = chunk.unit, chunk.piece, chunk.piece.seconds.model_dump()
    commit = await files.commit_unit(
        index=unit.index, attempt=attempt, checkpoint=unit.checkpoint, stage_seconds=seconds
    )
    await files.commit_piece(
        index=piece.index,
        attempt=attempt,
        frames=piece.frames,
        segment=piece.segment,
        units=[commit.record],
        stage_seconds=seconds,
        look=look_record(piece.look),
    )


class Stored:
    """A `PoolStore` over a folder, which may refuse."""

    def __init__(self, folder: Path) -> None:
        self.store = open_store(folder.as_uri())
        self.refuses = ""

    async def job(self, namespace: str, uid: str) -> JobStore:
        if self.refuses:
            raise StoreError(self.refuses, retryable=True)
        return JobStore(self.store, namespace, uid)

    @contextmanager
    def watched(self) -> Iterator[None]:
        yield


class NoModel:
    """A `Serving` that never gets the model."""

    def doubt(self, name: str) -> None:
        """It is not there anyway."""

    async def take(self, name: str, seconds: float, report_wait: Any) -> None:
        report_wait("it is loading")
        raise TritonGoneError("The model was not ready.")
