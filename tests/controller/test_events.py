"""Events are few: the same one is posted once in a while, and what does not fit is dropped and counted."""

import asyncio
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter

from tests.controller.world import until
from tests.planner.builders import job
from videojob.controller.events import QUEUE_SIZE, REPEAT_SECONDS, Recorder
from videojob.kube.client import Json, KubeClient, KubeError


class Bench:
    """A recorder over an API server that refuses while `refuses` is set."""

    def __init__(self) -> None:
        self.time = 0.0
        self.refuses = False
        self.posted: list[Json] = []
        self.registry = CollectorRegistry()
        dropped = Counter("dropped", "test", registry=self.registry)
        self.recorder = Recorder(cast("KubeClient", self), "me", lambda: self.time, dropped)

    async def create(self, _: object, body: Json, __: str) -> Json:
        if self.refuses:
            raise KubeError(403, "no")
        self.posted.append(body)
        return body

    def post(self, name: str = "a", reason: str = "Cancelled") -> None:
        self.recorder.post(job(name), "Normal", reason, "It was cancelled.")

    def dropped(self) -> Any:
        return self.registry.get_sample_value("dropped_total")

    async def settle(self, count: int) -> None:
        running = asyncio.create_task(self.recorder.run())

        async def look() -> bool | None:
            return True if len(self.posted) + self.dropped() == count else None

        await until(look, f"{count} Events are posted or dropped")
        running.cancel()


async def test_an_event_is_on_its_job() -> None:
    bench = Bench()
    bench.post()
    await bench.settle(1)
    (event,) = bench.posted
    assert event["involvedObject"]["uid"] == "uid-a"
    assert (event["type"], event["reason"], event["message"]) == ("Normal", "Cancelled", "It was cancelled.")


async def test_the_same_event_is_posted_once_in_a_while() -> None:
    bench = Bench()
    bench.post()
    bench.post()
    bench.post("b")
    bench.post(reason="Failed")
    bench.time = REPEAT_SECONDS
    bench.post()
    await bench.settle(4)


async def test_what_does_not_fit_is_dropped_and_counted() -> None:
    bench = Bench()
    for index in range(QUEUE_SIZE + 3):
        bench.post(f"job-{index}")
    assert bench.dropped() == 3
    await bench.settle(QUEUE_SIZE + 3)


async def test_a_refused_event_stops_nothing() -> None:
    bench = Bench()
    bench.refuses = True
    bench.post()
    await bench.settle(1)
    assert bench.dropped() == 1
