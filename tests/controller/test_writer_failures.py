"""Retries, conflicts and rests of the writer, in virtual time."""

import asyncio
from typing import Any

import pytest

from tests.controller import virtual
from tests.controller.desk import Desk, in_virtual_time, raising, takes_a_second
from tests.controller.objects import (
    FENCE_BROKEN,
    Json,
    begun_body,
    held_body,
    job_body,
)
from videojob.api.gpupool import GPUPoolStatus
from videojob.controller.leading import TRIES
from videojob.controller.loop import PlanningLoop, Wake
from videojob.controller.rests import REST_CAP_SECONDS
from videojob.controller.settings import Settings
from videojob.controller.stores import StoreFailure
from videojob.kube.client import VIDEO_JOBS, KubeError
from videojob.planner.decisions import (
    Cancel,
    Plan,
    SetPoolStatus,
    Suspend,
)
from videojob.planner.facts import Moment


@in_virtual_time
async def test_a_transient_error_is_tried_again_a_bounded_number_of_times_then_rests() -> None:
    desk = Desk()

    def busy(verb: str, kind: object, name: str) -> None:
        raise KubeError(503, "busy")

    desk.server.before = busy
    (job,) = desk.jobs("a")
    desk.writer.offer([Cancel(job)])
    await desk.settled()
    assert len(desk.server.log) == TRIES
    assert desk.outcomes == [("Cancel", "refused")]
    assert desk.resting(Cancel(job)) == pytest.approx(1, abs=0.1)


@in_virtual_time
async def test_the_api_server_may_ask_for_a_longer_pause() -> None:
    desk = Desk()

    def busy(verb: str, kind: object, name: str) -> None:
        if len(desk.server.log) == 1:
            raise KubeError(429, "busy", retry_after=20)

    desk.server.before = busy
    desk.writer.offer([Cancel(desk.jobs("a")[0])])
    await desk.settled()
    assert virtual.now() >= 20
    assert desk.status()["phase"] == "Cancelled"


@in_virtual_time
async def test_a_conflict_brings_the_object_as_it_is_and_no_rest() -> None:
    desk = Desk()
    (job,) = desk.jobs("a")
    desk.server.put(VIDEO_JOBS, held_body("a", 50))
    desk.writer.offer([Cancel(job)])
    await desk.settled()
    assert desk.book.jobs["a"].version == 50
    assert desk.outcomes == [("Cancel", "conflict")]
    assert not desk.book.frozen("a")


@in_virtual_time
async def test_a_conflict_whose_news_has_come_by_the_watch_first_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """As a foreground deletion makes one: the garbage collector takes its own finalizer away meanwhile."""
    desk = Desk(raising(KubeError(422, FENCE_BROKEN)))
    (job,) = desk.jobs("a")
    desk.job(begun_body("a", 50))
    desk.server.put(VIDEO_JOBS, begun_body("a", 50))
    desk.writer.offer([Cancel(job)])
    await desk.settled()
    assert desk.outcomes == [("Cancel", "conflict")]
    assert not desk.book.frozen("a")
    assert not caplog.records


@in_virtual_time
async def test_conflicts_without_end_rest_for_longer_and_longer() -> None:
    """A write that is refused as if its fence were broken, though nothing changed, is no hot loop (finding 12)."""
    desk = Desk(raising(KubeError(422, FENCE_BROKEN)))
    (job,) = desk.jobs("a")
    rests = []
    for _ in range(10):
        desk.writer.offer([Cancel(job)])
        await desk.settled()
        rest = desk.resting(Cancel(job))
        assert rest is not None
        rests.append(round(rest))
        await asyncio.sleep(rest)
        desk.book.advance(desk.clock())
    assert rests[:4] == [1, 2, 4, 8]
    assert max(rests) <= REST_CAP_SECONDS


@in_virtual_time
async def test_conflicts_that_each_bring_news_are_not_for_ever_free() -> None:
    desk = Desk(raising(KubeError(409, "changed")))
    (job,) = desk.jobs("a")
    began = virtual.now()
    for version in range(50, 60):
        desk.server.put(VIDEO_JOBS, begun_body("a", version))
        desk.writer.offer([Cancel(job)])
        await desk.settled()
        await asyncio.sleep(desk.resting(Cancel(job)) or 0)
        desk.book.advance(desk.clock())
    assert virtual.now() - began > 100


