"""The transitions of a job's status, as pure functions from one status to the next.

While `assignment` is set the runner applies them, otherwise the operator does; both use these functions, so that a
job's conditions read the same whoever wrote them. `generation` is the newest generation of the job that the writer has
acted on: `observedGeneration` of the status and of every condition becomes it, because kubectl and kstatus take a
condition of an earlier generation for one that is not known yet.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from videojob.api.conditions import Condition, ConditionType, find, set_condition
from videojob.api.drift import DriftStatus
from videojob.api.reasons import BACKS_OFF, OF_REPLICA, Reason, parse
from videojob.api.videojob import (
    MAX_EARLIER_STORES,
    Assignment,
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

_PHASE_OF_END = {
    ConditionType.COMPLETE: Phase.SUCCEEDED,
    ConditionType.FAILED: Phase.FAILED,
    ConditionType.CANCELLED: Phase.CANCELLED,
}


def observed(status: VideoJobStatus, generation: int) -> VideoJobStatus:
    """The same status, restamped: the writer has acted on that generation. The stamp never goes back."""
    newest = max(status.observed_generation or 0, generation)
    conditions = tuple(one.model_copy(update={"observed_generation": newest}) for one in status.conditions)
    return status.model_copy(update={"observed_generation": newest, "conditions": conditions})


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
    """A replica was chosen: raises `attempts`, which fences off whoever held the job before.

    Where the store is another one than before, the earlier folder is kept in `earlierStores` until it is `swept`; where
    it is one of those, the job's folder is there again, and no longer an earlier one.
    Raises ValueError where there is no room for it: `may_move` is to be asked first.
    """
    change = (ConditionType.ASSIGNED, True, Reason.ASSIGNED, f"Replica {replica} of pool {pool} holds the job.")
    moved = status.store_uri is not None and status.store_uri != store_uri
    earlier = _earlier_stores(status, now) if moved else status.earlier_stores
    times = [one.until for one in earlier if one.store_uri == store_uri]
    if status.cut_off_until is not None and not moved:
        times.append(status.cut_off_until)
    return _to(
        status,
        Phase.ASSIGNED,
        Reason.ASSIGNED,
        [change],
        now,
        generation,
        assignment=Assignment(pool=pool, replica=replica),
        attempts=status.attempts + 1,
        pool=pool,
        resolved=resolved,
        store_uri=store_uri,
        playlist_uri=None if moved else status.playlist_uri,
        start_time=status.start_time or now,
        earlier_stores=tuple(one for one in earlier if one.store_uri != store_uri),
        cut_off_until=max(times, default=None),
    )


def may_move(status: VideoJobStatus) -> bool:
    """Whether `earlierStores` has room for one more folder."""
    return len(status.earlier_stores) < MAX_EARLIER_STORES


def running(status: VideoJobStatus, *, now: datetime, generation: int) -> VideoJobStatus:
    """The replica has begun to make chunks."""
    change = (ConditionType.RUNNING, True, Reason.RUNNING, "Chunks are being made.")
    return _to(status, Phase.RUNNING, Reason.RUNNING, [change], now, generation)


def loading(status: VideoJobStatus, *, message: str, now: datetime, generation: int) -> VideoJobStatus:
    """The replica has the job, and its model is not ready there: the message has the cause. Until it is `running`."""
    change = (ConditionType.RUNNING, False, Reason.MODEL_LOADING, message)
    return _to(status, Phase.ASSIGNED, Reason.MODEL_LOADING, [change], now, generation, estimated_completion_time=None)


def progressed(
    status: VideoJobStatus,
    *,
    progress: Progress,
    timing: Timing,
    cost: Cost,
    drift: DriftStatus | None,
    estimated_completion_time: datetime | None,
    generation: int,
) -> VideoJobStatus:
    """The report of a replica on the job that it makes. With a further chunk, hand-backs count from 0 again."""
    before = status.progress.chunks_done if status.progress is not None else 0
    return observed(status, generation).model_copy(
        update={
            "progress": progress,
            "timing": timing,
            "cost": cost,
            "drift": drift,
            "estimated_completion_time": estimated_completion_time,
            "hand_backs": 0 if progress.chunks_done > before else status.hand_backs,
        }
    )


def waiting(status: VideoJobStatus, *, reason: Reason, message: str, now: datetime, generation: int) -> VideoJobStatus:
    """The job waits for a replica, with the reason why. Also how a replica returns it, through no fault of the job.

    A return for a reason that backs off (store, Triton, accelerator, disk) is one more of `handBacks`; a lost replica
    one of `losses`. One for anything but the store is this replica's failure.
    """
    handed_back = status.assignment is not None and reason in BACKS_OFF
    failed_on = _holder(status) if reason in OF_REPLICA else None
    return _released(
        status,
        Phase.PENDING,
        reason,
        message,
        now,
        generation,
        hand_backs=status.hand_backs + handed_back,
        losses=status.losses + (reason is Reason.REPLICA_LOST),
        failed_on=failed_on or status.failed_on,
    )


def attempt_failed(
    status: VideoJobStatus, *, reason: Reason, message: str, now: datetime, generation: int
) -> VideoJobStatus:
    """The attempt failed through the job itself: counts against backoffLimit; the planner decides what follows."""
    failures, failed_on = status.failures + 1, _holder(status) or status.failed_on
    return _released(status, Phase.PENDING, reason, message, now, generation, failures=failures, failed_on=failed_on)


def reclaimed(
    status: VideoJobStatus, *, message: str, cut_off_until: datetime | None, now: datetime, generation: int
) -> VideoJobStatus:
    """The replica that holds the job was lost: what it was asked to release is released, else the job waits.

    Until `cut_off_until` its runner may still add files to the job's folder; None where it has certainly ended.
    """
    release = status.assignment.release if status.assignment is not None else None
    if release is not None:
        back = released(status, reason=release, now=now, generation=generation)
    else:
        back = waiting(status, reason=Reason.REPLICA_LOST, message=message, now=now, generation=generation)
    times = [time for time in (status.cut_off_until, cut_off_until) if time is not None]
    return back.model_copy(update={"cut_off_until": max(times, default=None)})


def swept(status: VideoJobStatus, *, now: datetime, generation: int) -> VideoJobStatus:
    """Every folder that no cut-off runner adds to any more was purged or swept: its entry goes."""
    until = status.cut_off_until
    return observed(status, generation).model_copy(
        update={
            "cut_off_until": until if until is not None and until > now else None,
            "earlier_stores": tuple(one for one in status.earlier_stores if one.until > now),
        }
    )


def suspended(status: VideoJobStatus, *, now: datetime, generation: int) -> VideoJobStatus:
    """`spec.suspend` is honoured; as in batch/v1, a resume starts the active time anew."""
    message = "The job is suspended; finished chunks are kept."
    change = (ConditionType.SUSPENDED, True, Reason.SUSPENDED, message)
    return _released(
        status, Phase.SUSPENDED, Reason.SUSPENDED, message, now, generation, change, start_time=None, hand_backs=0
    )


def resumed(status: VideoJobStatus, *, now: datetime, generation: int) -> VideoJobStatus:
    """`spec.suspend` is false again; the job waits for a replica."""
    message = "The job was resumed."
    change = (ConditionType.SUSPENDED, False, Reason.RESUMED, message)
    return _released(status, Phase.PENDING, Reason.QUEUED, message, now, generation, change)


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
    return waiting(
        status,
        reason=parse(reason) or Reason.DRAINED,
        message="The replica handed the job back; finished chunks are kept.",
        now=now,
        generation=generation,
    )


_Change = tuple[ConditionType, bool, Reason, str]
"""Type, status, reason and message of a condition."""


def _to(
    status: VideoJobStatus,
    phase: Phase,
    reason: Reason,
    changes: Sequence[_Change],
    now: datetime,
    generation: int,
    **fields: object,
) -> VideoJobStatus:
    """The one way from a status to the next: conditions are set, and all of them get the generation."""
    conditions: tuple[Condition, ...] = status.conditions
    for change in changes:
        conditions = set_condition(conditions, *change, now, generation)
    update = {"phase": phase, "reason": reason.value, "conditions": conditions, **fields}
    return observed(status.model_copy(update=update), generation)


def _released(
    status: VideoJobStatus,
    phase: Phase,
    reason: Reason,
    message: str,
    now: datetime,
    generation: int,
    *more: _Change,
    **fields: object,
) -> VideoJobStatus:
    changes = [(ConditionType.ASSIGNED, False, reason, message)]
    if find(status.conditions, ConditionType.RUNNING) is not None:
        changes.append((ConditionType.RUNNING, False, reason, message))
    return _to(
        status,
        phase,
        reason,
        [*changes, *more],
        now,
        generation,
        assignment=None,
        estimated_completion_time=None,
        **fields,
    )


def _holder(status: VideoJobStatus) -> ReplicaRef | None:
    held = status.assignment
    return ReplicaRef(pool=held.pool, replica=held.replica) if held is not None else None


def _ended(
    status: VideoJobStatus, type_: ConditionType, reason: Reason, message: str, now: datetime, generation: int
) -> VideoJobStatus:
    change = (type_, True, reason, message)
    return _released(status, _PHASE_OF_END[type_], reason, message, now, generation, change, completion_time=now)


def _earlier_stores(status: VideoJobStatus, now: datetime) -> tuple[EarlierStore, ...]:
    if not may_move(status):
        raise ValueError(f"the job has {MAX_EARLIER_STORES} earlier stores that are not purged yet")
    return (
        *status.earlier_stores,
        EarlierStore(pool=status.pool or "", store_uri=status.store_uri or "", until=status.cut_off_until or now),
    )
