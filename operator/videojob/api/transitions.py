"""What happens to a job's status, as pure functions from one status to the next.

While `assignment` is set the runner applies them, otherwise the operator does; both use these functions, so that a
job's conditions read the same whoever wrote them.
"""

from collections.abc import Callable
from datetime import datetime

from videojob.api.conditions import Condition, ConditionType, Reason, set_condition
from videojob.api.videojob import Assignment, OutputStatus, Phase, Resolved, VideoJobStatus

_PHASE_OF_END = {
    ConditionType.COMPLETE: Phase.SUCCEEDED,
    ConditionType.FAILED: Phase.FAILED,
    ConditionType.CANCELLED: Phase.CANCELLED,
}


def assigned(
    status: VideoJobStatus,
    *,
    pool: str,
    replica: str,
    resolved: Resolved,
    store_uri: str,
    now: datetime,
    generation: int,
) -> VideoJobStatus:
    """A replica was chosen: raises `attempts`, which fences off whoever held the job before."""
    message = f"Replica {replica} of pool {pool} has the job."
    conditions = set_condition(
        status.conditions, ConditionType.ASSIGNED, True, Reason.ASSIGNED, message, now, generation
    )
    if _has(conditions, ConditionType.SUSPENDED):
        conditions = set_condition(
            conditions, ConditionType.SUSPENDED, False, Reason.RESUMED, "The job was resumed.", now, generation
        )
    return status.model_copy(
        update={
            "phase": Phase.ASSIGNED,
            "reason": Reason.ASSIGNED.value,
            "observed_generation": generation,
            "conditions": conditions,
            "assignment": Assignment(pool=pool, replica=replica),
            "attempts": status.attempts + 1,
            "pool": pool,
            "resolved": resolved,
            "store_uri": store_uri,
            "start_time": status.start_time or now,
        }
    )


def running(status: VideoJobStatus, *, now: datetime, generation: int) -> VideoJobStatus:
    """The replica has begun to make chunks."""
    conditions = set_condition(
        status.conditions, ConditionType.RUNNING, True, Reason.RUNNING, "Chunks are being made.", now, generation
    )
    return status.model_copy(update={"phase": Phase.RUNNING, "reason": Reason.RUNNING.value, "conditions": conditions})


def loading(status: VideoJobStatus, *, message: str, now: datetime, generation: int) -> VideoJobStatus:
    """The replica has the job, and its model is not ready there: the message says why. Until it is `running`, again."""
    reason = Reason.MODEL_LOADING
    conditions = set_condition(status.conditions, ConditionType.RUNNING, False, reason, message, now, generation)
    return status.model_copy(
        update={
            "phase": Phase.ASSIGNED,
            "reason": reason.value,
            "conditions": conditions,
            "estimated_completion_time": None,
        }
    )


def waiting(status: VideoJobStatus, *, reason: Reason, message: str, now: datetime, generation: int) -> VideoJobStatus:
    """The job waits for a replica, with the reason why. Also how a job is handed back."""
    back = _released(status, Phase.PENDING, reason, message, now, generation)
    return back.model_copy(update={"losses": status.losses + 1}) if reason is Reason.REPLICA_LOST else back


def attempt_failed(
    status: VideoJobStatus, *, reason: Reason, message: str, now: datetime, generation: int
) -> VideoJobStatus:
    """The attempt failed through the job itself: counts against backoffLimit; the planner decides what follows."""
    back = _released(status, Phase.PENDING, reason, message, now, generation)
    return back.model_copy(update={"failures": status.failures + 1})


def suspended(status: VideoJobStatus, *, now: datetime, generation: int) -> VideoJobStatus:
    """`spec.suspend` is honoured; as in batch/v1, a resume starts the active time anew."""
    message = "The job is suspended; finished chunks are kept."
    back = _released(status, Phase.SUSPENDED, Reason.SUSPENDED, message, now, generation)
    conditions = set_condition(
        back.conditions, ConditionType.SUSPENDED, True, Reason.SUSPENDED, message, now, generation
    )
    return back.model_copy(update={"conditions": conditions, "start_time": None})


