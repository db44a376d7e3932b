"""A stage that has lost its accelerator, on a real Triton: its answer arrives, then its process ends."""

import asyncio
from pathlib import Path

from tests.triton.conftest import MODEL_REPO
from tests.triton.server import PLAN, SETTINGS, running_server
from videojob.runner.triton import Request, Triton
from videojob.triton.contract import ErrorCode, StageGoneError, model_name
from videojob.triton.repository import touch
from videojob.triton.wire import UnitRequest

PATIENCE = 120.0
STAGE = model_name("broken", "text_encoder")
CODE = """
from videojob.triton.backend import answer
from videojob.triton.contract import ChunkError, ErrorCode

class TritonPythonModel:
    def execute(self, requests):
        return answer(requests, self._respond)

    def _respond(self, request):
        raise ChunkError(ErrorCode.ACCELERATOR_FAILED, "An illegal memory access was encountered.")
"""


async def fail(triton: Triton) -> StageGoneError:
    """What a request fails with."""
    stream = triton.stream("broken", "text_encoder", "job-1")
    try:
        stream.send(Request(UnitRequest(PLAN.units[0], SETTINGS), start=True, end=True))
        await stream.answer()
    except StageGoneError as error:
        return error
    finally:
        await stream.close()
    raise AssertionError("the request did not fail")


async def test_the_answer_arrives_before_the_process_ends_and_the_stage_can_be_loaded_anew(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        folder = server.repository / STAGE
        (folder / "1").mkdir(parents=True)
        config = (MODEL_REPO / "text_encoder" / "config.pbtxt").read_text().replace("KIND_GPU", "KIND_CPU")
        (folder / "config.pbtxt").write_text(config)
        (folder / "1" / "model.py").write_text(CODE)
        triton = Triton(server.grpc)
        try:
            for _ in range(5):
                await asyncio.to_thread(touch, server.repository, STAGE)
                await triton.load(STAGE)
                error = await fail(triton)
                assert (error.reason, error.model) == (ErrorCode.ACCELERATOR_FAILED, STAGE)
                async with asyncio.timeout(PATIENCE):
                    while error.reason is not ErrorCode.STAGE_GONE:
                        error = await fail(triton)
                assert error.model == STAGE
        finally:
            await triton.close()
