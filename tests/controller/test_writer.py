"""Bounds, retries and conflicts of the writer. The API server is a fake here: a real one does not fail on demand."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

import pytest

from tests.controller.test_cache import body
from tests.controller.world import until
from videojob.controller.cache import Cache, JobRecord
from videojob.controller.files import StoreFailure
from videojob.controller.writer import TRIES, Writer
from videojob.kube.client import VIDEO_JOBS, Json, KubeClient, KubeError
from videojob.planner.decisions import Cancel, Decision, Purge, Suspend

Outcome = Callable[[Decision, JobRecord], Any]


BROKEN_FENCE = KubeError(422, "the server rejected our request due to an error in our request")


class Bench:
    """A writer over effects that do as they are told; `server` is what the API server has."""

    def __init__(self, outcome: Outcome = lambda decision, record: None, writes: int = 2) -> None:
        self.outcome = outcome
        self.applied: list[Decision] = []
        self.now = 0
        self.most = 0
        self.wakes = 0
        self.leading = True
        self.server: dict[str, Json] = {}
        self.cache = Cache(lambda: 0, lambda: None)
        self.writer = Writer(
            cast("KubeClient", self),
            self.cache,
            self,
            leading=lambda: self.leading,
            finished=self._finished,
            monotonic=monotonic,
            writes=writes,
            purges=1,
        )

    def _finished(self) -> None:
        self.wakes += 1

    def put(self, uid: str, version: int = 1) -> None:
        found = body(version, uid=uid, metadata={"name": uid})
        self.server[uid] = found
        self.cache.apply(VIDEO_JOBS, found)

    async def get(self, _: object, name: str, __: str) -> Json:
        if name not in self.server:
            raise KubeError(404, "gone")
        return self.server[name]

    async def apply(self, decision: Decision, record: JobRecord) -> None:
        self.applied.append(decision)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            self.outcome(decision, record)
        finally:
            self.now -= 1

    async def settled(self) -> None:
        async def look() -> bool | None:
            return None if any(task.get_name().startswith("write ") for task in asyncio.all_tasks()) else True

        await until(look, "the writer is done")


def raising(error: Exception) -> Outcome:
    def outcome(decision: Decision, record: JobRecord) -> None:
        raise error

    return outcome


async def test_writes_are_bounded_and_come_in_order() -> None:
    bench = Bench(writes=2)
    decisions = tuple(Cancel(f"j{index}") for index in range(6))
    for decision in decisions:
        bench.put(decision.uid)
    bench.writer.offer(decisions)
    await bench.settled()
    assert bench.applied == list(decisions)
    assert bench.most == 2
    assert bench.wakes >= 1


async def test_a_job_has_one_write_at_a_time_and_is_busy_meanwhile() -> None:
    bench = Bench()
    bench.put("a")
    bench.writer.offer((Cancel("a"),))
    assert bench.writer.busy == {"a"}
    bench.writer.offer((Suspend("a"),))
    await bench.settled()
    assert bench.applied == [Cancel("a")]
    assert bench.writer.busy == frozenset()


async def test_a_new_plan_replaces_what_has_not_begun() -> None:
    bench = Bench(writes=1)
    for uid in "abc":
        bench.put(uid)
    bench.writer.offer((Cancel("a"), Cancel("b")))
    bench.writer.offer((Cancel("c"),))
    await bench.settled()
    assert bench.applied == [Cancel("a"), Cancel("c")]


async def test_removing_files_holds_up_nothing_else() -> None:
    gate = asyncio.Event()
    bench = Bench(writes=1)
    original = bench.apply

    async def slow(decision: Decision, record: JobRecord) -> None:
        if isinstance(decision, Purge):
            await gate.wait()
        await original(decision, record)

    bench.apply = slow  # type: ignore[method-assign]
    for uid in "abc":
        bench.put(uid)
    bench.writer.offer((Purge("a", keep_output=False), Purge("b", keep_output=False), Cancel("c")))

    async def cancelled() -> bool | None:
        return True if bench.applied == [Cancel("c")] else None

    await until(cancelled, "the other job is written")
    gate.set()
    await bench.settled()
    assert len(bench.applied) == 3


async def test_a_transient_error_is_tried_again_a_bounded_number_of_times() -> None:
    bench = Bench(raising(KubeError(503, "busy")))
    bench.put("a")
    bench.writer.offer((Cancel("a"),))
    await bench.settled()
    assert len(bench.applied) == TRIES
    assert bench.writer.busy == {"a"}, "the job rests before it is tried again"
    assert bench.writer.next_rest() is not None


async def test_a_conflict_brings_the_object_as_it_is() -> None:
    bench = Bench(raising(BROKEN_FENCE))
    bench.put("a", version=1)
    bench.server["a"] = body(5, "Running", uid="a", metadata={"name": "a"})
    bench.writer.offer((Cancel("a"),))
    await bench.settled()
    record = bench.cache.job("a")
    assert record is not None
    assert record.version == 5
    assert len(bench.applied) == 1
    assert bench.writer.busy == frozenset()


async def test_a_write_that_is_refused_although_nothing_changed_is_not_repeated_at_once() -> None:
    bench = Bench(raising(BROKEN_FENCE))
    bench.put("a")
    bench.writer.offer((Cancel("a"),))
    await bench.settled()
    assert bench.writer.busy == {"a"}


@pytest.mark.parametrize("code", [404, 409])
async def test_a_job_that_is_gone_is_forgotten(code: int) -> None:
    bench = Bench(raising(KubeError(code, "gone")))
    bench.put("a")
    del bench.server["a"]
    bench.writer.offer((Cancel("a"),))
    await bench.settled()
    assert bench.cache.job("a") is None


@pytest.mark.parametrize(
    "error", [StoreFailure("no"), KubeError(403, "no"), RuntimeError("a bug")], ids=["store", "forbidden", "bug"]
)
async def test_what_fails_rests_and_harms_no_other(error: Exception) -> None:
    def outcome(decision: Decision, record: JobRecord) -> None:
        if decision.uid == "a":
            raise error

    bench = Bench(outcome)
    bench.put("a")
    bench.put("b")
    bench.writer.offer((Cancel("a"), Cancel("b")))
    await bench.settled()
    assert bench.applied == [Cancel("a"), Cancel("b")]
    assert bench.writer.busy == {"a"}


async def test_who_does_not_lead_any_more_writes_nothing_more() -> None:
    bench = Bench(writes=1)
    for uid in "ab":
        bench.put(uid)
    bench.writer.offer((Cancel("a"), Cancel("b")))
    bench.leading = False
    bench.writer.stop()
    await bench.settled()
    bench.writer.offer((Cancel("b"),))
    assert bench.applied == []


async def test_draining_ends_what_has_begun_and_begins_nothing() -> None:
    bench = Bench(writes=1)
    for uid in "ab":
        bench.put(uid)
    bench.writer.offer((Cancel("a"), Cancel("b")))
    await asyncio.gather(bench.writer.drain(5), offer_again(bench))
    assert bench.applied == [Cancel("a")]


async def offer_again(bench: Bench) -> None:
    """The planning loop may still turn while the writer drains."""
    bench.writer.offer((Cancel("b"),))
