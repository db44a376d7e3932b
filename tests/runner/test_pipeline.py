"""Units through a real Triton: in order, two deep, the same bytes whichever way they come."""

import asyncio
import gc
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from tests.runner.recipes import CHUNKING, Kept, recipe
from tests.triton.conftest import MODEL
from videojob.families import Piece, Plan, Shot, Video
from videojob.families.causal import CausalChunks
from videojob.runner.buffers import FrameBuffers
from videojob.runner.clock import Clock
from videojob.runner.pipeline import AHEAD, BUFFERS, DEPTH, Pipeline
from videojob.runner.recipe import MadePiece, MadeUnit, Recipe, Resume
from videojob.runner.stop import Stop, StoppedError
from videojob.runner.triton import Request, Stream, Triton, TritonGoneError
from videojob.triton import contract
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import UnitRequest

CHUNKS = 5

T = TypeVar("T")


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
async def buffers(triton: Triton, request: pytest.FixtureRequest) -> AsyncIterator[FrameBuffers]:
    made = FrameBuffers(triton, "pool", request.node.name)
    yield made
    await made.close()


async def run(triton: Triton, buffers: FrameBuffers, what: Recipe, kept: Kept, stop: Stop | None = None) -> None:
    """Go on after what is kept."""
    resume = Resume(unit=len(kept.units), piece=len(kept.pieces))
    checkpoints = {unit: kept.units[unit].checkpoint for unit in resume.checkpoints(what.plan)}
    pipeline = Pipeline(what, triton, buffers, Clock(), kept.unit, kept.piece, kept.partial)
    await pipeline.run(resume, checkpoints, stop or Stop())


@pytest.fixture
async def quiet(triton: Triton, buffers: FrameBuffers) -> Kept:
    """The job, undisturbed."""
    kept = Kept()
    await run(triton, buffers, recipe("quiet-1"), kept)
    return kept


async def test_every_chunk_is_committed_in_order_without_surplus_frames(quiet: Kept) -> None:
    assert [(made.index, made.frames) for made in quiet.pieces] == [(0, 1), (1, 12), (2, 12), (3, 12), (4, 3)]
    assert [made.index for made in quiet.units] == list(range(CHUNKS))
    assert all(made.seconds.denoise > 0 for made in quiet.units)
    assert all(made.seconds.vae_decode > 0 for made in quiet.pieces)


async def test_frames_through_grpc_are_those_through_shared_memory(
    triton: Triton, quiet: Kept, shared_memory: Path
) -> None:
    """As with a Triton on another machine: there is no region that both see."""
    elsewhere, kept = FrameBuffers(triton, "pool", "elsewhere"), Kept()

    borrowed = await elsewhere.borrow(1, 4096)
    await run(triton, elsewhere, recipe("elsewhere-1"), kept)

    assert [buffer.region for buffer in borrowed] == [None]
    assert kept.segments == quiet.segments
    assert names_in(shared_memory) == []


RESUMES = [(units, pieces) for units in range(1, CHUNKS + 1) for pieces in range(max(0, units - 2), units + 1)]
"""What may be in the store when a runner dies: units go ahead of pieces."""


@pytest.mark.parametrize(("units", "pieces"), RESUMES)
async def test_a_job_that_was_resumed_gives_the_same_bytes_and_makes_no_unit_twice(
    triton: Triton, buffers: FrameBuffers, quiet: Kept, units: int, pieces: int
) -> None:
    kept = Kept()
    kept.units, kept.pieces = quiet.units[:units], quiet.pieces[:pieces]

    await run(triton, buffers, recipe(f"resumed-{units}-{pieces}"), kept)

    assert kept.segments == quiet.segments
    assert kept.checkpoints == quiet.checkpoints
    assert [made.index for made in kept.units] == list(range(CHUNKS))


def in_pieces(plan: Plan, frames: int) -> Plan:
    """The same units, each stored in pieces of at most so many frames, as those of a clip are."""
    cut = [
        (whole.units, whole.frames[start : start + frames])
        for whole in plan.pieces
        for start in range(0, len(whole.frames), frames)
    ]
    return replace(plan, pieces=[Piece(index, units, span) for index, (units, span) in enumerate(cut)])


