"""When the planning loop plans, and what it survives, in virtual time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from tests.controller import virtual
from tests.controller.bench import Bench
from tests.planner.builders import job, model
from videojob.controller.loop import FAILED_CAP_SECONDS, SETTLED_AT_ONCE, PlanningLoop, Wake
from videojob.controller.rests import Rests
from videojob.controller.settings import Settings
from videojob.controller.writer import Writer
from videojob.planner.decisions import Decision, Fault, Lane, Plan, VerifyLeases
from videojob.planner.facts import Moment


@dataclass
class Taken:
    """Stands for the writer: what was offered."""

    offers: list[tuple[tuple[Decision, ...], tuple[Lane, ...]]] = field(default_factory=list)

    def offer(self, decisions: tuple[Decision, ...], *, keep: tuple[Lane, ...]) -> None:
        self.offers.append((decisions, keep))


class Turning(Bench):
    """A loop around a cycle that a test gives; `planned` has the moments of its turns."""

    def __init__(self, make: Callable[[Moment], Plan], **settings: Any) -> None:
        super().__init__()
        self.make = make
        self.planned: list[float] = []
        self.writer = Taken()
        self.wake = Wake(virtual.now)
        self.loop = PlanningLoop(
            self.book,
            self._cycle,
            cast("Writer", self.writer),
            Rests(self.book, lambda: self.clock().mono),
            self.metrics,
            Settings(**settings),
            wake=self.wake,
            leadership=self.leader,
            clock=self.clock,
        )

    def clock(self) -> Moment:
        self.seconds = virtual.now()
        return super().clock()

    def _cycle(self, now: Moment) -> Plan:
        self.planned.append(self.seconds)
        return self.make(now)

    async def turn(self, seconds: float) -> None:
        task = asyncio.create_task(self.loop.run())
        await asyncio.sleep(seconds)
        assert not task.done(), task.exception()
        task.cancel()

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def plans(wake_seconds: float = 100.0, *decisions: Decision, **fields: Any) -> Callable[[Moment], Plan]:
    return lambda now: Plan(decisions, wake_seconds, **fields)


def test_it_plans_when_something_changed_when_time_asks_and_now_and_then() -> None:
    async def history() -> None:
        turning = Turning(plans(), idle_seconds=5.0)
        task = asyncio.create_task(turning.turn(12))
        await asyncio.sleep(1)
        turning.wake.set()
        turning.wake.set()
        await task
        assert [round(at) for at in turning.planned] == [0, 1, 6, 11]
        assert turning.sample("videojob_operator_plan_lag_seconds_count") == 1
        asks = Turning(plans(2.0), idle_seconds=5.0)
        await asks.turn(5)
        assert len(asks.planned) == 3

    virtual.run(history())


def test_who_does_not_lead_turns_and_plans_nothing() -> None:
    async def history() -> None:
        turning = Turning(plans())
        turning.leader.leading = False
        await turning.turn(20)
        assert not turning.planned
        assert turning.loop.age <= Settings().idle_seconds

    virtual.run(history())


def test_a_plan_that_cannot_be_made_ends_nothing_and_is_no_hot_loop() -> None:
    """Finding 11: an exception in the plan ended the operator."""

    async def history() -> None:
        def fails(now: Moment) -> Plan:
            turning.wake.set()
            raise RecursionError("a bug")

        turning = Turning(fails)
        await turning.turn(600)
        assert 600 / FAILED_CAP_SECONDS <= len(turning.planned) < 40
        assert turning.sample("videojob_operator_plan_failures_total", part="cycle") == len(turning.planned)
        assert not turning.writer.offers
        turning.make = plans(1.0, VerifyLeases())
        await turning.turn(10)
        assert len(turning.writer.offers) > 5, "and it goes on as if nothing had been"

    virtual.run(history())


def test_what_is_to_blame_for_a_fault_rests_for_longer_each_time_and_the_others_go_on() -> None:
    async def history() -> None:
        fault = Fault(("deployment", "p"), ValueError("no such thing"))
        resting: list[bool] = []

        def make(now: Moment) -> Plan:
            turning.book.advance(now)
            faults = () if turning.book.busy(fault.target) else (fault,)
            resting.append(not faults)
            return Plan((VerifyLeases(),), 1.0, faults=faults)

        turning = Turning(make)
        await turning.turn(100)
        assert len(turning.writer.offers) == len(turning.planned) > 90
        assert resting.count(False) < 10

    virtual.run(history())


def test_decisions_on_pools_stand_until_pools_are_looked_at_again() -> None:
    async def history() -> None:
        turning = Turning(plans(1.0, pools_planned=True))
        await turning.turn(0.5)
        turning.make = plans(1.0)
        await turning.turn(0.5)
        assert [keep for _, keep in turning.writer.offers] == [(), (Lane.POOLS, Lane.STATUSES)]

    virtual.run(history())


def test_a_model_of_many_jobs_that_changes_does_not_stop_the_loop_for_all_of_them() -> None:
    async def history() -> None:
        left: list[bool] = []

        def cycle(now: Moment) -> Plan:
            left.append(turning.book.settle(0))
            return Plan((), 100.0)

        turning = Turning(cycle)
        for number in range(3 * SETTLED_AT_ONCE):
            turning.book.put_job(job(f"j{number}"))
        turning.book.put_model(model())
        loop = asyncio.create_task(turning.loop.run())
        turns = 0
        while not left:
            await asyncio.sleep(0)
            turns += 1
        loop.cancel()
        assert turns > 3, "others run meanwhile"
        assert left == [False], "no plan is made before all are where they belong"

    virtual.run(history())
