"""Decisions that ask a store: what is asked of it, in which order, and what the job becomes."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.controller.bench import PATIENCE, Bench
from tests.controller.objects import (
    STORE,
    Json,
    begun_body,
)
from tests.planner.builders import NOW, RESOLVED
from videojob.api import FINALIZER
from videojob.api.reasons import Reason
from videojob.controller.stores import FINISHED, StoreFailure
from videojob.kube.client import (
    VIDEO_JOBS,
)
from videojob.planner.decisions import (
    Assign,
    Cancel,
    Fail,
    JobDecision,
    LeavePool,
    Purge,
    Suspend,
    Sweep,
)
from videojob.planner.facts import Job, ReplicaKey

R0 = ReplicaKey("p", "r0")
SOON = (NOW + timedelta(seconds=600)).isoformat()
PAST = (NOW - timedelta(seconds=600)).isoformat()
Make = Callable[[Job], JobDecision]


def assign(job: Job) -> JobDecision:
    return Assign(job, R0, RESOLVED, f"{STORE}/team/{job.uid}")


CUT_OFF = begun_body(status={"cutOffUntil": SOON})


@pytest.mark.parametrize(
    ("make", "closes"),
    [
        (Cancel, True),
        (lambda job: Fail(job, Reason.DEADLINE_EXCEEDED, "Too long."), True),
        (Suspend, False),
        (assign, False),
    ],
    ids=["cancel", "fail", "suspend", "assign"],
)
async def test_a_job_that_ends_is_closed_for_a_runner_that_is_cut_off(bench: Bench, make: Make, closes: bool) -> None:
    await bench.effects.apply(make(bench.job(CUT_OFF)), bench.api)
    assert bench.store.calls == ([("close", "p", 1)] if closes else [])


async def test_a_job_that_ends_waits_for_its_store_for_a_while_only(bench: Bench) -> None:
    bench.store.failing = {"close"}
    job = bench.job(CUT_OFF)
    for second in (0, PATIENCE - 1):
        bench.seconds = second
        with pytest.raises(StoreFailure):
            await bench.effects.apply(Cancel(job), bench.api)
        assert not bench.server.written
    bench.seconds = PATIENCE
    await bench.effects.apply(Cancel(job), bench.api)
    assert bench.status()["phase"] == "Cancelled"


DELETED: Json = {"deletionTimestamp": "2026-11-22T12:00:00Z"}


async def test_the_files_go_before_the_finalizer(bench: Bench) -> None:
    bench.store.failing = {"remove"}
    decision = Purge(bench.job(begun_body(**DELETED)), keep_output=False)
    with pytest.raises(StoreFailure):
        await bench.effects.apply(decision, bench.api)
    assert not bench.server.log
    assert bench.posted.events == [("Warning", "FilesNotRemoved")], "whoever waits for the deletion sees why"
    bench.store.failing = set()
    await bench.effects.apply(decision, bench.api)
    assert bench.store.calls == [("remove", "p", False, False)]
    assert bench.server.read(VIDEO_JOBS, "a")["metadata"]["finalizers"] == []


async def test_only_our_finalizer_goes(bench: Bench) -> None:
    body = begun_body(**DELETED, finalizers=["example.com/x", FINALIZER])
    await bench.effects.apply(Purge(bench.job(body), keep_output=True), bench.api)
    assert bench.server.read(VIDEO_JOBS, "a")["metadata"]["finalizers"] == ["example.com/x"]


async def test_a_deleted_job_is_swept_once_more_in_every_store(bench: Bench) -> None:
    earlier = [
        {"pool": "old", "storeURI": "s3://old/team/a", "until": SOON},
        {"pool": "older", "storeURI": "s3://older/team/a", "until": PAST},
    ]
    body = begun_body(**DELETED, status={"cutOffUntil": SOON, "earlierStores": earlier})
    job = bench.job(body)
    await bench.effects.apply(Purge(job, keep_output=False), bench.api)
    assert bench.store.calls == [
        ("sweep_later", "p", 1, job.cut_off_until),
        ("close", "p", 1),
        ("remove", "p", False, True),
        ("sweep_later", "old", 1, job.cut_off_until),
        ("close", "old", 1),
        ("remove", "old", False, True),
        ("remove", "older", False, False),
    ]


async def test_a_video_that_stays_is_never_closed(bench: Bench) -> None:
    """It would count no more, and be removed with the chunks."""
    job = bench.job(begun_body(**DELETED, status={"phase": "Succeeded", "cutOffUntil": SOON}))
    await bench.effects.apply(Purge(job, keep_output=True), bench.api)
    assert bench.store.calls == [("purge_later", "p", job.cut_off_until), ("remove", "p", True, False)]


async def test_files_that_are_left_behind_are_reported(bench: Bench) -> None:
    bench.store.gives_up = "They were left behind."
    await bench.effects.apply(Purge(bench.job(begun_body(**DELETED)), keep_output=False), bench.api)
    assert ("Warning", "FilesOrphaned") in bench.posted.events


@pytest.mark.parametrize(("committed", "summary"), [(2, "2/5"), (FINISHED, "5/5")])
async def test_a_job_with_chunks_in_the_store_stays_with_its_pool(bench: Bench, committed: int, summary: str) -> None:
    bench.store.chunks = committed
    await bench.effects.apply(LeavePool(bench.job(begun_body(status={"progress": {}}))), bench.api)
    status = bench.status()
    assert status["pool"] == "p"
    assert (status["progress"]["chunksDone"], status["progress"]["summary"]) == (min(committed, 5), summary)
    assert bench.store.calls == [("committed", "p")]


async def test_a_job_without_chunks_in_the_store_may_leave_it(bench: Bench) -> None:
    await bench.effects.apply(LeavePool(bench.job(begun_body(status={"progress": {}}))), bench.api)
    assert "pool" not in bench.status()
    assert "storeURI" not in bench.status()
    assert not bench.status().get("earlierStores")
    assert bench.store.calls == [("committed", "p"), ("purge", "p", False, False)]


async def test_a_job_leaves_its_store_closed_and_known_where_a_runner_is_cut_off(bench: Bench) -> None:
    body = begun_body(status={"progress": {}, "cutOffUntil": SOON})
    await bench.effects.apply(LeavePool(bench.job(body)), bench.api)
    assert bench.store.calls == [("committed", "p"), ("close", "p", 1), ("purge", "p", False, True)]
    assert [one["storeURI"] for one in bench.status()["earlierStores"]] == [f"{STORE}/team/a"]
    assert "cutOffUntil" not in bench.status()


@pytest.mark.parametrize("failing", ["committed", "close", "purge"])
async def test_a_job_stays_where_it_is_while_its_store_does_not_answer(bench: Bench, failing: str) -> None:
    bench.store.failing = {failing}
    body = begun_body(status={"progress": {}, "cutOffUntil": SOON})
    with pytest.raises(StoreFailure):
        await bench.effects.apply(LeavePool(bench.job(body)), bench.api)
    assert not bench.server.log


@pytest.mark.parametrize(
    ("phase", "calls"),
    [
        ("Succeeded", [("purge", "old", False, False), ("purge", "p", True, False)]),
        ("Cancelled", [("purge", "old", False, False)]),
        ("Suspended", [("purge", "old", False, False)]),
    ],
)
async def test_what_was_added_late_is_swept(bench: Bench, phase: str, calls: list[Any]) -> None:
    """What a job that has not succeeded has in its own folder is its progress, or what it keeps."""
    earlier = [
        {"pool": "old", "storeURI": "s3://old/team/a", "until": PAST},
        {"pool": "new", "storeURI": "s3://new/team/a", "until": SOON},
        {"pool": "p", "storeURI": f"{STORE}/team/a", "until": PAST},
    ]
    end = {} if phase == "Suspended" else {"completionTime": "2026-11-22T12:00:00Z"}
    status = {"phase": phase, "cutOffUntil": PAST, "earlierStores": earlier, **end}
    await bench.effects.apply(Sweep(bench.job(begun_body(status=status))), bench.api)
    assert bench.store.calls == calls
    assert "cutOffUntil" not in bench.status()
    assert [one["pool"] for one in bench.status()["earlierStores"]] == ["new"]
