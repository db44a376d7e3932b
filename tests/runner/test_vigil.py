"""Whoever waits for a stage waits while it makes steps, and has it ended once it makes none."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any, cast

import pytest

from videojob.runner.patience import FIRST_SECONDS, LONGEST_LOOK
from videojob.runner.triton import Request, Stream, TritonGoneError
from videojob.runner.vigil import Vigil
from videojob.triton.contract import StageGoneError
from videojob.triton.progress import Progress
from videojob.triton.wire import End

STAGE = "tiny.denoiser"


class Server:
    """A `control` model and a stage in memory. Every look at it takes LONGEST_LOOK seconds of its clock."""

    def __init__(self, notes: Callable[[int], Progress | None], answers_after: int | None = None) -> None:
        self.notes = notes
        self.answers_after = answers_after
        """Looks until the stage answers; None where it never does."""
        self.looks = 0
        self.ended: list[Progress] = []
        self.ended_after = 0
        """Looks."""
        self.may_be_ended = True
        self.answer = asyncio.Event()
        self.error: Exception | None = None
        self.vigil = Vigil(self, count(0, LONGEST_LOOK).__next__)

    async def progress(self, stage: str) -> Progress | None:
        assert stage == STAGE
        self.looks += 1
        if self.looks == self.answers_after:
            self.answer.set()
        return self.notes(self.looks)

    async def end_stage(self, stage: str, seen: Progress) -> bool:
        if self.may_be_ended:
            self.ended.append(seen)
            self.ended_after = self.looks
            self.error = StageGoneError(stage)
            self.answer.set()
        return self.may_be_ended

    def stream_infer(self, requests: AsyncIterator[Any]) -> AsyncIterator[tuple[Any, Exception | None]]:
        async def answers() -> AsyncIterator[tuple[Any, Exception | None]]:
            async for _ in requests:
                await self.answer.wait()
                error = self.error and StubError(str(self.error))
                yield object(), error

        return answers()

    async def wait(self) -> None:
        """Wait for one answer."""
        stream = Stream(cast("Any", self), STAGE, (), "job-1", {}, self.vigil, 10.0)
        stream.send(Request(End()))
        try:
            await stream.answer()
        finally:
            self.answer.set()
            await stream.close()


class StubError(Exception):
    """As Triton reports that a stage has no process any more."""

    def message(self) -> str:
        return f"Stub process '{STAGE}_0_0' is not healthy."


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videojob.runner.triton.LOOK_SECONDS", 0.001)


def note(steps: int, size: int = 100) -> Progress:
    return Progress(7, 1, steps, size)


LOOKS = round(FIRST_SECONDS / LONGEST_LOOK)
"""For so long a stage may be silent."""


async def test_an_answer_that_takes_hours_is_waited_for_while_the_stage_makes_steps() -> None:
    """A chunk of 1.2 quarter hours was given up on; its answer came a moment later and was thrown away."""
    server = Server(lambda looks: note(looks // 3), answers_after=20 * LOOKS)
    await server.wait()
    assert not server.ended


async def test_a_stage_that_makes_no_step_is_ended_and_the_answer_is_that_it_is_gone() -> None:
    server = Server(lambda looks: note(1))
    with pytest.raises(StageGoneError, match=STAGE):
        await server.wait()
    assert server.ended == [note(1)]
    assert LOOKS <= server.ended_after <= LOOKS + 2


async def test_one_whose_process_cannot_be_ended_is_given_up() -> None:
    server = Server(lambda looks: note(1))
    server.may_be_ended = False
    with pytest.raises(TritonGoneError, match=r"tiny\.denoiser has made no step for 9\d\d s, and its process cannot"):
        await server.wait()


async def test_one_that_makes_a_step_just_when_it_is_to_be_ended_is_waited_for() -> None:
    server = Server(lambda looks: note(1 if looks <= LOOKS + 2 else looks), answers_after=3 * LOOKS)
    server.may_be_ended = False
    await server.wait()


@pytest.mark.parametrize("found", [note(4, size=0), None], ids=["idle", "unknown"])
async def test_where_there_is_nothing_to_end_the_server_counts_as_gone(found: Progress | None) -> None:
    server = Server(lambda looks: found)
    with pytest.raises(TritonGoneError, match=r"tiny\.denoiser has not answered for 9\d\d s"):
        await server.wait()
    assert not server.ended


async def test_two_that_wait_for_one_stage_end_it_once() -> None:
    server = Server(lambda looks: note(1))
    found = await asyncio.gather(server.wait(), server.wait(), return_exceptions=True)
    assert [type(error) for error in found] == [StageGoneError] * 2
    assert len(server.ended) == 1
