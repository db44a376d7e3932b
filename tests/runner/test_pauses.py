"""A job that is stopped within a unit of many steps, on a real Triton whose denoiser waits where the test wants it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc

from tests.e2e.faults import Faults
from tests.runner.recipes import Kept, recipe
from tests.triton.conftest import MODEL_REPO
from tests.triton.server import Server, running_server
from videojob.runner.buffers import FrameBuffers
from videojob.runner.clock import Clock
from videojob.runner.pipeline import Pipeline
from videojob.runner.recipe import Recipe, Resume
from videojob.runner.stop import Stop, StoppedError
from videojob.runner.triton import Triton
from videojob.store import Partial
from videojob.triton.contract import ChunkError, ErrorCode, Mark
from videojob.triton.repository import render, render_control
from videojob.triton.settings import ModelSettings, ReplicaSettings

STEPS, HELD = 12, 5
"""Steps of a unit, and the question at which the denoiser waits: the first is before the unit, the second before its
first step."""
MADE = HELD - 2
UNITS = 3


def what(sequence: str, **changes: Any) -> Recipe:
    made = recipe(sequence, frames=25)
    plan = replace(made.plan, units=[replace(unit, steps=STEPS) for unit in made.plan.units])
    return replace(made, plan=plan, **changes)


class Held:
    """The model, and the client that drives it."""

    def __init__(self, triton: Triton, buffers: FrameBuffers, faults: Faults, control_dir: Path) -> None:
        self.triton = triton
        self.faults = faults
        self._buffers = buffers
        self._control_dir = control_dir

    async def run(self, job: Recipe, kept: Kept, stop: Stop | None = None, partial: Partial | None = None) -> None:
        """Go on after what is kept."""
        resume = Resume(len(kept.units), len(kept.pieces), partial)
        checkpoints = {unit: kept.units[unit].checkpoint for unit in resume.checkpoints(job.plan)}
        keep = (kept.unit, kept.piece, kept.partial)
        pipeline = Pipeline(job, self.triton, self._buffers, Clock(), *keep)
        await pipeline.run(resume, checkpoints, stop or Stop())

    async def stopped_within(self, unit: int, job: Recipe, kept: Kept, ask: Callable[[Stop], object]) -> None:
        """Have it asked to stop once MADE steps of the unit are made, and let the denoiser go on."""
        self.faults.hold("denoiser", unit, "step", step=HELD)
        stop = Stop()
        running = asyncio.create_task(self.run(job, kept, stop))
        await self._until(lambda: self.faults.reached("denoiser"))
        if asyncio.iscoroutine(asked := ask(stop)):
            await asked
        await self._until(lambda: any(self._control_dir.glob("*.mark")))
        self.faults.release("denoiser")
        await running

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():  # noqa: ASYNC110 - a file notifies nobody
                await asyncio.sleep(0.01)

    def steps(self, unit: int) -> int:
        """Questions about a unit that the denoiser has asked, since `clear` of the faults."""
        return sum(1 for each, _, _ in self.faults.steps("denoiser") if each == unit)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def control_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of its own: in the one that all tests share there may be marks of others."""
    return tmp_path_factory.mktemp("control")


