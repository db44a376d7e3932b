"""What is decided, one case a line: a snapshot in, decisions out."""

from dataclasses import replace
from datetime import datetime

import pytest

from tests.planner.builders import NOW, RESOLVED, ago, applied, begun, held, job, loaded, model, pool, replica, snapshot
from videojob.api.conditions import Reason
from videojob.api.replica import ModelState
from videojob.api.videojob import Phase
from videojob.planner.decisions import (
    Assign,
    Cancel,
    Decision,
    Expire,
    Fail,
    Purge,
    Reclaim,
    Release,
    Resume,
    Suspend,
    Wait,
)
from videojob.planner.plan import Rules, plan
from videojob.planner.snapshot import Job, ReplicaKey, Snapshot


def decided(found: Snapshot, now: datetime = NOW) -> list[Decision]:
    return list(plan(found, now).decisions)


def assigned(found: Snapshot) -> dict[str, str]:
    """The replica of every job that is assigned, in the order of the decisions."""
    return {
        decision.uid.removeprefix("uid-"): "/".join(decision.replica)
        for decision in decided(found)
        if isinstance(decision, Assign)
    }


def reason(found: Snapshot) -> tuple[Reason, str]:
    (decision,) = decided(found)
    assert isinstance(decision, Wait)
    return decision.reason, decision.message


FINISHED = {"phase": Phase.SUCCEEDED, "completion_time": ago(100), "finalizer": True}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(job(deleted=True), [], id="a deleted job without our finalizer is none of our business"),
        pytest.param(
            job(deleted=True, finalizer=True), [Purge("uid-a", keep_output=False)], id="a deleted job loses its files"
        ),
        pytest.param(
            held(deleted=True), [Release("uid-a", Reason.DELETED)], id="a deleted job that runs is taken back first"
        ),
        pytest.param(
            job(deleted=True, **FINISHED), [Purge("uid-a", keep_output=True)], id="a succeeded job keeps its video"
        ),
        pytest.param(
            job(deleted=True, retain_output=False, **FINISHED),
            [Purge("uid-a", keep_output=False)],
            id="a succeeded job loses its video where it says Delete",
        ),
        pytest.param(
            job(deleted=True, **FINISHED | {"phase": Phase.CANCELLED}),
            [Purge("uid-a", keep_output=False)],
            id="a cancelled job that is deleted leaves nothing",
        ),
        pytest.param(job(**FINISHED), [], id="a finished job without a time to live stays"),
        pytest.param(
            job(ttl_seconds_after_finished=101, **FINISHED), [], id="a finished job stays for its time to live"
        ),
        pytest.param(
            job(ttl_seconds_after_finished=100, **FINISHED), [Expire("uid-a")], id="a finished job goes after its time"
        ),
        pytest.param(job(cancel=True), [Cancel("uid-a")], id="a waiting job is cancelled at once"),
        pytest.param(
            held(cancel=True), [Release("uid-a", Reason.CANCELLED)], id="a running job that is cancelled is taken back"
        ),
        pytest.param(held(cancel=True, release="Cancelled"), [], id="a replica is asked once"),
        pytest.param(job(cancel=True, suspend=True), [Cancel("uid-a")], id="cancel beats suspend"),
        pytest.param(job(suspend=True), [Suspend("uid-a")], id="a waiting job is suspended at once"),
        pytest.param(job(suspend=True, phase=Phase.SUSPENDED), [], id="a suspended job stays so"),
        pytest.param(
            held(suspend=True), [Release("uid-a", Reason.SUSPENDED)], id="a running job that is suspended is taken back"
        ),
        pytest.param(
            held(active_deadline_seconds=30),
            [Release("uid-a", Reason.DEADLINE_EXCEEDED)],
            id="a job that runs for too long is taken back",
        ),
        pytest.param(held(active_deadline_seconds=31), [], id="a job may run until its deadline"),
        pytest.param(
            begun(active_deadline_seconds=30),
            [
                Fail(
                    "uid-a",
                    Reason.DEADLINE_EXCEEDED,
                    "The job was active for longer than activeDeadlineSeconds (30 s).",
                )
            ],
            id="a job that waits for its next replica beyond its deadline fails",
        ),
        pytest.param(
            begun(failures=3, backoff_limit=2, reason="ChunkFailed", message="Chunk 1 broke."),
            [
                Fail(
                    "uid-a",
                    Reason.BACKOFF_LIMIT_EXCEEDED,
                    "3 attempts failed, backoffLimit is 2; the last one: ChunkFailed: Chunk 1 broke.",
                )
            ],
            id="a job that failed too often fails for good, and says of what",
        ),
        pytest.param(
            begun(attempts=70, losses=50, reason="ReplicaLost"),
            [
                Fail(
                    "uid-a",
                    Reason.REPLICA_LOSS_LIMIT_EXCEEDED,
                    "50 replicas were lost while they held the job: it may be what breaks them.",
                )
            ],
            id="a job that loses replica after replica is given up",
        ),
        pytest.param(held(replica="gone"), [Reclaim("uid-a")], id="a job is taken from a replica that has no Lease"),
        pytest.param(
            held(release="Suspended", replica="gone"), [Reclaim("uid-a")], id="also when it was asked to release"
        ),
        pytest.param(held(), [], id="a job that runs is left alone"),
    ],
)
def test_a_job_that_needs_no_replica(found: Job, expected: list[Decision]) -> None:
    assert decided(snapshot(found)) == expected


