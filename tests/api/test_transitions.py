"""What a job says of itself, from creation to its end."""

from datetime import UTC, datetime, timedelta

import pytest

from videojob.api import transitions
from videojob.api.conditions import MESSAGE_LIMIT, ConditionType, Reason, find, is_true, set_condition
from videojob.api.patch import attempt_fence, status_patch, version_fence
from videojob.api.videojob import OutputStatus, Phase, Resolved, VideoJobStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=5)
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


def on_replica(status: VideoJobStatus | None = None, now: datetime = NOW) -> VideoJobStatus:
    return transitions.assigned(
        status or VideoJobStatus(),
        pool="p",
        replica="r",
        resolved=RESOLVED,
        store_uri="file:///s",
        now=now,
        generation=1,
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


def test_only_a_failure_of_the_job_itself_counts() -> None:
    failed = transitions.attempt_failed(at_work(), reason=Reason.CHUNK_FAILED, message="x", now=LATER, generation=1)
    lost = transitions.waiting(at_work(), reason=Reason.REPLICA_LOST, message="x", now=LATER, generation=1)
    assert (failed.failures, lost.failures) == (1, 0)


def test_only_a_lost_replica_counts_as_lost() -> None:
    lost = transitions.waiting(at_work(), reason=Reason.REPLICA_LOST, message="x", now=LATER, generation=1)
    drained = transitions.waiting(at_work(), reason=Reason.DRAINED, message="x", now=LATER, generation=1)
    assert (lost.losses, drained.losses) == (1, 0)


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
    first = set_condition((), ConditionType.READY, False, Reason.NO_REPLICA, "a", NOW, 1)
    second = set_condition(first, ConditionType.READY, False, Reason.MODEL_LOADING, "b", LATER, 2)
    third = set_condition(second, ConditionType.READY, True, Reason.READY, "c", LATER, 2)
    times = [
        found.last_transition_time for each in (first, second, third) if (found := find(each, ConditionType.READY))
    ]
    assert times == [NOW, NOW, LATER]


def test_a_message_is_cut_to_its_limit() -> None:
    (condition,) = set_condition((), ConditionType.READY, False, Reason.NO_REPLICA, "x" * 5000, NOW, 1)
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