@pytest.fixture(scope="module")
def waiting(
    settings: ModelSettings, control_dir: Path, faults: Faults, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server whose only model waits and counts."""
    folder, replica = tmp_path_factory.mktemp("waiting"), ReplicaSettings(str(control_dir))
    templates = faults.templates(folder / "model_repo")
    with running_server(folder) as started:
        with grpc.InferenceServerClient(started.grpc) as client:
            client.load_model(render(templates, started.repository, settings, replica, "cpu"))
            client.load_model(render_control(MODEL_REPO, started.repository, replica))
        yield started


@pytest.fixture
async def held(waiting: Server, faults: Faults, control_dir: Path) -> AsyncIterator[Held]:
    faults.clear()
    triton = Triton(waiting.grpc)
    buffers = FrameBuffers(triton, "pool", "held")
    yield Held(triton, buffers, faults, control_dir)
    await buffers.close()
    await triton.close()


@pytest.fixture(scope="module")
def made() -> list[Kept]:
    """The job, undisturbed, once a test has asked for it."""
    return []


@pytest.fixture
async def quiet(held: Held, made: list[Kept]) -> Kept:
    """The job, undisturbed."""
    if not made:
        kept = Kept()
        await held.run(what("quiet-1"), kept)
        held.faults.clear()
        made.append(kept)
    return made[0]


def suspend(stop: Stop) -> None:
    stop.release("Suspended")


def drain(stop: Stop) -> None:
    """With a grace that is over at once."""
    stop.drain("Drained", 0.0)


@pytest.mark.parametrize("ask", [suspend, drain])
@pytest.mark.parametrize("unit", [0, 1, UNITS - 1])
async def test_a_stop_costs_no_step_and_no_byte(
    held: Held, quiet: Kept, ask: Callable[[Stop], None], unit: int
) -> None:
    kept = Kept()
    with pytest.raises(StoppedError):
        await held.stopped_within(unit, what("stopped-1"), kept, ask)

    assert [made.index for made in kept.units] == list(range(unit))
    assert [(made.index, made.step) for made in kept.paused] == [(unit, MADE)]
    (paused,) = kept.paused
    assert paused.seconds.denoise > 0
    assert held.steps(unit) == HELD, "it went on after it was asked to stop"

    await held.run(what("stopped-2"), kept, partial=Partial(MADE, paused.checkpoint))

    assert kept.checkpoints == quiet.checkpoints
    assert kept.segments == quiet.segments
    assert held.steps(unit) - 4 == STEPS, "a step was made twice"  # Each request asks twice before its first step.


@pytest.mark.parametrize(
    "ask",
    [
        lambda stop: stop.release("Cancelled"),
        lambda stop: stop.release("Deleted"),
        lambda stop: stop.release("DeadlineExceeded"),
        lambda stop: stop.lose("a later attempt was assigned"),
    ],
    ids=["cancelled", "deleted", "deadline", "lost"],
)
async def test_a_job_that_does_not_go_on_here_leaves_nothing(held: Held, ask: Callable[[Stop], None]) -> None:
    kept = Kept()
    with pytest.raises(StoppedError):
        await held.stopped_within(1, what("ended-1"), kept, ask)
    assert kept.paused == []
    assert held.steps(1) == HELD


async def test_frames_that_fail_cost_no_step_of_the_unit_that_is_denoised(held: Held, quiet: Kept) -> None:
    kept, gate = Kept(), asyncio.Event()

    async def fail(made: object) -> None:
        await gate.wait()
        raise ChunkError(ErrorCode.MODEL_FAILED, "The frames are broken.")

    kept.before_piece = fail
    with pytest.raises(ChunkError) as raised:
        await held.stopped_within(1, what("undecoded-1"), kept, lambda _: gate.set())
    assert raised.value.reason is ErrorCode.MODEL_FAILED
    assert [(made.index, made.step) for made in kept.paused] == [(1, MADE)]

    kept.before_piece = lambda made: None
    await held.run(what("undecoded-1", run=2), kept, partial=Partial(MADE, kept.paused[0].checkpoint))

    assert (kept.checkpoints, kept.segments) == (quiet.checkpoints, quiet.segments)
    assert held.steps(1) - 4 == STEPS, "a step was made twice"


async def test_what_was_paused_is_not_kept_where_a_unit_before_it_is_not(held: Held) -> None:
    """The next attempt begins with that one."""
    kept, gate = Kept(), asyncio.Event()

    async def wait(made: object) -> None:
        await gate.wait()
        raise OSError("the store is full")

    kept.before_unit = wait

    def ask(stop: Stop) -> None:
        suspend(stop)
        gate.set()

    with pytest.raises((StoppedError, OSError)):
        await held.stopped_within(1, what("full-1"), kept, ask)
    assert (kept.units, kept.paused) == ([], [])


async def test_a_unit_that_somebody_else_has_paused_is_not_taken_for_a_whole_one(held: Held) -> None:
    kept = Kept()

    def pause(stop: Stop) -> Coroutine[Any, Any, None]:
        return held.triton.mark("paused-1", Mark.PAUSE)

    with pytest.raises(ChunkError) as raised:
        await held.stopped_within(1, what("paused-1"), kept, pause)
    assert raised.value.reason is ErrorCode.CANCELLED
    assert [made.index for made in kept.units] == [0]
    assert kept.paused == []


@pytest.mark.parametrize("mark", Mark)
async def test_a_mark_that_outlives_its_run_stops_no_later_one(held: Held, quiet: Kept, mark: Mark) -> None:
    """Nobody clears it where the denoiser's process was killed before the end of the sequence came to it."""
    await held.triton.mark("again-1", mark, 1)
    kept = Kept()
    await held.run(what("again-1", run=2), kept)
    assert kept.segments == quiet.segments