def test_a_lost_replica_loses_its_jobs_and_gets_no_others() -> None:
    found = snapshot(held("a"), job("b"), replicas={"p/r0": replica(live=False)})
    assert decided(found)[0] == Reclaim("uid-a")
    assert assigned(found) == {}


def test_a_job_that_starts_gets_everything_resolved() -> None:
    (decision,) = decided(snapshot(job(fps=10, seconds=2.26, width=64)))
    assert decision == Assign(
        "uid-a",
        ReplicaKey("p", "r0"),
        RESOLVED.model_copy(update={"fps": 10, "frames": 23, "width": 64, "chunks": 3}),
        "file:///store/team/uid-a",
    )


def test_the_shortest_shot_has_one_frame() -> None:
    (decision,) = decided(snapshot(job(seconds=0.001)))
    assert isinstance(decision, Assign)
    assert (decision.resolved.frames, decision.resolved.chunks) == (1, 1)


def test_what_was_resolved_stays_as_it_is() -> None:
    limits = {"max_width": 16, "max_height": 16}
    changed = model(limits=limits)
    (decision,) = decided(snapshot(begun(), models=[changed]))
    assert isinstance(decision, Assign)
    assert decision.resolved is RESOLVED


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(snapshot(job(), stop=None), Reason.QUEUE_NOT_FOUND, id="no queue"),
        pytest.param(snapshot(job(), stop="Hold"), Reason.QUEUE_STOPPED, id="the queue holds its jobs"),
        pytest.param(snapshot(job(), stop="HoldAndDrain"), Reason.QUEUE_STOPPED, id="the queue drains"),
        pytest.param(snapshot(job(), models=[]), Reason.MODEL_NOT_FOUND, id="no model"),
        pytest.param(snapshot(job(width=2048)), Reason.EXCEEDS_MODEL_LIMITS, id="too wide for the model"),
        pytest.param(snapshot(job(seconds=61)), Reason.EXCEEDS_MODEL_LIMITS, id="too long for the model"),
        pytest.param(snapshot(job(), pools=[]), Reason.NO_POOL, id="no pool"),
        pytest.param(snapshot(job(), pools=[pool(models=["other"])]), Reason.NO_POOL, id="no pool lists the model"),
        pytest.param(
            snapshot(job(), models=[model(precision="bfloat16")]),
            Reason.PRECISION_UNSUPPORTED,
            id="a cpu pool runs float32 only",
        ),
        pytest.param(snapshot(job(), replicas={}), Reason.POOL_NOT_READY, id="no heartbeat"),
        pytest.param(snapshot(job(), replicas={"p/r0": replica(live=False)}), Reason.POOL_NOT_READY, id="expired"),
        pytest.param(snapshot(job(), replicas={"p/r0": replica(draining=True)}), Reason.POOL_NOT_READY, id="draining"),
        pytest.param(
            snapshot(job(), replicas={"p/r0": replica(models=())}), Reason.POOL_NOT_READY, id="the model is not loaded"
        ),
        pytest.param(
            snapshot(job(), replicas={"p/r0": replica(models=(loaded(state=ModelState.FAILED),))}),
            Reason.POOL_NOT_READY,
            id="the model does not load",
        ),
        pytest.param(
            snapshot(job(), replicas={"p/r0": replica(models=(loaded(uid="old"),))}),
            Reason.POOL_NOT_READY,
            id="a model of that name is loaded, but an older one",
        ),
        pytest.param(
            snapshot(job(), replicas={"p/r0": replica(store_error="disk full")}), Reason.POOL_NOT_READY, id="no store"
        ),
        pytest.param(
            snapshot(job(), replicas={"p/r0": replica(triton_error="gone")}), Reason.POOL_NOT_READY, id="no Triton"
        ),
        pytest.param(
            snapshot(job(), replicas={"p/r0": replica(memory_bytes=10)}),
            Reason.INSUFFICIENT_MEMORY,
            id="too little memory",
        ),
        pytest.param(
            snapshot(begun(), replicas={"p/r0": replica(models=(loaded(digest="sha256:bb"),))}),
            Reason.WEIGHTS_CHANGED,
            id="other weights than it has begun with",
        ),
        pytest.param(
            snapshot(
                begun(),
                models=[model(uid="new")],
                replicas={"p/r0": replica(models=(loaded(uid="new"),))},
            ),
            Reason.WEIGHTS_CHANGED,
            id="another model under the old name",
        ),
        pytest.param(snapshot(begun(pool="q")), Reason.NO_POOL, id="its finished chunks are in a pool that is gone"),
        pytest.param(
            snapshot(begun(), pools=[pool(store="file:///other")]),
            Reason.NO_POOL,
            id="its finished chunks are in a store that its pool has left",
        ),
        pytest.param(
            snapshot(begun(failures=1, reason="ChunkFailed", message="Broken.", since=ago(9))),
            Reason.BACKING_OFF,
            id="it failed a moment ago",
        ),
    ],
)
def test_why_a_job_waits(found: Snapshot, expected: Reason) -> None:
    told, message = reason(found)
    assert told is expected
    assert message.endswith((".", "full", "gone", "loaded yet.", "load: "))