@in_virtual_time
async def test_a_job_that_cannot_be_read_any_more_is_left_alone() -> None:
    """Finding 12: it was 48 PATCH and 48 GET a second, for ever."""
    desk = Desk()
    job = desk.job(job_body("a", spec={"suspend": True}))
    desk.server.put(VIDEO_JOBS, job_body("a", 50, spec={"suspend": True}, status={"phase": "Preempted"}))
    wake = Wake(lambda: desk.clock().mono)
    desk.intake._changed = wake.set

    def cycle(now: Moment) -> Plan:
        desk.book.advance(now)
        return Plan(() if desk.book.frozen("a") else (Suspend(job),), 60.0)

    loop = PlanningLoop(
        desk.book,
        cycle,
        desk.writer,
        desk.rests,
        desk.metrics,
        Settings(),
        wake=wake,
        leadership=desk.leader,
        clock=desk.clock,
    )
    running = asyncio.create_task(loop.run())
    await asyncio.sleep(3600)
    running.cancel()
    assert len(desk.server.log) <= 4, "one write, and one look at what is there now"
    assert desk.book.jobs["a"].phase == "Pending", "what was last readable stays in force"
    assert desk.book.unreadable


@in_virtual_time
async def test_an_answer_that_cannot_be_read_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    job = desk.job(job_body("a"))

    async def get(*args: Any) -> Json:
        return {"kind": "Status"}

    desk.server.put(VIDEO_JOBS, job_body("a", 50))
    monkeypatch.setattr(desk.server, "get", get)
    desk.writer.offer([Cancel(job)])
    await desk.settled()
    assert desk.resting(Cancel(job)) is not None


@pytest.mark.parametrize("other", [False, True], ids=["gone", "another of its name"])
@in_virtual_time
async def test_a_job_that_is_gone_is_forgotten(other: bool) -> None:
    desk = Desk()
    (job,) = desk.jobs("a")
    if other:
        body = begun_body("a", 50)
        desk.server.put(VIDEO_JOBS, body | {"metadata": body["metadata"] | {"uid": "b"}})
    else:
        del desk.server.objects["videojobs", "a"]
    desk.writer.offer([Cancel(job)])
    await desk.settled()
    assert set(desk.book.jobs) == ({"b"} if other else set())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(StoreFailure("no"), "store"), (KubeError(403, "no"), "refused"), (RuntimeError("a bug"), "error")],
    ids=["store", "forbidden", "bug"],
)
@in_virtual_time
async def test_what_fails_rests_and_harms_no_other(error: Exception, outcome: str) -> None:
    desk = Desk(raising(error, only="a"))
    a, b = desk.jobs(*"ab")
    desk.writer.offer([Cancel(a), Cancel(b)])
    await desk.settled()
    assert desk.began == [Cancel(a), Cancel(b)]
    assert desk.book.frozen("a")
    assert not desk.book.frozen("b")
    assert desk.outcomes == [("Cancel", outcome)]


@in_virtual_time
async def test_a_success_ends_the_row_of_failures() -> None:
    desk = Desk(raising(KubeError(403, "no")))
    (job,) = desk.jobs("a")
    for expected in (1, 2):
        desk.writer.offer([Cancel(job)])
        await desk.settled()
        assert desk.resting(Cancel(job)) == pytest.approx(expected, abs=0.1)
        await asyncio.sleep(expected)
        desk.book.advance(desk.clock())
    desk._apply = takes_a_second
    desk.writer.offer([Cancel(job)])
    await desk.settled()
    desk._apply = raising(KubeError(403, "no"))
    desk.writer.offer([Cancel(job)])
    await desk.settled()
    assert desk.resting(Cancel(job)) == pytest.approx(1, abs=0.1)


@in_virtual_time
async def test_a_status_is_written_once_in_a_while() -> None:
    desk = Desk()
    for slots in (1, 2):
        desk.writer.offer([SetPoolStatus(desk.book.pools["p"], GPUPoolStatus(slots=slots))])
        await desk.settled()
    assert desk.book.pools["p"].status.slots == 1
    await asyncio.sleep(1)
    desk.book.advance(desk.clock())
    desk.writer.offer([SetPoolStatus(desk.book.pools["p"], GPUPoolStatus(slots=2))])
    await desk.settled()
    assert desk.book.pools["p"].status.slots == 2
