"""Which waiting jobs get a replica, and why the others wait: a book in, decisions out."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.planner.builders import (
    MOMENT,
    NOW,
    RESOLVED,
    ago,
    applied,
    begun,
    book,
    held,
    job,
    loaded,
    model,
    pool,
    queue,
    replica,
)
from tests.planner.deciding import assigned, brief, decided
from videojob.api.reasons import Reason
from videojob.api.replica import HeldJob, ModelState
from videojob.api.videojob import Phase
from videojob.planner.book import Book
from videojob.planner.decisions import Assign, Cancel, Purge, Release, Wait
from videojob.planner.facts import Job, Moment, ReplicaKey
from videojob.planner.rules import Rules


def reason(found: Book) -> tuple[Reason, str]:
    """Why the only job waits."""
    (decision,) = decided(found)
    assert isinstance(decision, Wait)
    return decision.reason, decision.message


def unread() -> Any:
    """A replica that has not read the weights of its model, because nobody needed it yet."""
    return replica(models=(loaded(state=ModelState.UNLOADED, digest=""),))


@pytest.mark.parametrize("digest", ["", RESOLVED.weights_digest])
def test_weights_that_nobody_has_read_yet_may_be_those_of_any_job(digest: str) -> None:
    """The replica reads them when it loads the model, and hands a job back that has begun with others."""
    waiting = replace(begun(), resolved=RESOLVED.model_copy(update={"weights_digest": digest}))
    for found in (job(), waiting):
        (decision,) = decided(book(found, replicas={"p/r0": unread()}))
        assert isinstance(decision, Assign)
        assert decision.resolved.weights_digest == (digest if found is waiting else "")


def test_a_job_that_no_replica_has_read_weights_for_takes_those_of_any() -> None:
    waiting = replace(begun(), resolved=RESOLVED.model_copy(update={"weights_digest": ""}))
    assert assigned(book(waiting)) == {"a": "p/r0"}


@pytest.mark.parametrize(
    ("others", "place"),
    [
        pytest.param({"p/r1": replica()}, "p/r1", id="the other one"),
        pytest.param({"p/r1": replica(slots=0)}, None, id="the other one is busy: the job waits for it"),
        pytest.param({"p/r1": replica(draining=True)}, "p/r0", id="the other one is about to go"),
        pytest.param({"p/r1": replica(live=False)}, "p/r0", id="the other one is silent"),
        pytest.param({"p/r1": replica(accelerator_error="It fails.")}, "p/r0", id="the other one is broken"),
        pytest.param({}, "p/r0", id="there is no other one"),
    ],
)
@pytest.mark.parametrize("name", ["new", "begun"])
def test_a_job_is_not_given_back_to_the_replica_that_it_failed_on(
    others: dict[str, Any], place: str | None, name: str
) -> None:
    """One whose accelerator is broken is always free: else it would get the job until its attempts are used up."""
    found = job if name == "new" else begun
    failed, pools = found(failed_on=ReplicaKey("p", "r0")), [pool(replicas=("r0", "r1"))]
    assert assigned(book(failed, pools=pools, replicas={"p/r0": replica()} | others)) == ({"a": place} if place else {})


def test_a_broken_replica_fails_each_job_at_most_once() -> None:
    """Twenty jobs, two replicas of one slot, of which `r0` fails at once all that it gets."""
    waiting = {name: job(name, created=ago(60 - index)) for index, name in enumerate("abcdefghijklmnopqrst")}
    failures: Counter[str] = Counter()
    pools, rounds = [pool(replicas=("r0", "r1"), max_jobs=1)], 0
    while waiting:
        rounds += 1
        places = assigned(book(*waiting.values(), pools=pools, replicas={"p/r0": replica(), "p/r1": replica()}))
        assert "p/r1" in places.values(), "the good replica idles"
        for name, place in places.items():
            if place == "p/r1":
                del waiting[name]
            else:
                failures[name] += 1
                waiting[name] = replace(waiting[name], failed_on=ReplicaKey("p", "r0"))
    assert rounds == 20
    assert set(failures.values()) == {1}


def test_the_shortest_shot_has_one_frame() -> None:
    (decision,) = decided(book(job(seconds=0.001)))
    assert isinstance(decision, Assign)
    assert (decision.resolved.frames, decision.resolved.chunks) == (1, 1)


def test_what_was_resolved_stays_as_it_is() -> None:
    limits = {"max_width": 16, "max_height": 16}
    changed = model(limits=limits)
    (decision,) = decided(book(begun(), models=[changed]))
    assert isinstance(decision, Assign)
    assert decision.resolved is RESOLVED


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(book(job(), stop=None), Reason.QUEUE_NOT_FOUND, id="no queue"),
        pytest.param(book(job(), stop="Hold"), Reason.QUEUE_STOPPED, id="the queue holds its jobs"),
        pytest.param(book(job(), stop="HoldAndDrain"), Reason.QUEUE_STOPPED, id="the queue drains"),
        pytest.param(book(job(), models=[]), Reason.MODEL_NOT_FOUND, id="no model"),
        pytest.param(book(job(width=2048)), Reason.EXCEEDS_MODEL_LIMITS, id="too wide for the model"),
        pytest.param(book(job(seconds=61)), Reason.EXCEEDS_MODEL_LIMITS, id="too long for the model"),
        pytest.param(book(job(), pools=[]), Reason.POOL_NOT_FOUND, id="no pool"),
        pytest.param(book(job(), pools=[pool(models=["other"])]), Reason.POOL_NOT_FOUND, id="no pool lists the model"),
        pytest.param(
            book(job(), models=[model(precision="bfloat16")]),
            Reason.PRECISION_UNSUPPORTED,
            id="a cpu pool runs float32 only",
        ),
        pytest.param(book(job(), replicas={}), Reason.POOL_NOT_READY, id="no heartbeat"),
        pytest.param(book(job(), replicas={"p/r0": replica(live=False)}), Reason.POOL_NOT_READY, id="expired"),
        pytest.param(book(job(), replicas={"p/r0": replica(draining=True)}), Reason.POOL_NOT_READY, id="draining"),
        pytest.param(
            book(job(), replicas={"p/r0": replica(models=())}), Reason.POOL_NOT_READY, id="the model is not loaded"
        ),
        pytest.param(
            book(job(), replicas={"p/r0": replica(models=(loaded(state=ModelState.FAILED),))}),
            Reason.POOL_NOT_READY,
            id="the model does not load",
        ),
        pytest.param(
            book(job(), replicas={"p/r0": replica(models=(loaded(uid="old"),))}),
            Reason.POOL_NOT_READY,
            id="a model of that name is loaded, but an older one",
        ),
        pytest.param(
            book(job(), replicas={"p/r0": replica(store_error="disk full")}), Reason.POOL_NOT_READY, id="no store"
        ),
        pytest.param(
            book(job(), replicas={"p/r0": replica(jobs_error="gone")}), Reason.POOL_NOT_READY, id="a blind runner"
        ),
        pytest.param(
            book(job(), replicas={"p/r0": replica(triton_error="gone")}), Reason.POOL_NOT_READY, id="no Triton"
        ),
        pytest.param(
            book(job(), replicas={"p/r0": replica(accelerator_error="It fails.")}),
            Reason.POOL_NOT_READY,
            id="a broken accelerator",
        ),
        pytest.param(
            book(job(), replicas={"p/r0": replica(memory_bytes=10)}),
            Reason.INSUFFICIENT_MEMORY,
            id="too little memory",
        ),
        pytest.param(
            book(begun(), replicas={"p/r0": replica(models=(loaded(digest="sha256:bb"),))}),
            Reason.WEIGHTS_CHANGED,
            id="other weights than it has begun with",
        ),
        pytest.param(
            book(
                begun(),
                models=[model(uid="new")],
                replicas={"p/r0": replica(models=(loaded(uid="new"),))},
            ),
            Reason.WEIGHTS_CHANGED,
            id="another model under the old name",
        ),
        pytest.param(book(begun(pool="q")), Reason.POOL_NOT_FOUND, id="its finished chunks are in a pool that is gone"),
        pytest.param(
            book(begun(), pools=[pool(store="file:///other")]),
            Reason.POOL_NOT_FOUND,
            id="its finished chunks are in a store that its pool has left",
        ),
        pytest.param(
            book(begun(failures=1, reason="ChunkFailed", message="Broken.", since=ago(9))),
            Reason.BACKING_OFF,
            id="it failed a moment ago",
        ),
    ],
)
def test_why_a_job_waits(found: Book, expected: Reason) -> None:
    code, message = reason(found)
    assert code is expected
    assert message.endswith((".", "full", "gone", "loaded yet.", "load: "))


@pytest.mark.parametrize(
    ("found", "written"),
    [
        pytest.param(job(), False, id="queued, as its status has already"),
        pytest.param(job(reason="PoolNotReady"), True, id="another reason than before"),
        pytest.param(job(reason="PoolNotReady", created=ago(2)), False, id="not in the first seconds"),
        pytest.param(
            job(reason="PoolNotReady", since=ago(2)), False, id="not in the first seconds after a replica was lost"
        ),
    ],
)
def test_a_wait_is_written_only_where_it_has_changed(found: Job, written: bool) -> None:
    full = replica(slots=0)
    assert bool(decided(book(found, replicas={"p/r0": full}))) is written


@pytest.mark.parametrize(("failures", "seconds"), [(1, 10), (2, 20), (3, 40), (6, 320), (7, 600), (100, 600)], ids=str)
def test_pauses_double_up_to_ten_minutes(failures: int, seconds: float) -> None:
    assert Rules().backoff(failures) == seconds


@pytest.mark.parametrize("reason", ["ReplicaLost", "Drained", "QueueStopped"])
def test_a_lost_replica_costs_no_pause(reason: str) -> None:
    found = begun(failures=1, attempts=60, losses=3, reason=reason, since=ago(0))
    assert assigned(book(found)) == {"a": "p/r0"}


@pytest.mark.parametrize("reason", ["StoreUnavailable", "TritonUnavailable"])
def test_a_job_that_was_handed_back_for_what_may_last_pauses(reason: str) -> None:
    found = begun(reason=reason, message="It does not answer.", since=ago(9))
    (wait,) = decided(book(found))
    assert isinstance(wait, Wait)
    assert wait.reason == Reason.BACKING_OFF
    assert wait.message.startswith("The job was handed back; the next attempt starts at 2026-11-22T12:00:01Z.")
    assert assigned(book(replace(found, since=ago(10)))) == {"a": "p/r0"}


def test_a_job_that_backs_off_gets_the_reason_once() -> None:
    found = begun(failures=1, reason="ChunkFailed", message="Broken.", since=ago(5))
    (first,) = decided(book(found))
    assert isinstance(first, Wait)
    assert "ChunkFailed: Broken." in first.message
    waiting = replace(found, reason=first.reason.value, message=first.message)
    assert decided(book(waiting)) == []


def test_higher_priorities_then_older_jobs_come_first() -> None:
    jobs = [
        job("young", created=ago(1)),
        job("old", created=ago(9)),
        job("urgent", created=ago(1), priority=5),
        job("late", created=ago(1), priority=-1),
    ]
    order = list(assigned(book(*jobs, replicas={"p/r0": replica(slots=8)}, pools=[pool(max_jobs=8)])))
    assert order == ["urgent", "old", "young", "late"]


def test_jobs_go_where_most_is_free() -> None:
    found = book(
        held("x", replica="r0"),
        *(job(name, created=ago(9 - index)) for index, name in enumerate("abcdef")),
        pools=[pool(replicas=("r0", "r1", "r2"))],
        replicas={"p/r0": replica(), "p/r1": replica(), "p/r2": replica(slots=1)},
    )
    assert assigned(found) == {"a": "p/r1", "b": "p/r0", "c": "p/r1", "d": "p/r2"}


def test_endpoints_bound_the_slots_that_a_runner_offers() -> None:
    found = book(*(job(name) for name in "abc"), pools=[pool(max_jobs=1)], replicas={"p/r0": replica(slots=8)})
    assert len(assigned(found)) == 1


@pytest.mark.parametrize(
    ("uid", "attempt", "free"),
    [("uid-b", 1, 1), ("uid-c", 1, 2), ("uid-c", 2, 1), ("uid-d", 1, 2), ("uid-unknown", 1, 1)],
    ids=["there", "over", "assigned again", "ended", "not known"],
)
def test_a_job_that_was_assigned_unseen_takes_its_place(uid: str, attempt: int, free: int) -> None:
    """The watch of a leader that was a follower may have stood still; what a replica reports is newer then."""
    found = replica(slots=2)
    report = found.report.model_copy(update={"jobs": (HeldJob(uid=uid, attempt=attempt),)})
    ended = job("d", phase=Phase.SUCCEEDED, attempts=1, finalizers=())
    known = [held("b", attempts=1)] if uid == "uid-b" else [begun("c", attempts=1, suspend=True)]
    made = book(*known, ended, job("x"), job("y"), replicas={"p/r0": replace(found, report=report)})
    assert len([one for one in decided(made) if isinstance(one, Assign)]) == free


def test_a_replica_that_its_pool_does_not_list_gets_nothing() -> None:
    found = book(job(), replicas={"p/r9": replica(), "p/r0": replica(live=False)})
    assert assigned(found) == {}


def test_memory_bounds_the_jobs_of_a_replica() -> None:
    found = book(
        *(job(name) for name in "abcd"),
        pools=[pool(max_jobs=8)],
        replicas={"p/r0": replica(slots=8, memory_bytes=12)},
    )
    assert len(assigned(found)) == 2


def test_a_job_that_cannot_be_placed_holds_up_nobody() -> None:
    found = book(
        job("huge", width=4096, priority=9),
        job("homeless", model="none", priority=9),
        job("lost", queue="none", priority=9),
        job("fine"),
    )
    assert assigned(found) == {"fine": "p/r0"}


def test_busy_jobs_keep_their_place_and_are_left_alone() -> None:
    found = book(held("a", cancel=True), job("b"), job("c"), pools=[pool(max_jobs=1)], busy=("uid-a", "uid-b"))
    assert decided(found) == []


def test_a_job_that_is_being_assigned_takes_its_room() -> None:
    made = book(job("a"), job("b"), pools=[pool(max_jobs=1)])
    (first,) = decided(made)
    made.begin(first)
    assert decided(made) == []
    made.end(first)
    assert [brief(one) for one in decided(made)] == [brief(first)]


def test_the_order_of_needs() -> None:
    found = book(
        job("a"),
        held("b", cancel=True),
        job("c", cancel=True),
        job("d", reason="Suspended", model="none"),
        job("e", deleted=True, finalizers=("videojob.dev/files",)),
    )
    assert [type(decision) for decision in decided(found)] == [Release, Purge, Cancel, Assign, Wait]


def test_a_plan_that_was_carried_out_is_followed_by_an_empty_one() -> None:
    found = book(job("a"), job("b"), job("c"))
    after = applied(found, decided(found))
    assert not [decision for decision in decided(after) if not isinstance(decision, Wait)]


class TestManyJobs:
    """What concerns every job is written bit by bit, and holds up nobody."""

    def test_the_statuses_of_a_plan_are_bounded(self) -> None:
        jobs = [job(f"j{number:03}") for number in range(200)]
        made = book(*jobs, replicas={})
        assert len(decided(made)) == Rules().waits_per_plan

    def test_patience_is_waited_for(self) -> None:
        made = book(job("a", created=ago(1)), replicas={})
        assert decided(made) == []
        later = Moment(ago(-2), MOMENT.mono + 2)
        assert [type(one) for one in decided(made, later)] == [Wait]

    def test_each_need_is_bounded(self) -> None:
        rules = Rules(decisions_per_need=3)
        made = book(*(job(f"j{number}", cancel=True) for number in range(9)), rules=rules)
        assert len(decided(made)) == 3


def test_queues_with_one_name_in_two_namespaces() -> None:
    mine = queue("Hold")
    theirs = mine.model_copy(
        update={
            "metadata": mine.metadata.model_copy(update={"namespace": "other", "uid": "uid-other"}),
            "spec": queue().spec,
        }
    )
    made = book(job("a"), job("b", namespace="other"), queues=[mine, theirs])
    assert assigned(made) == {"b": "p/r0"}
    assert MOMENT.wall == NOW
