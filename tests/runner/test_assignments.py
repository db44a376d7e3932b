"""Which tasks run for the events of a watch."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from videojob.api.videojob import VideoJob
from videojob.kube.client import Change, Listing
from videojob.runner.assignments import Assignments, Work
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.slots import Slots
from videojob.runner.status import Generation
from videojob.runner.stop import StoppedError

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


def job(uid: str, attempt: int = 1, release: str | None = None, generation: int = 1) -> dict[str, Any]:
    assignment = {"pool": "p", "replica": "r"} | ({"release": release} if release else {})
    return {
        "metadata": {"name": uid, "namespace": "default", "uid": uid, "generation": generation, "resourceVersion": "1"},
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
        self.generations: dict[str, Generation] = {}
        self.free_slot: dict[str, Callable[[], None]] = {}
        self.reports: list[set[tuple[str, int]]] = []
        """What was held each time that it changed."""
        self.breaks: set[str] = set()
        self.registry = CollectorRegistry()
        metrics = RunnerMetrics(self.registry, "p", "r")
        self.assignments = Assignments(self.run, self.slots, metrics, self.changed)

    def changed(self) -> None:
        self.reports.append(self.held())

    def held(self) -> set[tuple[str, int]]:
        return {(each.uid, each.attempt) for each in self.assignments.held}

    def count(self, metric: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(metric, {"pool": "p", "replica": "r", **labels})

    async def run(self, job: VideoJob, work: Work) -> None:
        stop, generation = work.stop, work.generation
        attempt = (job.metadata.uid, job.status.attempts)
        self.started.append(attempt)
        self.generations[job.metadata.uid] = generation
        self.free_slot[job.metadata.uid] = work.free_slot
        if job.metadata.uid in self.breaks:
            raise ZeroDivisionError("of all things")
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
async def test_how_an_attempt_is_asked_to_stop(event: Listing | Change, ended: dict[tuple[str, int], str]) -> None:
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


def finishing(runs: Runs) -> list[str]:
    return [each.uid for each in runs.assignments.held if each.finishing]


async def test_a_job_whose_frames_are_made_lets_the_next_one_in_and_stays_held() -> None:
    runs = Runs(slots=1)
    await runs.see(Listing([job("a"), job("b")]))
    reports = len(runs.reports)

    runs.free_slot["a"]()
    await runs.see()

    assert runs.started == [("a", 1), ("b", 1)]
    assert runs.held() == {("a", 1), ("b", 1)}
    assert (finishing(runs), len(runs.reports)) == (["a"], reports + 1), "the operator does not learn of it"


async def test_no_more_jobs_finish_than_there_are_slots() -> None:
    """Each has a video on the disk; where the store is slow, a job keeps its slot until it ends."""
    runs = Runs(slots=1)
    await runs.see(Listing([job("a"), job("b"), job("c"), job("d")]))
    for uid in ("a", "b"):
        runs.free_slot[uid]()
        await runs.see()
    assert (runs.started, finishing(runs)) == ([("a", 1), ("b", 1)], ["a"])

    await runs.see(Change("DELETED", job("a")))
    assert runs.started == [("a", 1), ("b", 1)], "the slot of b went to two"
    await runs.see(Change("DELETED", job("b")))
    assert runs.started == [("a", 1), ("b", 1), ("c", 1)]
    runs.free_slot["c"]()
    runs.free_slot["c"]()
    await runs.see()
    assert (runs.started[3:], finishing(runs)) == ([("d", 1)], ["c"])


async def test_more_slots_let_waiting_jobs_in() -> None:
    runs = Runs(slots=0)
    await runs.see(Listing([job("a")]))
    assert runs.started == []

    runs.slots.resize(1)
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


def unreadable(uid: str, version: str = "1", **fields: Any) -> dict[str, Any]:
    """A job with a phase that only a newer release knows."""
    item = job(uid, **fields)
    item["metadata"]["resourceVersion"] = version
    item["status"]["phase"] = "Paused"
    return item


async def test_what_is_held_is_what_runs() -> None:
    runs = Runs()
    await runs.see(Listing([job("a"), job("b")]))
    assert runs.held() == {("a", 1), ("b", 1)}

    await runs.see(Change("DELETED", job("a")), modified(uid="b", attempt=2))
    assert runs.held() == {("b", 2)}
    assert runs.reports[-1] == {("b", 2)}, "the change was not reported"
    assert runs.count("videojob_runner_active_jobs") == 1


async def test_a_job_that_cannot_be_read_is_not_held_and_counts_once_for_each_version(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = Runs()
    await runs.see(Listing([unreadable("a")]), Listing([unreadable("a")]), Change("MODIFIED", unreadable("a", "2")))

    assert runs.held() == set() and runs.started == []
    assert runs.count("videojob_runner_unreadable_objects_total", kind="videojobs") == 2
    assert caplog.text.count("cannot be read") == 2

    await runs.see(modified(uid="a"))
    assert runs.held() == {("a", 1)}, "it can be read now"


async def test_a_job_that_becomes_unreadable_goes_on_as_it_was() -> None:
    runs = Runs()
    await runs.see(Listing([job("a")]), Change("MODIFIED", unreadable("a", "2", generation=5)))
    await runs.see(Listing([unreadable("a", "3", generation=5)]))

    assert runs.held() == {("a", 1)} and runs.ended == {}
    assert runs.generations["a"].newest == 5


async def test_a_job_without_what_is_to_be_made_is_not_held() -> None:
    unresolved = job("a")
    del unresolved["status"]["resolved"]
    runs = Runs()
    await runs.see(Listing([unresolved, job("b", attempt=0)]))

    assert runs.held() == set()


async def test_a_task_that_breaks_leaves_the_report_and_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    runs = Runs(slots=1)
    runs.breaks.add("a")
    await runs.see(Listing([job("a"), job("b")]))

    assert runs.started == [("a", 1), ("b", 1)], "its slot was not given back"
    assert runs.held() == {("b", 1)}
    assert "ZeroDivisionError" in caplog.text
    assert runs.count("videojob_runner_errors_total", what="attempt", type="unknown") == 1
    await runs.see(modified(uid="a"))
    assert ("a", 1) not in runs.held(), "it is the operator's to take back"


async def test_the_newest_generation_that_the_watch_shows_reaches_the_attempt() -> None:
    runs = Runs()
    await runs.see(Listing([job("a")]), modified(uid="a", generation=3), modified(uid="a", generation=2))

    assert runs.generations["a"].newest == 3
