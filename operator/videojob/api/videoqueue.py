"""`VideoQueue`: where the jobs of a namespace wait."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from videojob.api.conditions import Condition, ConditionType, set_condition
from videojob.api.meta import ObjectMeta
from videojob.api.reasons import Reason
from videojob.api.schema import MAP_BY_TYPE, Resource


class StopPolicy(StrEnum):
    """Whether a queue's jobs are assigned, as in Kueue."""

    NONE = "None"
    HOLD = "Hold"
    """Running jobs continue; no other one is assigned."""
    HOLD_AND_DRAIN = "HoldAndDrain"
    """Running jobs are released, too; their finished chunks are kept."""


class VideoQueueSpec(Resource):
    """Admission of the queue's jobs."""

    stop_policy: Annotated[
        StopPolicy,
        Field(description="Hold: no job of the queue is assigned. HoldAndDrain: running ones are released, too."),
    ] = StopPolicy.NONE


class VideoQueueStatus(Resource):
    """The queue's state."""

    observed_generation: int | None = None
    pending_jobs: Annotated[int, Field(description="Jobs that wait for a replica.")] = 0
    active_jobs: Annotated[int, Field(description="Jobs that replicas hold.")] = 0
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=MAP_BY_TYPE)] = ()


class VideoQueue(Resource):
    """Where the jobs of a namespace wait."""

    metadata: ObjectMeta
    spec: VideoQueueSpec = VideoQueueSpec()
    status: VideoQueueStatus = VideoQueueStatus()


def queue_status(queue: VideoQueue, *, pending: int, active: int, now: datetime) -> VideoQueueStatus:
    """The queue's status, with so many jobs that wait and that replicas hold.

    Its condition is Active, as in Kueue, and there is none called Ready: a queue that is held on purpose is no failure,
    which is what tools that wait for objects (`helm --wait`, kstatus) take Ready=False for.
    """
    policy, generation = queue.spec.stop_policy, queue.metadata.generation
    state = (
        (True, Reason.READY, "Jobs are assigned.")
        if policy is StopPolicy.NONE
        else (False, Reason.STOPPED, f"stopPolicy is {policy.value}.")
    )
    known = [one for one in queue.status.conditions if one.type == ConditionType.ACTIVE]
    return VideoQueueStatus(
        observed_generation=generation,
        pending_jobs=pending,
        active_jobs=active,
        conditions=set_condition(known, ConditionType.ACTIVE, *state, now, generation),
    )