@pytest.mark.parametrize(
    ("found", "told"),
    [
        pytest.param(job(), False, id="queued, as it says already"),
        pytest.param(job(reason="PoolNotReady"), True, id="another reason than before"),
        pytest.param(job(reason="PoolNotReady", created=ago(2)), False, id="not in the first seconds"),
        pytest.param(
            job(reason="PoolNotReady", since=ago(2)), False, id="not in the first seconds after a replica was lost"
        ),
    ],
)
def test_a_wait_is_told_only_where_it_is_news(found: Job, told: bool) -> None:
    full = replica(slots=0)
    assert bool(decided(snapshot(found, replicas={"p/r0": full}))) is told


def test_the_next_plan_comes_when_time_alone_changes_something() -> None:
    young = job("a", created=ago(1), reason="PoolNotReady")
    failed = begun("b", failures=2, reason="ChunkFailed", message="Broken.", since=ago(5))
    running = held("c", active_deadline_seconds=60)
    done = job("d", ttl_seconds_after_finished=110, **FINISHED)
    for jobs, seconds in (((young,), 2), ((failed,), 15), ((running,), 30), ((done,), 10), ((young, failed), 2)):
        wake_at = plan(snapshot(*jobs, replicas={"p/r0": replica(slots=0)}), NOW).wake_at
        assert wake_at is not None
        assert (wake_at - NOW).total_seconds() == seconds


def test_nothing_to_do_wakes_nobody() -> None:
    assert plan(snapshot(held()), NOW).wake_at is None


@pytest.mark.parametrize(("failures", "seconds"), [(1, 10), (2, 20), (3, 40), (6, 320), (7, 360), (100, 360)], ids=str)
def test_pauses_after_failures_double_up_to_six_minutes(failures: int, seconds: float) -> None:
    assert Rules().backoff(failures) == seconds


@pytest.mark.parametrize("reason", ["ReplicaLost", "Drained", "QueueStopped"])
def test_a_lost_replica_costs_no_pause(reason: str) -> None:
    found = begun(failures=1, attempts=60, losses=3, reason=reason, since=ago(0))
    assert assigned(snapshot(found)) == {"a": "p/r0"}


@pytest.mark.parametrize("reason", ["StoreUnavailable", "TritonUnavailable"])
def test_a_job_that_was_handed_back_for_what_may_last_pauses(reason: str) -> None:
    found = begun(reason=reason, message="It does not answer.", since=ago(9))
    (told,) = decided(snapshot(found))
    assert isinstance(told, Wait)
    assert told.reason == Reason.BACKING_OFF
    assert told.message.startswith("The job was handed back; the next attempt starts at 2026-11-22T12:00:01Z.")
    assert assigned(snapshot(replace(found, since=ago(10)))) == {"a": "p/r0"}


