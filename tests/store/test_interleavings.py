"""The logs of a job under two runners, a closer and a sweeper, one request at a time in any order."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.conftest import Place
from tests.store.writing import SECONDS, checkpoint, commit_unit
from videojob.store import JobClosed, OutputRecord, PieceRecord
from videojob.store.objects import Objects

PIECES = 2
UNITS = 3
"""Piece n comes from the units n and n + 1."""


def segment(units: Mapping[int, str]) -> bytes:
    """What says which checkpoints it comes from."""
    return repr(sorted(units.items())).encode()


_ACTOR: ContextVar[int] = ContextVar("actor")


class Turns:
    """Lets actors make one request at a time, in the order that is drawn."""

    def __init__(self, order: list[int]) -> None:
        self._order = order
        self._waiting: dict[int, list[asyncio.Event]] = {}
        self._under_way = 0
        self._news = asyncio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One request of the actor whose task this is, or of a task that it has begun."""
        turn, waiting = asyncio.Event(), self._waiting.setdefault(_ACTOR.get(), [])
        waiting.append(turn)
        self._news.set()
        try:
            await turn.wait()
            yield
        finally:
            # A request that its actor cancels, because another one has failed, may not have come to its turn.
            if turn.is_set():
                self._under_way -= 1
            else:
                waiting.remove(turn)
            self._news.set()

    async def play(self, actors: list[Coroutine[Any, Any, None]]) -> None:
        """Run the actors to their ends; the numbers of the order choose among those that still go on."""
        tasks = [asyncio.create_task(self._run(number, actor)) for number, actor in enumerate(actors)]
        for choice in itertools.chain(self._order, itertools.count()):
            while self._under_way or any(
                not task.done() and not self._waiting.get(number) for number, task in enumerate(tasks)
            ):
                self._news.clear()
                await self._news.wait()
            going = [number for number, task in enumerate(tasks) if not task.done()]
            if not going:
                break
            self._under_way += 1
            self._waiting[going[choice % len(going)]].pop(0).set()
        await asyncio.gather(*tasks)

    async def _run(self, number: int, actor: Coroutine[Any, Any, None]) -> None:
        _ACTOR.set(number)
        try:
            await actor
        finally:
            asyncio.get_running_loop().call_soon(self._news.set)


class History:
    """What the actors have seen, by the promises of the store."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self.video = folder / "video.mp4"
        self.closing = self.closed = self.swept = False
        self.pieces: list[tuple[PieceRecord, bool]] = []
        """Committed, and whether their runner began after the closing."""
        self.outputs: list[OutputRecord] = []

    async def runner(self, attempt: int) -> None:
        """Make the video from the last commit on, and finish it."""
        job, after, closed_before = self.place.job(), self.closed, False
        try:
            committed = await job.committed()
            units = [*committed.units]
            for index in range(len(units), UNITS):
                closed_before = self.closed
                unit = (await commit_unit(job, index, attempt, f"of {attempt}")).record
                assert not (closed_before and attempt == 1), "a closed attempt has committed a unit"
                if unit.attempt > attempt:
                    return
                units.append(unit)  # Of whoever it is: the job goes on from the log.
            for index in range(len(committed.pieces), PIECES):
                closed_before = self.closed
                origins = units[index : index + 2]
                piece = await job.commit_piece(
                    index=index,
                    attempt=attempt,
                    frames=1,
                    segment=segment({unit.index: unit.checkpoint.sha256 for unit in origins}),
                    units=origins,
                    stage_seconds=SECONDS,
                )
                assert not (closed_before and attempt == 1), "a closed attempt has committed a piece"
                self.pieces.append((piece.record, after))
                if piece.record.attempt > attempt:
                    return
            closed_before = self.closed
            output = await job.commit_output(attempt=attempt, path=self.video, frames=1, duration_seconds=1.0)
            assert not (closed_before and output.attempt == 1), "a closed attempt has finished the video"
            self.outputs.append(output)
        except JobClosed:
            assert self.closing
            assert attempt == 1 or not after, "an attempt that came after the closing was taken for a closed one"

    async def closer(self) -> None:
        self.closing = True
        await self.place.job().close(1)
        self.closed = True

    async def sweeper(self) -> None:
        self.closing = True
        await self.place.job().sweep(1, in_use=True)
        self.closed = self.swept = True

    async def check(self) -> None:
        """Everything that was promised holds in the end."""
        job = self.place.job()
        committed, output = await job.committed(), await job.output()
        for unit in committed.units:
            assert await job.read_checkpoints([unit]) == [checkpoint(unit.index, f"of {unit.attempt}")]
        count = {unit.index: unit.checkpoint.sha256 for unit in committed.units}
        for piece in committed.pieces:
            named = {each: count[each] for each in (piece.index, piece.index + 1)}
            assert await job.read_segment(piece) == segment(named), "a piece comes from units that do not count"
        if self.closed:
            visible = [*committed.units, *committed.pieces]
            assert all(record.attempt > 1 for record in visible), "a closed attempt has visible records"
            assert output is None or output.attempt > 1, "a closed attempt has a visible video"
        for record, after in self.pieces:
            if after or not self.closing:
                assert record in committed.pieces, "a piece has lost its record"
        for finished in self.outputs:
            if finished.attempt > 1 or not self.closing:
                assert output == finished, "a finished video has lost its record"
                assert (self.place.folder / "team/0b5c" / finished.key).read_bytes() == self.video.read_bytes()
        before = self.place.files()
        if self.closed:
            await job.sweep(1, in_use=True)
            assert not [name for name in self.place.files() if "/attempts/1/" in name or "/output/1." in name]
            assert await self.place.job().committed() == committed
        assert self.place.files() <= before


ACTORS: dict[str, Callable[[History], Coroutine[Any, Any, None]]] = {
    "first runner": lambda history: history.runner(1),
    "second runner": lambda history: history.runner(2),
    "third runner": lambda history: history.runner(3),
    "closer": History.closer,
    "sweeper": History.sweeper,
}


@settings(max_examples=150, deadline=None)
@given(
    actors=st.lists(st.sampled_from(sorted(ACTORS)), unique=True, min_size=2),
    turns=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), max_size=20),
)
def test_in_any_order_no_finished_work_is_lost_and_no_closed_work_seen(
    tmp_path_factory: pytest.TempPathFactory, actors: list[str], turns: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("job")
    history = History(Place(f"file://{folder}/store", folder / "store"), folder)
    history.video.write_bytes(b"video")
    run = Objects._run
    order = [actor for actor, requests in turns for _ in range(requests)]

    async def play() -> None:
        one_by_one = Turns(order)

        async def in_turn(
            self: Objects, doing: str, action: Callable[[asyncio.Timeout], Awaitable[Any]], *more: float
        ) -> Any:
            async with one_by_one.turn():
                return await run(self, doing, action, *more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Objects, "_run", in_turn)
            async with asyncio.timeout(60):
                await one_by_one.play([ACTORS[name](history) for name in actors])
        await history.check()

    asyncio.run(play())
