"""Units through a real Triton: in order, two deep, the same bytes whichever way they come."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from tests.triton.conftest import MODEL
from videojob.families import FAMILIES, Chunking, FamilyName
from videojob.families.causal import CausalChunks
from videojob.runner.buffers import FrameBuffers
from videojob.runner.clock import Clock
from videojob.runner.pipeline import BUFFERS, DEPTH, Made, Pipeline, Recipe
from videojob.runner.stop import Stop, StoppedError
from videojob.runner.triton import Request, Stream, Triton, TritonGoneError
from videojob.triton.contract import FRAMES, ChunkError, ErrorCode
from videojob.triton.wire import Settings, UnitRequest

CHUNKING = Chunking(first=1, later=3, sink=1, window=6)
CHUNKS = 5

T = TypeVar("T")


def recipe(sequence: str, *, frames: int = 40, chunking: Chunking = CHUNKING, **changes: Any) -> Recipe:
    settings = Settings("a red fox", seed=7, width=48, height=32, guidance_scale=1.0)
    plan = FAMILIES[FamilyName.ANYFLOW_FAR].plan(chunking, frames, steps=2)
    return Recipe(MODEL, sequence, replace(settings, **changes), plan, fps=8)


class Commits:
    """What a pipeline has committed; waits, stops or fails where a test wants it."""

    def __init__(self) -> None:
        self.made: list[Made] = []
        self.before: Callable[[Made], object] = lambda made: None

    async def __call__(self, made: Made) -> None:
        waited = self.before(made)
        if asyncio.iscoroutine(waited):
            await waited
        self.made.append(made)

    @property
    def segments(self) -> list[bytes]:
        return [made.segment for made in self.made]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
async def buffers(triton: Triton, request: pytest.FixtureRequest) -> AsyncIterator[FrameBuffers]:
    made = FrameBuffers(triton, "pool", request.node.name)
    yield made
    await made.close()


async def run(triton: Triton, buffers: FrameBuffers, what: Recipe, commits: Commits, stop: Stop | None = None) -> None:
    """Go on after what is committed."""
    first = what.plan.units[len(commits.made)]
    past = {unit: commits.made[unit].checkpoint for unit in sorted({*first.needs, *first.decode})}
    await Pipeline(what, triton, buffers, Clock(), commits).run(first.index, past, stop or Stop())


@pytest.fixture
async def quiet(triton: Triton, buffers: FrameBuffers) -> Commits:
    """The job, undisturbed."""
    commits = Commits()
    await run(triton, buffers, recipe("quiet-1"), commits)
    return commits


async def test_every_chunk_is_committed_in_order_without_surplus_frames(quiet: Commits) -> None:
    assert [(made.index, made.frames) for made in quiet.made] == [(0, 1), (1, 12), (2, 12), (3, 12), (4, 3)]
    assert all(made.seconds.denoise > 0 and made.seconds.vae_decode > 0 for made in quiet.made)


async def test_frames_through_grpc_are_those_through_shared_memory(
    triton: Triton, quiet: Commits, shared_memory: Path
) -> None:
    """As with a Triton on another machine: there is no region that both see."""
    elsewhere, commits = FrameBuffers(triton, "pool", "elsewhere"), Commits()

    borrowed = await elsewhere.borrow(1, 4096)
    await run(triton, elsewhere, recipe("elsewhere-1"), commits)

    assert [buffer.region for buffer in borrowed] == [None]
    assert commits.segments == quiet.segments
    assert names_in(shared_memory) == []


@pytest.mark.parametrize("committed", range(1, CHUNKS))
async def test_a_job_that_was_resumed_gives_the_same_bytes(
    triton: Triton, buffers: FrameBuffers, quiet: Commits, committed: int
) -> None:
    commits = Commits()
    commits.made = quiet.made[:committed]

    await run(triton, buffers, recipe(f"resumed-{committed}"), commits)

    assert commits.segments == quiet.segments


async def test_two_jobs_beside_each_other_give_what_each_gives_alone(
    triton: Triton, buffers: FrameBuffers, quiet: Commits
) -> None:
    left, right = Commits(), Commits()

    await asyncio.gather(
        run(triton, buffers, recipe("left-1"), left), run(triton, buffers, recipe("right-1", seed=8), right)
    )

    assert left.segments == quiet.segments
    assert [made.index for made in right.made] == list(range(CHUNKS))
    assert right.segments != quiet.segments


async def test_two_requests_are_in_flight_and_a_slow_store_bounds_the_rest(
    triton: Triton, buffers: FrameBuffers, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_flight: list[int] = []
    enough = asyncio.Event()
    send = Stream.send

    def watched(self: Stream, request: Request) -> None:
        send(self, request)
        in_flight.append(self.unanswered)
        if len(in_flight) == 1 + BUFFERS:  # One chunk waits for the store; its buffer is free again.
            enough.set()

    monkeypatch.setattr(Stream, "send", watched)
    commits, sent_while_waiting = Commits(), 0

    async def wait(made: Made) -> None:
        nonlocal sent_while_waiting
        if made.index == 0:
            await enough.wait()
            await triton.check()  # Time enough to send another one, if it were allowed.
            sent_while_waiting = len(in_flight)

    commits.before = wait
    await run(triton, buffers, recipe("slow-1", frames=76), commits)

    assert max(in_flight) == DEPTH
    assert sent_while_waiting == 1 + BUFFERS
    assert len(commits.made) == 8


async def test_a_stop_commits_what_was_finished_and_frees_the_sequence(
    triton: Triton, buffers: FrameBuffers, quiet: Commits
) -> None:
    commits, stop = Commits(), Stop()
    commits.before = lambda made: stop.release("Suspended") if made.index == 1 else None

    with pytest.raises(StoppedError, match="Suspended"):
        await run(triton, buffers, recipe("stopped-1"), commits, stop)

    assert 2 <= len(commits.made) < CHUNKS
    assert commits.segments == quiet.segments[: len(commits.made)]
    await run(triton, buffers, recipe("stopped-1"), commits)  # The same sequence can begin again at once.
    assert commits.segments == quiet.segments


@pytest.mark.parametrize("drained_at", [0, 1, CHUNKS - 1])
async def test_a_drain_commits_every_chunk_that_was_requested_and_requests_no_more(
    triton: Triton, buffers: FrameBuffers, quiet: Commits, monkeypatch: pytest.MonkeyPatch, drained_at: int
) -> None:
    """Two are in flight; a drain that comes when every chunk was requested changes nothing."""
    sent: list[int] = []
    send = Stream.send

    def watched(self: Stream, request: Request) -> None:
        if isinstance(request.wanted, UnitRequest):
            sent.append(request.wanted.unit.index)
        send(self, request)

    monkeypatch.setattr(Stream, "send", watched)
    commits, stop, requested = Commits(), Stop(), 0

    def drain(made: Made) -> None:
        nonlocal requested
        if made.index == drained_at:
            requested = len(sent)
            stop.drain("Drained", 600)

    commits.before = drain
    if drained_at == CHUNKS - 1:
        await run(triton, buffers, recipe("drained-late-1"), commits, stop)
    else:
        with pytest.raises(StoppedError, match="Drained"):
            await run(triton, buffers, recipe(f"drained-{drained_at}-1"), commits, stop)

    assert sent == list(range(requested))
    assert len(commits.made) == requested > drained_at
    assert commits.segments == quiet.segments[:requested]


async def test_a_drain_before_the_first_request_makes_nothing(triton: Triton, buffers: FrameBuffers) -> None:
    commits, stop = Commits(), Stop()
    stop.drain("Drained", 600)

    with pytest.raises(StoppedError, match="Drained"):
        await run(triton, buffers, recipe("never-1"), commits, stop)

    assert commits.made == []


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
    commits = Commits()

    with pytest.raises(StoppedError, match="Drained"):
        await run(triton, buffers, recipe("just-in-time-1"), commits, DrainedWhileItWaits())

    assert commits.made == []


async def test_a_job_that_is_lost_commits_nothing_more(triton: Triton, buffers: FrameBuffers) -> None:
    commits, stop = Commits(), Stop()
    commits.before = lambda made: stop.lose("gone") if made.index == 1 else None

    with pytest.raises(StoppedError, match="gone"):
        await run(triton, buffers, recipe("lost-1"), commits, stop)

    assert len(commits.made) <= 2


async def test_a_commit_that_fails_ends_the_sequence(triton: Triton, buffers: FrameBuffers, quiet: Commits) -> None:
    def fail(made: Made) -> None:
        if made.index == 2:
            raise OSError("the store is full")

    commits = Commits()
    commits.before = fail
    with pytest.raises(OSError, match="the store is full"):
        await run(triton, buffers, recipe("full-1"), commits)
    assert len(commits.made) == 2

    commits.before = lambda made: None
    await run(triton, buffers, recipe("full-1"), commits)
    assert commits.segments == quiet.segments


async def test_a_prompt_that_is_too_long_is_refused_with_both_counts(triton: Triton, buffers: FrameBuffers) -> None:
    commits = Commits()

    with pytest.raises(ChunkError) as refused:
        await run(triton, buffers, recipe("long-1", prompt="x" * 600), commits)

    assert refused.value.reason is ErrorCode.PROMPT_TOO_LONG
    assert "601" in refused.value.sentence and "512" in refused.value.sentence
    assert commits.made == []


async def test_a_chunk_of_the_wrong_size_is_never_encoded(triton: Triton, buffers: FrameBuffers) -> None:
    """The runner counts frames by other rules than the models: as after a change of one of the two."""
    commits = Commits()
    plan = CausalChunks(frames_per_latent=8, tail_latents=38).plan(CHUNKING, 40, steps=2)
    wrong = replace(recipe("wrong-1"), plan=plan)

    with pytest.raises(ChunkError, match=r"\[12, 32, 48, 3\] instead of \[24, 32, 48, 3\]"):
        await run(triton, buffers, wrong, commits)

    assert [made.index for made in commits.made] == [0]


async def test_a_server_that_is_not_there_is_gone(buffers: FrameBuffers) -> None:
    nowhere = Triton("127.0.0.1:1")
    with pytest.raises(TritonGoneError, match=r"127\.0\.0\.1:1"):
        await run(nowhere, FrameBuffers(nowhere, "pool", "nowhere"), recipe("nowhere-1"), Commits())
    await nowhere.close()


async def test_frames_are_a_view_of_what_the_server_wrote(triton: Triton, buffers: FrameBuffers) -> None:
    """The segment of chunk 0 is that of its frames, taken from the server without the pipeline."""
    what = recipe("view-1")
    unit = what.plan.units[0]
    wanted = UnitRequest(unit, what.settings)
    (buffer,) = await buffers.borrow(1, what.largest_bytes)
    stream = triton.stream(MODEL, "view-1")
    stream.send(Request(wanted, start=True, frames_to=buffer.region))
    answer = await stream.answer()
    through_memory = buffer.frames(answer.shape(FRAMES)).copy()
    await stream.end(30)
    stream.send(Request(wanted, start=True))
    through_grpc = (await stream.answer()).array(FRAMES)
    await stream.end(30)
    await stream.close()

    assert through_memory.shape == what.shape(unit) == (1, 32, 48, 3)
    assert np.array_equal(through_memory, through_grpc)
    assert through_memory.std() > 0
