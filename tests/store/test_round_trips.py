"""What a commit costs: over a slow network it is the requests that wait for each other that count."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.store.conftest import Place
from tests.store.writing import SECONDS, commit
from videojob.store.objects import Objects


class Requests:
    """Counts requests, and the round trips that they take: those that are under way together are one."""

    def __init__(self) -> None:
        self.made = 0
        self.round_trips = 0
        self._under_way = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count those of the block."""
        run = Objects._run

        async def one(
            objects: Objects, doing: str, action: Callable[[asyncio.Timeout], Awaitable[Any]], *more: float
        ) -> Any:
            self.made += 1
            self.round_trips += not self._under_way
            self._under_way += 1
            try:
                await asyncio.sleep(0)  # Those that begin in the same turn of the loop do not wait for each other.
                return await run(objects, doing, action, *more)
            finally:
                self._under_way -= 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Objects, "_run", one)
            yield


@pytest.mark.parametrize("size", [1000, 1 << 20], ids=["small", "large"])
async def test_a_commit_is_two_round_trips(place: Place, size: int) -> None:
    job = place.job()
    await commit(job, 0)
    unit, piece = Requests(), Requests()
    with unit.counted():
        made = await job.commit_unit(index=1, attempt=1, checkpoint=bytes(size), stage_seconds=SECONDS)
    with piece.counted():
        await job.commit_piece(
            index=1, attempt=1, frames=1, segment=bytes(size), units=[made.record], stage_seconds=SECONDS
        )
    assert (unit.made, unit.round_trips) == (piece.made, piece.round_trips) == (3, 2)


async def test_what_a_job_goes_on_from_takes_as_many_round_trips_however_much_it_is(place: Place) -> None:
    for index in range(8):
        await commit(place.job(), index)
    job, requests = place.job(), Requests()
    with requests.counted():
        found = await job.committed()
        await job.read_checkpoints(found.units)
    assert (len(found.units), len(found.pieces)) == (8, 8)
    assert (requests.made, requests.round_trips) == (3 + 3 * 8, 6)