def resumed(status: VideoJobStatus, *, now: datetime, generation: int) -> VideoJobStatus:
    """`spec.suspend` is false again; the job waits for a replica."""
    back = waiting(status, reason=Reason.QUEUED, message="The job was resumed.", now=now, generation=generation)
    conditions = set_condition(
        back.conditions, ConditionType.SUSPENDED, False, Reason.RESUMED, "The job was resumed.", now, generation
    )
    return back.model_copy(update={"conditions": conditions})


def succeeded(status: VideoJobStatus, *, output: OutputStatus, now: datetime, generation: int) -> VideoJobStatus:
    """The video is in the store."""
    message = f"The video has {output.frames} frames and lasts {output.duration_seconds:g} s."
    ended = _ended(status, ConditionType.COMPLETE, Reason.SUCCEEDED, message, now, generation)
    return ended.model_copy(update={"output": output})


def failed(status: VideoJobStatus, *, reason: Reason, message: str, now: datetime, generation: int) -> VideoJobStatus:
    """The job ends without a video."""
    return _ended(status, ConditionType.FAILED, reason, message, now, generation)


def cancelled(status: VideoJobStatus, *, now: datetime, generation: int) -> VideoJobStatus:
    """`spec.cancel` is honoured; finished segments stay in the store."""
    done = status.progress.chunks_done if status.progress else 0
    message = f"The job was cancelled; {done} finished chunks are kept."
    return _ended(status, ConditionType.CANCELLED, Reason.CANCELLED, message, now, generation)


def released(status: VideoJobStatus, *, reason: str, now: datetime, generation: int) -> VideoJobStatus:
    """What becomes of a job whose replica gave it back because `assignment.release` asked for it."""
    by_reason: dict[str, Callable[[], VideoJobStatus]] = {
        Reason.CANCELLED.value: lambda: cancelled(status, now=now, generation=generation),
        Reason.SUSPENDED.value: lambda: suspended(status, now=now, generation=generation),
        Reason.DEADLINE_EXCEEDED.value: lambda: failed(
            status,
            reason=Reason.DEADLINE_EXCEEDED,
            message="The job was active for longer than spec.activeDeadlineSeconds.",
            now=now,
            generation=generation,
        ),
    }
    if reason in by_reason:
        return by_reason[reason]()
    known = {member.value: member for member in Reason}.get(reason, Reason.DRAINED)
    return waiting(
        status,
        reason=known,
        message="The replica handed the job back; finished chunks are kept.",
        now=now,
        generation=generation,
    )


def _has(conditions: tuple[Condition, ...], type_: ConditionType) -> bool:
    return any(condition.type == type_ for condition in conditions)


def _released(
    status: VideoJobStatus, phase: Phase, reason: Reason, message: str, now: datetime, generation: int
) -> VideoJobStatus:
    conditions = set_condition(status.conditions, ConditionType.ASSIGNED, False, reason, message, now, generation)
    if _has(conditions, ConditionType.RUNNING):
        conditions = set_condition(conditions, ConditionType.RUNNING, False, reason, message, now, generation)
    return status.model_copy(
        update={
            "phase": phase,
            "reason": reason.value,
            "observed_generation": generation,
            "conditions": conditions,
            "assignment": None,
            "estimated_completion_time": None,
        }
    )


def _ended(
    status: VideoJobStatus, type_: ConditionType, reason: Reason, message: str, now: datetime, generation: int
) -> VideoJobStatus:
    back = _released(status, _PHASE_OF_END[type_], reason, message, now, generation)
    conditions = set_condition(back.conditions, type_, True, reason, message, now, generation)
    return back.model_copy(update={"conditions": conditions, "completion_time": now})