def test_a_job_that_backs_off_says_so_once() -> None:
    found = begun(failures=1, reason="ChunkFailed", message="Broken.", since=ago(5))
    (first,) = decided(snapshot(found))
    assert isinstance(first, Wait)
    assert "ChunkFailed: Broken." in first.message
    told = replace(found, reason=first.reason.value, message=first.message)
    assert decided(snapshot(told)) == []


def test_a_resumed_job_starts_in_one_step() -> None:
    assert assigned(snapshot(begun(phase=Phase.SUSPENDED))) == {"a": "p/r0"}


def test_a_resumed_job_that_cannot_start_waits() -> None:
    found = snapshot(begun(phase=Phase.SUSPENDED), replicas={})
    assert decided(found) == [Resume("uid-a")]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        pytest.param("None", [], id="an open queue"),
        pytest.param("Hold", [], id="Hold lets running jobs go on"),
        pytest.param("HoldAndDrain", [Release("uid-a", Reason.QUEUE_STOPPED)], id="HoldAndDrain takes them back"),
    ],
)
def test_stop_policies(stop: str, expected: list[Decision]) -> None:
    assert decided(snapshot(held(), stop=stop)) == expected


def test_higher_priorities_then_older_jobs_come_first() -> None:
    jobs = [
        job("young", created=ago(1)),
        job("old", created=ago(9)),
        job("urgent", created=ago(1), priority=5),
        job("late", created=ago(1), priority=-1),
    ]
    order = list(assigned(snapshot(*jobs, replicas={"p/r0": replica(slots=8)}, pools=[pool(max_jobs=8)])))
    assert order == ["urgent", "old", "young", "late"]


def test_jobs_go_where_most_is_free() -> None:
    found = snapshot(
        held("x", replica="r0"),
        *(job(name, created=ago(9 - index)) for index, name in enumerate("abcdef")),
        pools=[pool(replicas=("r0", "r1", "r2"))],
        replicas={"p/r0": replica(), "p/r1": replica(), "p/r2": replica(slots=1)},
    )
    assert assigned(found) == {"a": "p/r1", "b": "p/r0", "c": "p/r1", "d": "p/r2"}


def test_endpoints_bound_the_slots_that_a_runner_offers() -> None:
    found = snapshot(*(job(name) for name in "abc"), pools=[pool(max_jobs=1)], replicas={"p/r0": replica(slots=8)})
    assert len(assigned(found)) == 1


def test_a_replica_that_its_pool_does_not_list_gets_nothing() -> None:
    found = snapshot(job(), replicas={"p/r9": replica(), "p/r0": replica(live=False)})
    assert assigned(found) == {}


def test_memory_bounds_the_jobs_of_a_replica() -> None:
    found = snapshot(
        *(job(name) for name in "abcd"),
        pools=[pool(max_jobs=8)],
        replicas={"p/r0": replica(slots=8, memory_bytes=12)},
    )
    assert len(assigned(found)) == 2


def test_a_job_that_cannot_be_placed_holds_up_nobody() -> None:
    found = snapshot(
        job("huge", width=4096, priority=9),
        job("homeless", model="none", priority=9),
        job("lost", queue="none", priority=9),
        job("fine"),
    )
    assert assigned(found) == {"fine": "p/r0"}


def test_a_job_with_finished_chunks_stays_with_its_pool() -> None:
    pools = [pool("p"), pool("q")]
    replicas = {"p/r0": replica(slots=1), "q/r0": replica()}
    assert assigned(snapshot(begun(pool="p"), pools=pools, replicas=replicas)) == {"a": "p/r0"}
    assert assigned(snapshot(begun(pool="p", chunks_done=0), pools=pools, replicas=replicas)) == {"a": "q/r0"}


def test_busy_jobs_keep_their_place_and_are_left_alone() -> None:
    found = snapshot(held("a", cancel=True), job("b"), job("c"), pools=[pool(max_jobs=1)], busy=("uid-a", "uid-b"))
    assert decided(found) == []


def test_what_frees_a_replica_comes_before_what_fills_one() -> None:
    found = snapshot(
        job("a"),
        held("b", cancel=True),
        job("c", cancel=True),
        job("d", reason="Suspended", model="none"),
        job("e", deleted=True, finalizer=True),
    )
    assert [type(decision) for decision in decided(found)] == [Release, Cancel, Assign, Purge, Wait]


def test_a_plan_that_was_carried_out_is_followed_by_an_empty_one() -> None:
    found = snapshot(job("a"), job("b"), job("c"))
    first = plan(found, NOW)
    assert not [
        decision for decision in plan(applied(found, first.decisions), NOW).decisions if not isinstance(decision, Wait)
    ]
