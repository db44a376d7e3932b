"""Decisions as writes: each on the record that it was made on, and on no other (finding 7 of issue 7)."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.controller.bench import Bench
from tests.controller.objects import (
    STORE,
    Json,
    begun_body,
    held_body,
    job_body,
)
from tests.planner.builders import NOW, RESOLVED
from videojob.api.reasons import Reason
from videojob.controller.leading import DeposedError
from videojob.kube.client import (
    VIDEO_JOBS,
    KubeError,
)
from videojob.planner.decisions import (
    Adopt,
    Assign,
    Cancel,
    Cause,
    Expire,
    Fail,
    JobDecision,
    LeavePool,
    Observe,
    Purge,
    Reclaim,
    Release,
    Resume,
    Suspend,
    Sweep,
    Wait,
)
from videojob.planner.facts import Job, ReplicaKey

R0 = ReplicaKey("p", "r0")
DONE: Json = {"phase": "Succeeded", "completionTime": "2026-11-22T12:00:00Z"}
SOON = (NOW + timedelta(seconds=600)).isoformat()
PAST = (NOW - timedelta(seconds=600)).isoformat()
Make = Callable[[Job], JobDecision]


def assign(job: Job) -> JobDecision:
    return Assign(job, R0, RESOLVED, f"{STORE}/team/{job.uid}")


WAITING: list[tuple[str, Json, Make]] = [
    ("assign", begun_body(), assign),
    ("assign-new", job_body(finalizers=[]), assign),
    ("wait", begun_body(), lambda job: Wait(job, Reason.POOL_EMPTY, "No replica.")),
    ("suspend", begun_body(spec={"suspend": True}), Suspend),
    ("resume", begun_body(status={"phase": "Suspended"}), Resume),
    ("cancel", begun_body(spec={"cancel": True}), Cancel),
    ("fail", begun_body(), lambda job: Fail(job, Reason.DEADLINE_EXCEEDED, "Too long.")),
    ("observe", begun_body(status={"phase": "Suspended"}, spec={"suspend": True}, generation=3), Observe),
    ("adopt", begun_body(finalizers=["example.com/x"]), Adopt),
    ("expire", held_body(status=DONE | {"assignment": None}, spec={"ttlSecondsAfterFinished": 60}), Expire),
    ("purge", begun_body(deletionTimestamp="2026-11-22T12:00:00Z"), lambda job: Purge(job, keep_output=False)),
    ("leave-pool", begun_body(status={"progress": {"chunksDone": 0}}), LeavePool),
    ("sweep", begun_body(status={"phase": "Suspended", "cutOffUntil": PAST}, spec={"suspend": True}), Sweep),
]
HELD: list[tuple[str, Json, Make]] = [
    ("release", held_body(), lambda job: Release(job, Reason.SUSPENDED)),
    ("reclaim-lost", held_body(), lambda job: Reclaim(job, Cause.LOST, 1800)),
    ("reclaim-unclaimed", held_body(), lambda job: Reclaim(job, Cause.UNCLAIMED, 0)),
    ("reclaim-overdue", held_body(release="Drained"), lambda job: Reclaim(job, Cause.OVERDUE, 1800)),
]


def ids(cases: list[tuple[str, Json, Make]]) -> list[str]:
    return [name for name, _, _ in cases]


@pytest.mark.parametrize(("name", "body", "make"), WAITING + HELD, ids=ids(WAITING + HELD))
async def test_a_decision_is_carried_out_on_what_it_was_made_on(
    bench: Bench, name: str, body: Json, make: Make
) -> None:
    await bench.effects.apply(make(bench.job(body)), bench.api)
    assert bench.server.written


@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize(("name", "body", "make"), WAITING, ids=ids(WAITING))
async def test_a_job_that_nobody_holds_must_not_have_changed_at_all(
    bench: Bench, name: str, body: Json, make: Make, seen: bool
) -> None:
    """However well the operator knows the newest version by then: it has decided on another one."""
    decision = make(bench.job(body))
    changed = body | {"metadata": body["metadata"] | {"resourceVersion": "50"}}
    bench.server.put(VIDEO_JOBS, changed)
    if seen:
        bench.intake.apply(VIDEO_JOBS, changed)
    with pytest.raises(KubeError) as raised:
        await bench.effects.apply(decision, bench.api)
    assert raised.value.conflict
    assert not bench.server.written


STALE: list[tuple[str, Json]] = [
    ("another attempt", held_body(version=50, status={"attempts": 2})),
    ("another replica", held_body(version=50, status={"assignment": {"pool": "p", "replica": "r1"}})),
    ("another pool", held_body(version=50, status={"assignment": {"pool": "q", "replica": "r0"}})),
    ("another spec", held_body(version=50, generation=2)),
    ("not held", begun_body(version=50)),
]


@pytest.mark.parametrize(("what", "now"), STALE, ids=[what for what, _ in STALE])
@pytest.mark.parametrize(("name", "body", "make"), HELD, ids=ids(HELD))
async def test_a_job_that_is_held_must_be_held_alike_and_want_the_same(
    bench: Bench, name: str, body: Json, make: Make, what: str, now: Json
) -> None:
    decision = make(bench.job(body))
    bench.server.put(VIDEO_JOBS, now)
    bench.intake.apply(VIDEO_JOBS, now)
    with pytest.raises(KubeError) as raised:
        await bench.effects.apply(decision, bench.api)
    assert raised.value.conflict
    assert not bench.server.written


@pytest.mark.parametrize(("name", "body", "make"), HELD, ids=ids(HELD))
async def test_progress_starves_no_decision(bench: Bench, name: str, body: Json, make: Make) -> None:
    decision = make(bench.job(body))
    progress = {"status": body["status"] | {"progress": {"chunksDone": 4}}}
    bench.server.put(VIDEO_JOBS, body | {"metadata": body["metadata"] | {"resourceVersion": "50"}} | progress)
    await bench.effects.apply(decision, bench.api)
    assert bench.server.written
    assert bench.status()["progress"] == {"chunksDone": 4}, "and what the runner wrote stays"


async def test_nothing_slips_in_between_the_finalizer_and_the_assignment(bench: Bench) -> None:
    decision = assign(bench.job(job_body(finalizers=[])))

    def suspended(verb: str, kind: object, name: str) -> None:
        if len(bench.server.written) == 1:
            body = bench.server.read(VIDEO_JOBS, "a")
            body["metadata"] |= {"resourceVersion": "900", "generation": 2}
            body["spec"]["suspend"] = True

    bench.server.before = suspended
    with pytest.raises(KubeError):
        await bench.effects.apply(decision, bench.api)
    assert "assignment" not in bench.status()


async def test_who_does_not_lead_sends_nothing(bench: Bench) -> None:
    api = bench.api
    bench.leader.leading = False
    with pytest.raises(DeposedError):
        await bench.effects.apply(assign(bench.job(job_body())), api)
    assert not bench.server.log


async def test_who_is_deposed_in_the_middle_sends_nothing_more(bench: Bench) -> None:
    """Even who leads again by then: another one may have led in between."""
    api = bench.api

    def deposed(verb: str, kind: object, name: str) -> None:
        bench.leader.term += 1

    bench.server.before = deposed
    with pytest.raises(DeposedError):
        await bench.effects.apply(assign(bench.job(job_body(finalizers=[]))), api)
    assert len(bench.server.log) == 1


async def test_who_is_deposed_while_the_store_is_slow_removes_and_writes_nothing(bench: Bench) -> None:
    api = bench.api

    async def slow(prefix: object, attempt: int) -> None:
        bench.leader.leading = False

    bench.store.close = slow  # type: ignore[method-assign]
    with pytest.raises(DeposedError):
        await bench.effects.apply(LeavePool(bench.job(begun_body(status={"progress": {}, "cutOffUntil": SOON}))), api)
    assert bench.store.calls == [("committed", "p")]
    assert not bench.server.log


# What jobs become


async def test_a_lost_replica_costs_no_failure_and_may_still_add_files(bench: Bench) -> None:
    await bench.effects.apply(Reclaim(bench.job(held_body()), Cause.LOST, 1800), bench.api)
    status = bench.status()
    assert (status["reason"], status["losses"], status.get("failures", 0)) == ("ReplicaLost", 1, 0)
    assert status["cutOffUntil"] == "2026-11-22T12:30:00Z"
    assert bench.posted.events == [("Warning", "ReplicaLost")]


async def test_a_job_that_nobody_works_on_counts_as_a_failure_of_the_runner(bench: Bench) -> None:
    await bench.effects.apply(Reclaim(bench.job(held_body()), Cause.UNCLAIMED, 0), bench.api)
    status = bench.status()
    assert (status["reason"], status["failures"]) == ("RunnerError", 1)
    assert "does not work on the job" in bench.condition("Assigned")["message"]
    assert "cutOffUntil" not in status


async def test_what_an_overdue_release_asked_for_is_done_after_the_store_was_closed(bench: Bench) -> None:
    job = bench.job(held_body(release="Cancelled", spec={"cancel": True}))
    await bench.effects.apply(Reclaim(job, Cause.OVERDUE, 1800), bench.api)
    assert bench.status()["phase"] == "Cancelled"
    assert bench.store.calls == [("close", "p", 1)]


async def test_an_attempt_may_count_after_all(bench: Bench) -> None:
    await bench.effects.apply(Wait(bench.job(begun_body()), Reason.BACKING_OFF, "It pauses.", counts=True), bench.api)
    assert bench.status()["failures"] == 1


async def test_observing_restamps_and_changes_nothing_else(bench: Bench) -> None:
    condition = {
        "type": "Suspended",
        "status": "True",
        "reason": "Suspended",
        "message": "",
        "lastTransitionTime": "2026-11-22T11:00:00Z",
        "observedGeneration": 1,
    }
    body = begun_body(status={"phase": "Suspended", "conditions": [condition]}, spec={"suspend": True}, generation=3)
    await bench.effects.apply(Observe(bench.job(body)), bench.api)
    assert bench.status()["observedGeneration"] == 3
    assert bench.condition("Suspended") == condition | {"observedGeneration": 3}


async def test_the_answer_of_a_write_is_known_at_once(bench: Bench) -> None:
    await bench.effects.apply(assign(bench.job(begun_body())), bench.api)
    assert bench.book.jobs["a"].replica_key == R0


async def test_an_expired_job_is_deleted_with_its_version_as_a_precondition(bench: Bench) -> None:
    body = held_body(version=5, status=DONE | {"assignment": None}, spec={"ttlSecondsAfterFinished": 60})
    await bench.effects.apply(Expire(bench.job(body)), bench.api)
    assert bench.server.patches == [{"uid": "a", "resourceVersion": "5"}]
