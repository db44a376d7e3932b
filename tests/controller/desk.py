"""A writer around a server in memory, in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any

from tests.controller import virtual
from tests.controller.bench import Bench
from tests.controller.objects import (
    begun_body,
    model_body,
    pool_body,
    queue_body,
)
from videojob.controller.leading import LeaderClient
from videojob.controller.rests import Rests
from videojob.controller.settings import LANES
from videojob.controller.writer import Writer, lane_of
from videojob.kube.client import GPU_POOLS, VIDEO_MODELS, VIDEO_QUEUES
from videojob.planner.decisions import (
    Decision,
    Lane,
    target,
)
from videojob.planner.facts import Job, Moment

Test = Callable[..., Coroutine[Any, Any, None]]


def in_virtual_time(test: Test) -> Callable[..., None]:
    """Run the test on a loop of its own."""

    @wraps(test)
    def sync(*args: Any, **kwargs: Any) -> None:
        virtual.run(test(*args, **kwargs))

    return sync


class Desk(Bench):
    """A writer around a server in memory; `apply` takes the place of the effects where a test gives one."""

    def __init__(self, apply: Callable[[Decision, LeaderClient], Awaitable[None]] | None = None, **lanes: int) -> None:
        super().__init__()
        self.began: list[Decision] = []
        self.outcomes: list[tuple[str, str]] = []
        self.most: dict[Lane, int] = {}
        self.now: dict[Lane, int] = {}
        self._apply = apply or self.effects.apply
        self.rests = Rests(self.book, lambda: self.clock().mono)
        self.dry = 0
        self.writer = Writer(
            self.server,
            self.book,
            self.intake,
            self,
            self.leader,
            self.rests,
            finished=self._dry,
            failed=self._failed,
            lanes={**LANES, **{Lane(name): size for name, size in lanes.items()}},
            status_seconds=1.0,
        )
        for kind, body in ((VIDEO_MODELS, model_body()), (VIDEO_QUEUES, queue_body()), (GPU_POOLS, pool_body())):
            self.see(kind, body)

    def clock(self) -> Moment:
        try:
            self.seconds = virtual.now()
        except RuntimeError:
            self.seconds = 0.0
        return super().clock()

    def _dry(self) -> None:
        self.dry += 1

    def _failed(self, decision: Decision, outcome: str) -> None:
        self.outcomes.append((type(decision).__name__, outcome))

    async def apply(self, decision: Decision, api: LeaderClient) -> None:
        lane = lane_of(decision)
        self.began.append(decision)
        self.now[lane] = self.now.get(lane, 0) + 1
        self.most[lane] = max(self.most.get(lane, 0), self.now[lane])
        try:
            await self._apply(decision, api)
        finally:
            self.now[lane] -= 1

    async def settled(self) -> None:
        """Until nothing is under way any more."""
        async with asyncio.timeout(600):
            while tasks := [task for task in asyncio.all_tasks() if task.get_name().startswith("write ")]:
                await asyncio.wait(tasks)

    def jobs(self, *names: str, **fields: Any) -> list[Job]:
        return [self.job(begun_body(name, **fields)) for name in names]

    def resting(self, decision: Decision) -> float | None:
        """Seconds for which nothing is decided on the target."""
        until = self.book._rests.get(target(decision))
        return None if until is None else until - self.clock().mono


async def takes_a_second(decision: Decision, api: LeaderClient) -> None:
    await asyncio.sleep(1)


def raising(error: Exception, only: str = "") -> Callable[[Decision, LeaderClient], Awaitable[None]]:
    async def apply(decision: Decision, api: LeaderClient) -> None:
        if not only or only in target(decision):
            raise error

    return apply
