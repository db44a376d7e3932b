"""Two runners on one real Triton: the newer one claims it, and requests of the older are refused."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.triton.conftest import MODEL
from tests.triton.server import PLAN, SETTINGS, Server
from videojob.models.anyflow_far import EMBEDS
from videojob.models.history import LATENTS
from videojob.runner.triton import Request, Triton
from videojob.triton.contract import CHECKPOINT, CONDITIONS, SEQUENCE_STAGES, ChunkError, ErrorCode, Stage
from videojob.triton.wire import UnitRequest


@pytest.fixture
async def runners(server: Server, control_dir: Path) -> AsyncIterator[tuple[Triton, Triton]]:
    """The older and the newer."""
    older, newer = Triton(server.grpc, "older"), Triton(server.grpc, "newer")
    older.claim_number, newer.claim_number = 1, 2
    yield older, newer
    await older.close()
    await newer.close()
    (control_dir / "claim.json").unlink(missing_ok=True)  # Others have never claimed the server.


FILES = {
    "denoiser": {CONDITIONS: [save({EMBEDS: torch.zeros(1, 4, 32)})]},
    "vae_decoder": {CHECKPOINT: [save({LATENTS: torch.zeros(1, 16, 1, 4, 6)})]},
}


async def make(triton: Triton, stage: Stage, name: str) -> None:
    """Have the first unit of a video made by a stage, and raise what it fails with."""
    stream = triton.stream(MODEL, stage, name)
    try:
        stream.send(Request(UnitRequest(PLAN.units[0], SETTINGS), FILES[stage], start=True, end=True))
        await stream.answer()
    finally:
        await stream.end()
        await stream.close()


@pytest.mark.parametrize("stage", SEQUENCE_STAGES)
async def test_the_newer_runner_drives_it(runners: tuple[Triton, Triton], stage: Stage) -> None:
    older, newer = runners
    assert await older.claim() is None
    await make(older, stage, "before-1")
    assert await newer.claim() is None

    with pytest.raises(ChunkError, match="Another runner, newer, drives this Triton") as refused:
        await make(older, stage, "after-1")
    assert refused.value.reason is ErrorCode.SUPERSEDED
    await make(newer, stage, "after-2")
    assert await older.claim() == 2
    assert await newer.claim() is None, "it may claim again what is its own"
