"""Stages of a real Triton that are slow, and one that hangs in a step."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tests.e2e.faults import Faults
from tests.runner.recipes import Kept, recipe
from tests.runner.test_claim import FILES
from tests.runner.test_pipeline import CHUNKS, run
from tests.runner.test_serving import loading, model
from tests.triton.conftest import MODEL
from tests.triton.server import PLAN, SETTINGS, Server
from videojob.runner.buffers import FrameBuffers
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.model_state import Action, State, next_action
from videojob.runner.patience import FIRST_SECONDS, LONGEST_LOOK
from videojob.runner.served import Served
from videojob.runner.triton import Request, Triton
from videojob.triton.contract import ChunkError, ErrorCode, Mark, StageGoneError, model_name
from videojob.triton.progress import Progress
from videojob.triton.repository import render, touch
from videojob.triton.settings import ModelSettings, ReplicaSettings
from videojob.triton.wire import UnitRequest

pytestmark = pytest.mark.timeout(900)

HANGING = "hanging"
MANY = 20_000
"""Denoising steps that take minutes."""
LOOKS = round(FIRST_SECONDS / LONGEST_LOOK)
"""For so long a stage may be silent."""


class Clock:
    """Moves on by LONGEST_LOOK seconds with each look."""

    def __init__(self) -> None:
        self.looks = 0

    def monotonic(self) -> float:
        self.looks += 1
        return self.looks * LONGEST_LOOK


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def triton(server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Triton]:
    """A connection whose clock is fast: to a step it gives seconds where it says that these are minutes."""
    monkeypatch.setattr("videojob.runner.triton.LOOK_SECONDS", 0.25)
    monkeypatch.setattr("videojob.runner.patience.ENDED_SECONDS", 240 * LONGEST_LOOK)
    client = Triton(server.grpc, "runner", clock.monotonic)
    yield client
    await client.close()


@pytest.fixture
async def hanging(server: Server, settings: ModelSettings, control_dir: Path, triton: Triton, tmp_path: Path) -> Faults:
    """The tiny model once more, with faults."""
    faults = Faults(tmp_path / "faults")
    templates = faults.templates(tmp_path / "model_repo")
    replica = ReplicaSettings(str(control_dir))
    await triton.load(render(templates, server.repository, replace(settings, name=HANGING), replica, "cpu"))
    return faults


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(300):
        while not await holds():  # noqa: ASYNC110 - nothing notifies
            await asyncio.sleep(0.05)


async def test_a_unit_is_waited_for_however_long_while_its_steps_are_seen(triton: Triton, clock: Clock) -> None:
    stage = model_name(MODEL, "denoiser")
    stream = triton.stream(MODEL, "denoiser", "long-1")
    long = UnitRequest(replace(PLAN.units[0], steps=MANY), SETTINGS)
    stream.send(Request(long, FILES["denoiser"], start=True))
    waiting = asyncio.create_task(stream.answer())
    seen: list[Progress | None] = []

    async def long_enough() -> bool:
        seen.append(await triton.progress(stage))
        return clock.looks > 1.2 * LOOKS or waiting.done()

    await until(long_enough)
    counts = [note.count for note in seen if note is not None and note.size]
    assert counts == sorted(counts) and len(set(counts)) > 10, "it is not seen how far it is"

    await triton.mark("long-1", Mark.CANCEL)
    with pytest.raises(ChunkError) as stopped:
        await waiting
    assert stopped.value.reason is ErrorCode.CANCELLED
    assert await stream.end() == []
    await stream.close()
    note = await triton.progress(stage)
    assert note is not None and note.size == 0


async def test_a_stage_that_hangs_in_a_step_is_ended_and_the_job_goes_on_from_its_commits(
    triton: Triton, hanging: Faults, server: Server, request: pytest.FixtureRequest
) -> None:
    buffers, what = FrameBuffers(triton, "pool", request.node.name), replace(recipe("job-1"), model=HANGING)
    quiet, kept = Kept(), Kept()
    await run(triton, buffers, replace(what, correlation_id="quiet-1"), quiet)
    hanging.hold("denoiser", 2, "step", step=2)

    with pytest.raises(StageGoneError) as gone:
        await run(triton, buffers, what, kept)

    assert hanging.reached("denoiser"), "the fault did not happen"
    assert gone.value.model == model_name(HANGING, "denoiser")
    assert len(kept.pieces) == 2
    hanging.release("denoiser")
    touch(server.repository, gone.value.model)
    await triton.load(gone.value.model)
    await run(triton, buffers, replace(what, correlation_id="job-2"), kept)
    await buffers.close()
    assert kept.segments == quiet.segments
    assert [made.index for made in kept.units] == list(range(CHUNKS))
    await triton.unload(model_name(HANGING, "video_chunk"))


async def test_a_model_is_unloaded_though_a_stage_hangs_whose_answer_nobody_waits_for(
    triton: Triton,
    hanging: Faults,
    server: Server,
    control_dir: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a runner that was killed leaves it to the next one."""
    monkeypatch.setattr("videojob.runner.loader.LOOK_SECONDS", 0.01)
    loader = loading(triton, RunnerMetrics(CollectorRegistry(), "p", "r"), server.repository, control_dir)
    served = Served(model(tiny_model, name=HANGING), State.RESIDENT)
    hanging.hold("denoiser", 0, "step", step=1)
    stream = triton.stream(HANGING, "denoiser", "left-1")
    stream.send(Request(UnitRequest(PLAN.units[0], SETTINGS), FILES["denoiser"], start=True))
    await until(partial(asyncio.to_thread, hanging.reached, "denoiser"))

    for expected in (Action.UNLOAD, Action.LOAD_STAGE, Action.UNLOAD):
        action = next_action(served.state, served.facts(0.0, room=True))
        assert action is expected
        await loader.do(served, action)

    assert served.state is State.ABSENT
    assert model_name(HANGING, "denoiser") not in await triton.present()
    await stream.close()


async def test_a_runner_that_was_replaced_ends_no_process(triton: Triton, server: Server, control_dir: Path) -> None:
    stage, newer = model_name(MODEL, "vae_decoder"), Triton(server.grpc, "newer")
    newer.claim_number = 1
    assert await newer.claim() is None
    note = await triton.progress(stage)
    assert note is not None

    assert not await triton.end_stage(stage, note)

    assert await triton.progress(stage) == note
    os.kill(note.pid, 0)  # It fails where there is no such process.
    (control_dir / "claim.json").unlink()
    await newer.close()


async def test_a_stage_that_nobody_knows_has_no_progress(triton: Triton) -> None:
    assert await triton.progress("unknown.denoiser") is None
