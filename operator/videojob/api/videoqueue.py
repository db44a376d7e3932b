"""`VideoQueue`: where the jobs of a namespace wait."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from videojob.api.conditions import Condition
from videojob.api.meta import ObjectMeta
from videojob.api.schema import MAP_BY_TYPE, Resource


class StopPolicy(StrEnum):
    """Whether a queue's jobs may run, as in Kueue."""

    NONE = "None"
    HOLD = "Hold"
    """Jobs that run go on; no other starts."""
    HOLD_AND_DRAIN = "HoldAndDrain"
    """Jobs that run are taken back, too; their finished chunks are kept."""


class VideoQueueSpec(Resource):
    """How the queue's jobs are admitted."""

    stop_policy: Annotated[StopPolicy, Field(description="None, Hold or HoldAndDrain.")] = StopPolicy.NONE


class VideoQueueStatus(Resource):
    """How the queue is."""

    observed_generation: int | None = None
    pending_jobs: Annotated[int, Field(description="Jobs that wait.")] = 0
    active_jobs: Annotated[int, Field(description="Jobs that a replica holds.")] = 0
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=MAP_BY_TYPE)] = ()


class VideoQueue(Resource):
    """Where the jobs of a namespace wait."""

    metadata: ObjectMeta
    spec: VideoQueueSpec = VideoQueueSpec()
    status: VideoQueueStatus = VideoQueueStatus()
