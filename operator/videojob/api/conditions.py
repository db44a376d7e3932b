"""Conditions: the state of an object, which `phase` only summarises."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from videojob.api.schema import Resource

MESSAGE_LIMIT = 1024
"""Characters of a condition's message; a longer one is truncated, so that a status stays small."""


class ConditionType(StrEnum):
    """Types of conditions; all are positive."""

    ASSIGNED = "Assigned"
    """A replica holds the job. While False, the reason is what the job waits for."""
    RUNNING = "Running"
    """The replica makes chunks of the job. While False, the reason is what delays them."""
    SUSPENDED = "Suspended"
    """`spec.suspend` is honoured: no replica works on the job."""
    COMPLETE = "Complete"
    """The video is in the store."""
    FAILED = "Failed"
    """The job ended without a video."""
    CANCELLED = "Cancelled"
    """`spec.cancel` is honoured: the job ended and keeps its finished segments."""
    READY = "Ready"
    """The pool can take jobs."""
    ACTIVE = "Active"
    """The queue's jobs are assigned. False while `spec.stopPolicy` holds them, which is no error: hence not Ready."""
    SCALING_ACTIVE = "ScalingActive"
    """The operator scales the pool by its backlog. The reason is that of the last decision."""
    PODS_SCHEDULED = "PodsScheduled"
    """Every pod of the pool has a node."""
    IMAGES_PULLED = "ImagesPulled"
    """Every pod of the pool has its images."""
    MODELS_LOADED = "ModelsLoaded"
    """No replica has failed to load a model."""
    PODS_STABLE = "PodsStable"
    """No container of the pool ends again and again."""


class Condition(Resource):
    """A condition in the shape of `metav1.Condition`."""

    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    last_transition_time: datetime
    reason: Annotated[str, Field(min_length=1, max_length=128)]
    message: Annotated[str, Field(max_length=MESSAGE_LIMIT)] = ""


def find(conditions: Iterable[Condition], type_: ConditionType) -> Condition | None:
    """The condition of that type."""
    return next((condition for condition in conditions if condition.type == type_), None)


def is_true(conditions: Iterable[Condition], type_: ConditionType) -> bool:
    """Whether the condition of that type is there and True."""
    condition = find(conditions, type_)
    return condition is not None and condition.status == "True"


def set_condition(
    conditions: Iterable[Condition],
    type_: ConditionType,
    status: bool,
    reason: StrEnum,
    message: str,
    now: datetime,
    generation: int | None,
) -> tuple[Condition, ...]:
    """The conditions with that one set; its lastTransitionTime changes only with its status."""
    old = find(conditions, type_)
    word: Literal["True", "False"] = "True" if status else "False"
    since = old.last_transition_time if old is not None and old.status == word else now
    if len(message) > MESSAGE_LIMIT:
        message = message[: MESSAGE_LIMIT - 1] + "…"
    new = Condition(
        type=type_.value,
        status=word,
        observed_generation=generation,
        last_transition_time=since,
        reason=reason.value,
        message=message,
    )
    if old is None:
        return (*conditions, new)
    return tuple(new if condition.type == type_ else condition for condition in conditions)
