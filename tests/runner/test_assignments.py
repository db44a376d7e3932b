"""Which tasks run for what the watch says."""

import asyncio
from typing import Any

import pytest

from videojob.api.videojob import VideoJob
from videojob.kube.client import Change, Listing
from videojob.runner.assignments import Assignments, Slots
from videojob.runner.stop import Stop, StoppedError

RESOLVED = {
    "width": 16,
    "height": 16,
    "fps": 8,
    "steps": 1,
    "guidanceScale": 1.0,
    "seed": 1,
    "frames": 1,
    "chunks": 1,
    "modelUID": "m",
    "modelGeneration": 1,
    "weightsDigest": "d",
}


def job(uid: str, attempt: int = 1, release: str | None = None) -> dict[str, Any]:
    assignment = {"pool": "p", "replica": "r"} | ({"release": release} if release else {})
    return {
        "metadata": {"name": uid, "namespace": "default", "uid": uid},
        "spec": {"model": "tiny", "shots": [{"prompt": "a fox", "seconds": 1}]},
        "status": {"attempts": attempt, "assignment": assignment, "resolved": RESOLVED},
    }


class Runs:
    """Attempts that run until they are stopped, and how each of them ended."""

    def __init__(self, slots: int = 8) -> None:
        self.started: list[tuple[str, int]] = []
        self.ended: dict[tuple[str, int], str] = {}
        self.slots = Slots(slots)
        self.begin_new = False
        """Attempts that start now have not begun anything: a drain ends them."""
        self.assignments = Assignments(self.run, self.slots, lambda count: None)

    async def run(self, job: VideoJob, stop: Stop) -> None:
        attempt = (job.metadata.uid, job.status.attempts)
        self.started.append(attempt)
        try:
            await stop.race(asyncio.Event().wait(), new=self.begin_new)
        except StoppedError as stopped:
            self.ended[attempt] = "lost" if stopped.lost else stopped.reason
        except asyncio.CancelledError:
            self.ended[attempt] = "cancelled"

    async def until_ended(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.ended) < count:  # noqa: ASYNC110 - a timer of the event loop has to fire
                await asyncio.sleep(0.001)

    async def see(self, *events: Listing | Change) -> None:
        for event in events:
            self.assignments.see(event)
        for _ in range(20):
            await asyncio.sleep(0)


def modified(**fields: Any) -> Change:
    return Change("MODIFIED", job(**fields))


async def test_each_assigned_job_is_started_once() -> None:
    runs = Runs()
    await runs.see(Listing([job("a"), job("b")]), modified(uid="a"), Change("ADDED", job("c")), modified(uid="c"))

    assert runs.started == [("a", 1), ("b", 1), ("c", 1)]
    assert runs.ended == {}


async def test_a_job_that_cannot_be_read_is_left_alone_and_its_prompt_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs, unreadable = Runs(), job("a")
    unreadable["spec"]["shots"] = [{"prompt": "nobody's business" * 1000, "seconds": 1}]
    await runs.see(Listing([unreadable, job("b")]))

    assert runs.started == [("b", 1)]
    assert "cannot be read" in caplog.text and "shots" in caplog.text
    assert "nobody's business" not in caplog.text


@pytest.mark.parametrize(
    ("event", "ended"),
    [
        pytest.param(modified(uid="a", release="Cancelled"), {("a", 1): "Cancelled"}, id="asked back"),
        pytest.param(Change("DELETED", job("a")), {("a", 1): "lost"}, id="gone to another replica"),
        pytest.param(Listing([]), {("a", 1): "lost"}, id="missing after the watch broke"),
        pytest.param(modified(uid="a", attempt=2), {("a", 1): "lost"}, id="given again to this replica"),
        pytest.param(modified(uid="b"), {}, id="another job"),
    ],
)
async def test_how_an_attempt_is_told_to_stop(event: Listing | Change, ended: dict[tuple[str, int], str]) -> None:
    runs = Runs()
    await runs.see(Listing([job("a")]), event)

    assert runs.ended == ended


async def test_a_later_attempt_is_started_and_an_old_event_is_not() -> None:
    runs = Runs()
    await runs.see(Listing([job("a", attempt=2)]), modified(uid="a", attempt=1), modified(uid="a", attempt=3))

    assert runs.started == [("a", 2), ("a", 3)]


async def test_a_job_that_comes_with_a_release_is_started_to_hand_it_back() -> None:
    runs = Runs()
    await runs.see(Listing([job("a", release="Suspended")]))

    assert runs.ended == {("a", 1): "Suspended"}


async def test_a_drain_hands_back_what_runs_and_what_comes() -> None:
    runs = Runs()
    await runs.see(Listing([job("a")]))
    runs.assignments.drain("maintenance", 0.01)
    await runs.see(Change("ADDED", job("b")))
    assert runs.ended == {}, "chunks in flight were given no time"
    await runs.until_ended(2)
    assert runs.ended == {("a", 1): "Drained", ("b", 1): "Drained"}

    runs.assignments.drain("", 0.01)
    await runs.see(Change("ADDED", job("c")))
    assert ("c", 1) in runs.started and ("c", 1) not in runs.ended


async def test_no_more_jobs_run_than_there_are_slots() -> None:
    runs = Runs(slots=1)
    await runs.see(Listing([job("a"), job("b")]))
    assert runs.started == [("a", 1)]

    await runs.see(Change("DELETED", job("a")))
    assert runs.started == [("a", 1), ("b", 1)]


async def test_more_slots_let_waiting_jobs_in() -> None:
    runs = Runs(slots=0)
    await runs.see(Listing([job("a")]))
    assert runs.started == []

    await runs.slots.resize(1)
    await runs.see()
    assert runs.started == [("a", 1)]


async def test_a_job_that_waits_for_a_slot_is_handed_back_when_asked() -> None:
    runs = Runs(slots=1)
    await runs.see(Listing([job("a"), job("b")]), modified(uid="b", release="Cancelled"))

    assert runs.ended == {("b", 1): "Cancelled"}


async def test_a_drain_is_overtaken_by_what_cannot_wait() -> None:
    runs = Runs()
    await runs.see(Listing([job("a"), job("b")]))
    runs.assignments.drain("maintenance", 600)
    await runs.see(modified(uid="a", release="Cancelled"), Change("DELETED", job("b")))

    assert runs.ended == {("a", 1): "Cancelled", ("b", 1): "lost"}


async def test_a_job_that_waits_for_a_slot_is_handed_back_by_a_drain_at_once() -> None:
    runs = Runs(slots=1)
    await runs.see(Listing([job("a"), job("b")]))
    runs.begin_new = True
    runs.assignments.drain("maintenance", 600)
    await runs.see()

    assert runs.ended == {("b", 1): "Drained"}


async def test_finish_waits_for_every_task_and_cancels_the_slow_ones() -> None:
    runs = Runs()
    await runs.see(Listing([job("a"), job("b")]))
    runs.assignments.drain("maintenance", 0.01)
    await runs.assignments.finish(5)
    assert set(runs.ended.values()) == {"Drained"}

    slow = Runs()
    await slow.see(Listing([job("a")]))
    await slow.assignments.finish(0.01)
    assert slow.ended == {("a", 1): "cancelled"}