@pytest.mark.parametrize("pieces", range(7))
async def test_a_unit_of_several_pieces_goes_on_at_any_of_them(
    triton: Triton, buffers: FrameBuffers, pieces: int
) -> None:
    what = recipe("pieces-1", frames=25)
    what = replace(what, plan=in_pieces(what.plan, 5))
    whole, kept = Kept(), Kept()
    await run(triton, buffers, what, whole)
    unit = what.plan.pieces[pieces - 1].units[-1] if pieces else 0
    kept.units, kept.pieces = whole.units[: unit + 1], whole.pieces[:pieces]

    await run(triton, buffers, replace(what, correlation_id=f"pieces-{pieces}"), kept)

    assert [made.frames for made in whole.pieces] == [1, 5, 5, 2, 5, 5, 2]
    assert kept.segments == whole.segments


def test_a_resume_needs_no_more_checkpoints_however_long_the_video_is() -> None:
    plan = recipe("long", frames=5000).plan
    assert Resume().checkpoints(plan) == []
    assert Resume(unit=len(plan.units), piece=len(plan.pieces)).checkpoints(plan) == []
    assert Resume(unit=302, piece=300).checkpoints(plan) == [0, *range(287, 302)]
    assert Resume(unit=len(plan.units), piece=len(plan.pieces) - 1).checkpoints(plan)[-1] == len(plan.units) - 1


async def test_two_jobs_beside_each_other_give_what_each_gives_alone(
    triton: Triton, buffers: FrameBuffers, quiet: Kept
) -> None:
    left, right = Kept(), Kept()

    await asyncio.gather(
        run(triton, buffers, recipe("left-1"), left), run(triton, buffers, recipe("right-1", seed=8), right)
    )

    assert left.segments == quiet.segments
    assert [made.index for made in right.pieces] == list(range(CHUNKS))
    assert right.segments != quiet.segments


