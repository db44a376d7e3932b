"""Conditions and their reasons: the truth about an object, which `phase` only summarises."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from videojob.api.schema import Resource

MESSAGE_LIMIT = 1024
"""Characters of a condition's message; a longer one is cut, so that a status stays small whatever an error says."""


class ConditionType(StrEnum):
    """Types of conditions; all are positive."""

    ASSIGNED = "Assigned"
    """A replica holds the job. While False, the reason says what the job waits for."""
    RUNNING = "Running"
    """The replica makes chunks of the job."""
    SUSPENDED = "Suspended"
    """`spec.suspend` is honoured: no replica works on the job."""
    COMPLETE = "Complete"
    """The video is in the store."""
    FAILED = "Failed"
    """The job ended without a video."""
    CANCELLED = "Cancelled"
    """`spec.cancel` is honoured: the job ended and keeps its finished segments."""
    READY = "Ready"
    """A pool, model or queue can be used."""
    SCALING = "Scaling"
    """The number of a pool's replicas follows its backlog. The reason is that of the last decision."""
    PODS_SCHEDULED = "PodsScheduled"
    """Every pod of the pool has a node."""
    IMAGES_PULLED = "ImagesPulled"
    """Every pod of the pool has its images."""
    MODELS_LOADED = "ModelsLoaded"
    """No replica has failed to load a model."""
    PODS_STABLE = "PodsStable"
    """No container of the pool keeps ending."""


class Reason(StrEnum):
    """Reasons of conditions."""

    # Why a job waits.
    QUEUED = "Queued"
    """The job waits its turn: every slot that could take it is busy."""
    MODEL_NOT_FOUND = "ModelNotFound"
    """No VideoModel has the name in `spec.model`."""
    QUEUE_NOT_FOUND = "QueueNotFound"
    """No VideoQueue of the job's namespace has the name in `spec.queueName`."""
    NO_POOL = "NoPool"
    """No GPUPool lists the job's model."""
    POOL_NOT_READY = "PoolNotReady"
    """Pools serve the model, but none has a live replica with the model loaded."""
    QUEUE_STOPPED = "QueueStopped"
    """The job's queue has a stopPolicy of Hold or HoldAndDrain."""
    EXCEEDS_MODEL_LIMITS = "ExceedsModelLimits"
    """Width, height or seconds are beyond what the VideoModel allows."""
    PRECISION_UNSUPPORTED = "PrecisionUnsupported"
    """The model's precision does not run on the pool's accelerator."""
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    """No replica has the memory for the model and the job together."""
    WEIGHTS_CHANGED = "WeightsChanged"
    """The job has begun with weights that no replica of its pool has any more."""
    BACKING_OFF = "BackingOff"
    """An attempt failed, or could not go on; the next one starts after a pause."""
    POOL_STARTING = "PoolStarting"
    """Pods of the pool are on their way to being ready."""
    POOL_EMPTY = "PoolEmpty"
    """The pool has no replica, and wants none: it is paused, or scaled from outside."""
    UNSCHEDULABLE = "Unschedulable"
    """No node takes the pool's pods."""
    NODE_PROVISIONING_TIMEOUT = "NodeProvisioningTimeout"
    """No node takes the pool's pods, and for minutes no new one has come: the node pool does not grow."""
    IMAGE_PULL_FAILED = "ImagePullFailed"
    """An image of the pool's pods cannot be pulled."""
    CRASH_LOOP = "CrashLoop"
    """A container of the pool's pods ends again and again."""
    TEMPLATE_REFUSED = "TemplateRefused"
    """The API server refuses the pool's Deployment."""

    # How a job came to its replica, or left it.
    ASSIGNED = "Assigned"
    """A replica was chosen."""
    RUNNING = "Running"
    """Chunks are being made."""
    SUSPENDED = "Suspended"
    """`spec.suspend` is true."""
    RESUMED = "Resumed"
    """`spec.suspend` is false again."""
    CANCELLED = "Cancelled"
    """`spec.cancel` is true."""
    DELETED = "Deleted"
    """The job is being deleted."""
    DRAINED = "Drained"
    """The replica hands back its jobs; finished chunks are kept."""
    REPLICA_LOST = "ReplicaLost"
    """The replica's heartbeat expired, or its runner was restarted; finished chunks are kept."""

    # How a job ends.
    SUCCEEDED = "Succeeded"
    """The video is in the store."""
    PROMPT_TOO_LONG = "PromptTooLong"
    """The prompt has more tokens than the model reads."""
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    """The job itself failed more often than `spec.backoffLimit`."""
    REPLICA_LOSS_LIMIT_EXCEEDED = "ReplicaLossLimitExceeded"
    """Replica after replica was lost while it held the job: the job may be what breaks them."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """The job was active for longer than `spec.activeDeadlineSeconds`."""

    # Why an attempt failed.
    CHUNK_FAILED = "ChunkFailed"
    """The model failed to make a chunk."""
    OUT_OF_MEMORY = "OutOfMemory"
    """The accelerator's memory did not suffice for a chunk."""
    TRITON_UNAVAILABLE = "TritonUnavailable"
    """The replica's Triton did not answer."""
    STORE_UNAVAILABLE = "StoreUnavailable"
    """The object store refused, or did not answer."""
    STORE_CORRUPT = "StoreCorrupt"
    """An object in the store is not what was put there."""
    INVALID_REQUEST = "InvalidRequest"
    """The model refused the request."""
    RUNNER_ERROR = "RunnerError"
    """The runner met an error that it does not know."""

    # How a pool, a model or a queue is.
    READY = "Ready"
    """It can be used."""
    SCALED_TO_ZERO = "ScaledToZero"
    """The pool has no replica and no job; it gets one with the first job."""
    NO_REPLICA = "NoReplica"
    """No replica of the pool has a live heartbeat."""
    MODEL_LOADING = "ModelLoading"
    """Replicas are loading the model."""
    MODEL_LOAD_FAILED = "ModelLoadFailed"
    """Triton refused a model; the message says why."""
    STOPPED = "Stopped"
    """The queue's stopPolicy holds its jobs."""
    SCHEDULED = "Scheduled"
    """Every pod has a node."""
    PULLED = "Pulled"
    """Every image is there."""
    LOADED = "Loaded"
    """No model has failed to load."""
    STABLE = "Stable"
    """No container keeps ending."""


PAUSING = frozenset(
    {
        Reason.CHUNK_FAILED,
        Reason.OUT_OF_MEMORY,
        Reason.TRITON_UNAVAILABLE,
        Reason.STORE_UNAVAILABLE,
        Reason.STORE_CORRUPT,
        Reason.INVALID_REQUEST,
        Reason.RUNNER_ERROR,
    }
)
"""Reasons with which a runner gives up an attempt that would go the same way if it were made again at once."""


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
