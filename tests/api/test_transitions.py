"""The transitions of a job's status, from creation to its end, as tables."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from videojob.api import transitions
from videojob.api.conditions import MESSAGE_LIMIT, ConditionType, find, is_true, set_condition
from videojob.api.patch import attempt_fence, status_patch, version_fence
from videojob.api.reasons import Reason
from videojob.api.videojob import (
    MAX_EARLIER_STORES,
    Cost,
    EarlierStore,
    OutputStatus,
    Phase,
    Progress,
    ReplicaRef,
    Resolved,
    Timing,
    VideoJobStatus,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=5)
CUT_OFF = NOW + timedelta(minutes=30)
RESOLVED = Resolved(
    width=96,
    height=96,
    fps=16,
    steps=2,
    guidance_scale=1.0,
    seed=7,
    frames=13,
    chunks=2,
    model_uid="m",
    model_generation=1,
    weights_digest="sha256:0",
)
OUTPUT = OutputStatus(uri="file:///v.mp4", sha256="0", size_bytes=1, frames=13, duration_seconds=0.8125)


def on_replica(status: VideoJobStatus | None = None, now: datetime = NOW, generation: int = 1) -> VideoJobStatus:
    return transitions.assigned(
        status or VideoJobStatus(),
        pool="p",
        replica="r",
        resolved=RESOLVED,
        store_uri="file:///s",
        now=now,
        generation=generation,
    )


def at_work() -> VideoJobStatus:
    return transitions.running(on_replica(), now=NOW, generation=1)


@pytest.mark.parametrize(
    ("ended", "phase", "condition", "reason"),
    [
        pytest.param(
            transitions.succeeded(at_work(), output=OUTPUT, now=LATER, generation=1),
            Phase.SUCCEEDED,
            ConditionType.COMPLETE,
            Reason.SUCCEEDED,
            id="success",
        ),
        pytest.param(
            transitions.failed(at_work(), reason=Reason.PROMPT_TOO_LONG, message="…", now=LATER, generation=1),
            Phase.FAILED,
            ConditionType.FAILED,
            Reason.PROMPT_TOO_LONG,
            id="failure",
        ),
        pytest.param(
            transitions.released(at_work(), reason="Cancelled", now=LATER, generation=1),
            Phase.CANCELLED,
            ConditionType.CANCELLED,
            Reason.CANCELLED,
            id="cancel",
        ),
        pytest.param(
            transitions.released(at_work(), reason="DeadlineExceeded", now=LATER, generation=1),
            Phase.FAILED,
            ConditionType.FAILED,
            Reason.DEADLINE_EXCEEDED,
            id="deadline",
        ),
    ],
)
def test_an_end_is_one_true_condition_and_no_replica(
    ended: VideoJobStatus, phase: Phase, condition: ConditionType, reason: Reason
) -> None:
    assert ended.phase is phase
    assert ended.phase.finished
    assert ended.reason == reason
    assert ended.assignment is None
    assert ended.completion_time == LATER
    assert [one.type for one in ended.conditions if one.status == "True"] == [condition]


@pytest.mark.parametrize(
    ("reason", "phase"),
    [
        ("Drained", Phase.PENDING),
        ("ReplicaLost", Phase.PENDING),
        ("Deleted", Phase.PENDING),
        ("Suspended", Phase.SUSPENDED),
    ],
)
def test_a_job_that_is_given_back_keeps_what_it_has(reason: str, phase: Phase) -> None:
    back = transitions.released(at_work(), reason=reason, now=LATER, generation=1)
    assert back.phase is phase
    assert back.assignment is None
    assert back.reason == reason
    assert (back.attempts, back.failures, back.resolved) == (1, 0, RESOLVED)
    assert not is_true(back.conditions, ConditionType.RUNNING)


def test_a_release_for_a_reason_of_a_newer_operator_is_a_drain() -> None:
    assert transitions.released(at_work(), reason="Preempted42", now=LATER, generation=1).reason == Reason.DRAINED


BACK: dict[str, Any] = {"now": LATER, "generation": 1}


@pytest.mark.parametrize(
    ("returned", "hand_backs", "losses", "failures", "failed_on"),
    [
        (lambda job: transitions.waiting(job, reason=Reason.STORE_UNAVAILABLE, message="x", **BACK), 1, 0, 0, False),
        (lambda job: transitions.waiting(job, reason=Reason.TRITON_UNAVAILABLE, message="x", **BACK), 1, 0, 0, True),
        (lambda job: transitions.waiting(job, reason=Reason.ACCELERATOR_FAILED, message="x", **BACK), 1, 0, 0, True),
        (lambda job: transitions.waiting(job, reason=Reason.DISK_UNAVAILABLE, message="x", **BACK), 1, 0, 0, True),
        (lambda job: transitions.waiting(job, reason=Reason.WEIGHTS_CHANGED, message="x", **BACK), 0, 0, 0, False),
        (lambda job: transitions.waiting(job, reason=Reason.DRAINED, message="x", **BACK), 0, 0, 0, False),
        (lambda job: transitions.waiting(job, reason=Reason.REPLICA_LOST, message="x", **BACK), 0, 1, 0, False),
        (lambda job: transitions.released(job, reason="Drained", **BACK), 0, 0, 0, False),
        (lambda job: transitions.reclaimed(job, message="x", cut_off_until=None, **BACK), 0, 1, 0, False),
        (lambda job: transitions.attempt_failed(job, reason=Reason.CHUNK_FAILED, message="x", **BACK), 0, 0, 1, True),
    ],
)
def test_what_a_return_counts_for(
    returned: Callable[[VideoJobStatus], VideoJobStatus], hand_backs: int, losses: int, failures: int, failed_on: bool
) -> None:
    back = returned(at_work())
    assert (back.hand_backs, back.losses, back.failures) == (hand_backs, losses, failures)
    assert back.failed_on == (ReplicaRef(pool="p", replica="r") if failed_on else None)


def test_the_replica_that_a_job_last_failed_on_is_remembered() -> None:
    failed = transitions.attempt_failed(at_work(), reason=Reason.CHUNK_FAILED, message="x", **BACK)
    waits = transitions.waiting(failed, reason=Reason.QUEUED, message="x", **BACK)
    moved = transitions.waiting(on_replica(waits), reason=Reason.DRAINED, message="x", **BACK)
    assert failed.failed_on == waits.failed_on == moved.failed_on == ReplicaRef(pool="p", replica="r")


def test_hand_backs_count_in_a_row_and_from_zero_with_progress() -> None:
    status = VideoJobStatus()
    for times in (1, 2, 3):
        status = transitions.waiting(on_replica(status), reason=Reason.STORE_UNAVAILABLE, message="x", **BACK)
        assert status.hand_backs == times
    assert transitions.waiting(status, reason=Reason.BACKING_OFF, message="x", **BACK).hand_backs == 3
    assert report(on_replica(status), chunks_done=0).hand_backs == 3
    assert report(on_replica(status), chunks_done=1).hand_backs == 0


def report(status: VideoJobStatus, chunks_done: int, generation: int = 1) -> VideoJobStatus:
    return transitions.progressed(
        status,
        progress=Progress(chunks_done=chunks_done, chunks_total=2),
        timing=Timing(),
        cost=Cost(),
        drift=None,
        estimated_completion_time=None,
        generation=generation,
    )


@pytest.mark.parametrize(
    ("release", "phase", "losses"),
    [(None, "Pending", 1), ("Cancelled", "Cancelled", 0), ("Suspended", "Suspended", 0), ("Drained", "Pending", 0)],
)
def test_a_lost_replica_may_still_add_files(release: str | None, phase: str, losses: int) -> None:
    held = at_work()
    assert held.assignment is not None
    asked = held.model_copy(update={"assignment": held.assignment.model_copy(update={"release": release})})
    back = transitions.reclaimed(asked, message="x", cut_off_until=CUT_OFF, **BACK)
    assert (back.phase, back.losses, back.cut_off_until, back.assignment) == (phase, losses, CUT_OFF, None)


def test_of_two_lost_replicas_the_later_one_counts() -> None:
    once = transitions.reclaimed(at_work(), message="x", cut_off_until=CUT_OFF, **BACK)
    for second in (None, LATER):
        twice = transitions.reclaimed(on_replica(once), message="x", cut_off_until=second, **BACK)
        assert (twice.cut_off_until, twice.losses) == (CUT_OFF, 2)


def move(status: VideoJobStatus, number: int) -> VideoJobStatus:
    return transitions.assigned(
        status, pool=f"p{number}", replica="r", resolved=RESOLVED, store_uri=f"file:///{number}", **BACK
    )


def test_a_job_that_comes_back_to_an_earlier_folder_has_it_as_its_own() -> None:
    """Whatever is removed of earlier folders must not be the video that was made there afterwards."""
    earlier = (
        EarlierStore(pool="p", store_uri="file:///s", until=CUT_OFF),
        EarlierStore(pool="q", store_uri="file:///t", until=CUT_OFF),
    )
    back = on_replica(VideoJobStatus(attempts=2, earlier_stores=earlier))
    assert back.store_uri == "file:///s"
    assert back.earlier_stores == earlier[1:]
    assert back.cut_off_until == CUT_OFF


def test_a_move_keeps_the_earlier_folder_until_it_is_swept() -> None:
    lost = transitions.reclaimed(at_work(), message="x", cut_off_until=CUT_OFF, **BACK)
    moved = move(lost, 2)
    assert moved.store_uri == "file:///2"
    assert moved.earlier_stores == (EarlierStore(pool="p", store_uri="file:///s", until=CUT_OFF),)
    assert moved.cut_off_until is None
    assert transitions.swept(moved, now=LATER, generation=1) == moved
    assert transitions.swept(moved, now=CUT_OFF, generation=1).earlier_stores == ()
    assert on_replica(lost).cut_off_until == CUT_OFF
    assert on_replica(lost).earlier_stores == ()
    assert transitions.swept(lost, now=LATER, generation=1) == lost
    assert transitions.swept(lost, now=CUT_OFF, generation=1).cut_off_until is None


def test_moves_have_a_bound() -> None:
    status = move(VideoJobStatus(), 0)
    for number in range(1, MAX_EARLIER_STORES + 1):
        assert transitions.may_move(status)
        status = move(status, number)
    assert not transitions.may_move(status)
    with pytest.raises(ValueError, match="not purged yet"):
        move(status, 99)
    assert move(status, MAX_EARLIER_STORES).attempts == status.attempts + 1


EVERY: list[Callable[[VideoJobStatus, int], VideoJobStatus]] = [
    transitions.observed,
    lambda job, new: on_replica(job, generation=new),
    lambda job, new: transitions.running(job, now=LATER, generation=new),
    lambda job, new: transitions.loading(job, message="x", now=LATER, generation=new),
    lambda job, new: report(job, 1, new),
    lambda job, new: transitions.waiting(job, reason=Reason.DRAINED, message="x", now=LATER, generation=new),
    lambda job, new: transitions.attempt_failed(job, reason=Reason.DRAINED, message="x", now=LATER, generation=new),
    lambda job, new: transitions.reclaimed(job, message="x", cut_off_until=CUT_OFF, now=LATER, generation=new),
    lambda job, new: transitions.swept(job, now=LATER, generation=new),
    lambda job, new: transitions.suspended(job, now=LATER, generation=new),
    lambda job, new: transitions.resumed(job, now=LATER, generation=new),
    lambda job, new: transitions.succeeded(job, output=OUTPUT, now=LATER, generation=new),
    lambda job, new: transitions.failed(job, reason=Reason.PROMPT_TOO_LONG, message="x", now=LATER, generation=new),
    lambda job, new: transitions.cancelled(job, now=LATER, generation=new),
    *(
        lambda job, new, reason=reason: transitions.released(job, reason=reason, now=LATER, generation=new)
        for reason in ("Cancelled", "Suspended", "DeadlineExceeded", "Drained", "Preempted42")
    ),
]


@pytest.mark.parametrize("transition", EVERY)
@pytest.mark.parametrize(("acted_on", "stamped"), [(7, 7), (5, 5), (3, 5)], ids=["newer", "same", "older"])
def test_every_transition_stamps_all_conditions_and_never_goes_back(
    transition: Callable[[VideoJobStatus, int], VideoJobStatus], acted_on: int, stamped: int
) -> None:
    before = transitions.observed(transitions.resumed(at_work(), now=NOW, generation=5), 5)
    after = transition(on_replica(before, generation=5), acted_on)
    assert after.observed_generation == stamped
    assert {one.observed_generation for one in after.conditions} == {stamped}
    assert len(after.conditions) >= 3


def test_to_have_observed_a_generation_changes_nothing_else() -> None:
    before = at_work()
    after = transitions.observed(before, 9)
    stripped = [one.model_copy(update={"observed_generation": 1}) for one in after.conditions]
    assert after.model_copy(update={"observed_generation": 1, "conditions": tuple(stripped)}) == before
    assert transitions.observed(after, 9) == after


def test_every_assignment_raises_the_fence() -> None:
    back = transitions.released(at_work(), reason="Drained", now=LATER, generation=1)
    assert on_replica(back).attempts == 2


def test_active_time_runs_on_over_attempts_and_anew_after_a_suspension() -> None:
    lost = transitions.waiting(at_work(), reason=Reason.REPLICA_LOST, message="x", now=LATER, generation=1)
    assert on_replica(lost, LATER).start_time == NOW
    asleep = transitions.released(at_work(), reason="Suspended", now=LATER, generation=1)
    again = on_replica(transitions.resumed(asleep, now=LATER, generation=2), LATER)
    assert again.start_time == LATER
    assert not is_true(again.conditions, ConditionType.SUSPENDED)


def test_a_transition_time_changes_only_with_the_status() -> None:
    first = set_condition((), ConditionType.READY, False, Reason.REPLICAS_UNAVAILABLE, "a", NOW, 1)
    second = set_condition(first, ConditionType.READY, False, Reason.MODEL_LOADING, "b", LATER, 2)
    third = set_condition(second, ConditionType.READY, True, Reason.READY, "c", LATER, 2)
    times = [
        found.last_transition_time for each in (first, second, third) if (found := find(each, ConditionType.READY))
    ]
    assert times == [NOW, NOW, LATER]


def test_a_message_is_cut_to_its_limit() -> None:
    (condition,) = set_condition((), ConditionType.READY, False, Reason.REPLICAS_UNAVAILABLE, "x" * 5000, NOW, 1)
    assert len(condition.message) == MESSAGE_LIMIT


def test_a_patch_holds_its_fence_and_what_changed() -> None:
    before = at_work()
    after = transitions.released(before, reason="Drained", now=LATER, generation=1)
    operations = status_patch(attempt_fence(1, "p", "r"), before, after)
    assert [(step["op"], step["path"]) for step in operations] == [
        ("test", "/status/attempts"),
        ("test", "/status/assignment/pool"),
        ("test", "/status/assignment/replica"),
        ("add", "/status/phase"),
        ("add", "/status/reason"),
        ("add", "/status/conditions"),
        ("remove", "/status/assignment"),
    ]
    assert status_patch(version_fence("5"), after, after) == version_fence("5")


def test_a_status_survives_the_wire() -> None:
    ended = transitions.succeeded(at_work(), output=OUTPUT, now=LATER, generation=1)
    assert VideoJobStatus.model_validate(ended.wire()) == ended