async def test_two_requests_are_in_flight_and_a_slow_store_bounds_the_rest(
    triton: Triton, buffers: FrameBuffers, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_flight: defaultdict[str, int] = defaultdict(int)
    begun: set[int] = set()
    enough = asyncio.Event()
    send = Stream.send

    def watched(self: Stream, request: Request) -> None:
        send(self, request)
        stage = self.model.rpartition(".")[2]
        in_flight[stage] = max(in_flight[stage], self.unanswered)
        if isinstance(request.wanted, UnitRequest):
            begun.add(request.wanted.unit.index)
        if len(begun) == 1 + AHEAD:  # One piece waits for the store; its room is free again.
            enough.set()

    monkeypatch.setattr(Stream, "send", watched)
    kept, begun_while_waiting = Kept(), 0

    async def wait(made: MadePiece) -> None:
        nonlocal begun_while_waiting
        if made.index == 0:
            await enough.wait()
            await triton.check()  # Time enough to send another one, if it were allowed.
            begun_while_waiting = len(begun)

    kept.before_piece = wait
    await run(triton, buffers, recipe("slow-1", frames=76), kept)

    assert in_flight["denoiser"] == DEPTH
    assert in_flight["vae_decoder"] <= BUFFERS
    assert begun_while_waiting == 1 + AHEAD
    assert len(kept.pieces) == 8


async def test_a_checkpoint_is_kept_before_its_frames_are_there(triton: Triton, buffers: FrameBuffers) -> None:
    """So a decoder that fails, or a kill while it works, costs no denoising."""
    kept, at_first_piece = Kept(), 0

    async def wait(made: MadePiece) -> None:
        nonlocal at_first_piece
        async with asyncio.timeout(60):
            while len(kept.units) < AHEAD:  # noqa: ASYNC110 - a list notifies nobody
                await asyncio.sleep(0.01)
        at_first_piece = at_first_piece or len(kept.units)

    kept.before_piece = wait
    await run(triton, buffers, recipe("ahead-1"), kept)
    assert at_first_piece >= AHEAD


async def test_a_stop_commits_what_was_finished_and_frees_the_sequence(
    triton: Triton, buffers: FrameBuffers, quiet: Kept
) -> None:
    kept, stop = Kept(), Stop()
    kept.before_piece = lambda made: stop.release("Suspended") if made.index == 1 else None

    with pytest.raises(StoppedError, match="Suspended"):
        await run(triton, buffers, recipe("stopped-1"), kept, stop)

    assert 2 <= len(kept.pieces) <= len(kept.units)
    assert kept.segments == quiet.segments[: len(kept.pieces)]
    assert kept.checkpoints == quiet.checkpoints[: len(kept.units)]
    await run(triton, buffers, recipe("stopped-1"), kept)  # The same sequence can begin again at once.
    assert kept.segments == quiet.segments


@pytest.mark.parametrize("drained_at", [0, 1, CHUNKS - 1])
async def test_a_drain_commits_every_chunk_that_was_requested_and_requests_no_more(
    triton: Triton, buffers: FrameBuffers, quiet: Kept, monkeypatch: pytest.MonkeyPatch, drained_at: int
) -> None:
    """Two are in flight; a drain that comes when every chunk was requested changes nothing."""
    sent: list[int] = []
    send = Stream.send

    def watched(self: Stream, request: Request) -> None:
        if isinstance(request.wanted, UnitRequest) and self.model.endswith(".denoiser"):
            sent.append(request.wanted.unit.index)
        send(self, request)

    monkeypatch.setattr(Stream, "send", watched)
    kept, stop, requested = Kept(), Stop(), 0

    def drain(made: MadePiece) -> None:
        nonlocal requested
        if made.index == drained_at:
            requested = len(sent)
            stop.drain("Drained", 600)

    kept.before_piece = drain
    if drained_at == CHUNKS - 1:
        await run(triton, buffers, recipe("drained-late-1"), kept, stop)
    else:
        with pytest.raises(StoppedError, match="Drained"):
            await run(triton, buffers, recipe(f"drained-{drained_at}-1"), kept, stop)

    assert sent == list(range(requested))
    assert len(kept.units) == len(kept.pieces) == requested > drained_at
    assert kept.segments == quiet.segments[:requested]


async def test_a_drain_before_the_first_request_makes_nothing(triton: Triton, buffers: FrameBuffers) -> None:
    kept, stop = Kept(), Stop()
    stop.drain("Drained", 600)

    with pytest.raises(StoppedError, match="Drained"):
        await run(triton, buffers, recipe("never-1"), kept, stop)

    assert kept.pieces == []


class DrainedWhileItWaits(Stop):
    """The drain comes in the turn of the loop in which what was waited for is there."""

    async def race(self, work: Coroutine[Any, Any, T], *others: asyncio.Task[None], new: bool = False) -> T:
        result = await super().race(work, *others, new=new)
        if new:
            self.drain("Drained", 600)
        return result


async def test_a_drain_that_comes_with_the_buffer_of_a_request_prevents_the_request(
    triton: Triton, buffers: FrameBuffers
) -> None:
    kept = Kept()

    with pytest.raises(StoppedError, match="Drained"):
        await run(triton, buffers, recipe("just-in-time-1"), kept, DrainedWhileItWaits())

    assert kept.pieces == []


async def test_a_job_that_is_lost_commits_nothing_more(triton: Triton, buffers: FrameBuffers) -> None:
    kept, stop = Kept(), Stop()
    kept.before_piece = lambda made: stop.lose("gone") if made.index == 1 else None

    with pytest.raises(StoppedError, match="gone"):
        await run(triton, buffers, recipe("lost-1"), kept, stop)

    assert len(kept.pieces) <= 2


@pytest.mark.parametrize("kind", ["unit", "piece"])
async def test_a_store_that_fails_ends_the_sequence(
    triton: Triton, buffers: FrameBuffers, quiet: Kept, kind: str
) -> None:
    def fail(made: MadeUnit | MadePiece) -> None:
        if made.index == 2:
            raise OSError("the store is full")

    kept = Kept()
    setattr(kept, f"before_{kind}", fail)
    with pytest.raises(OSError, match="the store is full"):
        await run(triton, buffers, recipe("full-1"), kept)
    assert len(kept.units if kind == "unit" else kept.pieces) == 2

    setattr(kept, f"before_{kind}", lambda made: None)
    await run(triton, buffers, recipe("full-1"), kept)
    assert kept.segments == quiet.segments


async def test_a_store_that_fails_after_a_stop_is_said_once(
    triton: Triton, buffers: FrameBuffers, caplog: pytest.LogCaptureFixture
) -> None:
    kept, stop = Kept(), Stop()

    def fail(made: MadePiece) -> None:
        stop.release("Suspended")
        raise OSError("the store is full")

    kept.before_piece = fail
    with pytest.raises(StoppedError, match="Suspended"):
        await run(triton, buffers, recipe("stopped-full-1"), kept, stop)

    gc.collect()  # Of a task that has failed and that nobody has asked, the event loop complains now.
    assert [record.message for record in caplog.records] == ["What was finished may not all be kept: the store is full"]


async def test_a_prompt_that_is_too_long_is_refused_with_both_counts(triton: Triton, buffers: FrameBuffers) -> None:
    kept = Kept()

    with pytest.raises(ChunkError) as refused:
        await run(triton, buffers, recipe("long-1", prompt="x" * 600), kept)

    assert refused.value.reason is ErrorCode.PROMPT_TOO_LONG
    assert "601" in refused.value.sentence and "512" in refused.value.sentence
    assert not kept.units and not kept.pieces


async def test_a_chunk_of_the_wrong_size_is_never_encoded(triton: Triton, buffers: FrameBuffers) -> None:
    """The runner counts frames by other rules than the models: as after a change of one of the two."""
    kept = Kept()
    plan = CausalChunks(frames_per_latent=8, tail_latents=38).plan(CHUNKING, Video((Shot(40),), 16, steps=2))
    wrong = replace(recipe("wrong-1"), plan=plan)

    with pytest.raises(ChunkError, match="12 frames come out of unit 1, not 24"):
        await run(triton, buffers, wrong, kept)

    assert [made.index for made in kept.pieces] == [0]


async def test_a_server_that_is_not_there_is_gone(buffers: FrameBuffers) -> None:
    nowhere = Triton("127.0.0.1:1")
    with pytest.raises(TritonGoneError, match=r"127\.0\.0\.1:1"):
        await run(nowhere, FrameBuffers(nowhere, "pool", "nowhere"), recipe("nowhere-1"), Kept())
    await nowhere.close()


async def test_frames_are_a_view_of_what_the_server_wrote(triton: Triton, buffers: FrameBuffers, quiet: Kept) -> None:
    """The frames of unit 0 through shared memory are those through gRPC, taken from the server without the pipeline."""
    what = recipe("view-1")
    unit = what.plan.units[0]
    wanted, files = UnitRequest(unit, what.settings[0]), {contract.CHECKPOINT: [quiet.units[0].checkpoint]}
    (buffer,) = await buffers.borrow(1, what.largest_bytes)
    stream = triton.stream(MODEL, "vae_decoder", "view-1")
    stream.send(Request(wanted, files, start=True, frames_to=buffer.region))
    answer = await stream.answer()
    through_memory = buffer.frames(answer.shape(contract.FRAMES)).copy()
    await stream.end()
    stream.send(Request(wanted, files, start=True))
    through_grpc = (await stream.answer()).array(contract.FRAMES)
    await stream.end()
    await stream.close()

    assert through_memory.shape == what.shape(what.plan.pieces[0]) == (1, 32, 48, 3)
    assert np.array_equal(through_memory, through_grpc)
    assert through_memory.std() > 0


async def test_an_end_frees_the_sequence_on_both_stages(triton: Triton, caplog: pytest.LogCaptureFixture) -> None:
    """It brings nothing but itself."""
    for stage in contract.SEQUENCE_STAGES:
        stream = triton.stream(MODEL, stage, "ended-1")
        assert await stream.end() == []
        await stream.close()
    assert "not ended in order" not in caplog.text
