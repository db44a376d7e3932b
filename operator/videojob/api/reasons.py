"""Reasons of conditions: the one table of what each means, who resolves it, and how the system treats it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, Flag, StrEnum, auto
from types import MappingProxyType


class Reason(StrEnum):
    """Reasons of conditions; `REASONS` has the meaning of each."""

    # Why a job waits.
    QUEUED = "Queued"
    MODEL_NOT_FOUND = "ModelNotFound"
    QUEUE_NOT_FOUND = "QueueNotFound"
    POOL_NOT_FOUND = "PoolNotFound"
    POOL_NOT_READY = "PoolNotReady"
    QUEUE_STOPPED = "QueueStopped"
    EXCEEDS_MODEL_LIMITS = "ExceedsModelLimits"
    MEMORY_UNSUPPORTED = "MemoryUnsupported"
    ADAPTER_NOT_FOUND = "AdapterNotFound"
    GUIDANCE_UNSUPPORTED = "GuidanceUnsupported"
    IMAGE_UNSUPPORTED = "ImageUnsupported"
    IMAGE_MISSING = "ImageMissing"
    DRIFT_POLICY_UNSUPPORTED = "DriftPolicyUnsupported"
    PRECISION_UNSUPPORTED = "PrecisionUnsupported"
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    WEIGHTS_CHANGED = "WeightsChanged"
    BACKING_OFF = "BackingOff"
    POOL_STARTING = "PoolStarting"
    POOL_EMPTY = "PoolEmpty"
    UNSCHEDULABLE = "Unschedulable"
    NODE_PROVISIONING_TIMEOUT = "NodeProvisioningTimeout"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CRASH_LOOP = "CrashLoop"
    TEMPLATE_REFUSED = "TemplateRefused"

    # How a job came to its replica, or left it.
    ASSIGNED = "Assigned"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    CANCELLED = "Cancelled"
    DELETED = "Deleted"
    DRAINED = "Drained"
    REPLICA_LOST = "ReplicaLost"

    # How a job ends.
    SUCCEEDED = "Succeeded"
    PROMPT_TOO_LONG = "PromptTooLong"
    INVALID_REQUEST = "InvalidRequest"
    IMAGE_NOT_FOUND = "ImageNotFound"
    IMAGE_INVALID = "ImageInvalid"
    DRIFTED_TOO_FAR = "DriftedTooFar"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    REPLICA_LOSS_LIMIT_EXCEEDED = "ReplicaLossLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"

    # Why an attempt failed, or could not go on.
    CHUNK_FAILED = "ChunkFailed"
    OUT_OF_MEMORY = "OutOfMemory"
    TRITON_UNAVAILABLE = "TritonUnavailable"
    ACCELERATOR_FAILED = "AcceleratorFailed"
    STORE_UNAVAILABLE = "StoreUnavailable"
    DISK_UNAVAILABLE = "DiskUnavailable"
    STORE_CORRUPT = "StoreCorrupt"
    RUNNER_ERROR = "RunnerError"

    # The state of a pool or a queue.
    READY = "Ready"
    SCALED_TO_ZERO = "ScaledToZero"
    REPLICAS_UNAVAILABLE = "ReplicasUnavailable"
    MODEL_LOADING = "ModelLoading"
    MODEL_LOAD_FAILED = "ModelLoadFailed"
    STOPPED = "Stopped"
    SCHEDULED = "Scheduled"
    PULLED = "Pulled"
    LOADED = "Loaded"
    STABLE = "Stable"


class Scope(Flag):
    """The objects, and the stages of a job, whose conditions have a reason."""

    WAITING = auto()
    """A job that waits for a replica."""
    HELD = auto()
    """A job that a replica holds."""
    RETURNED = auto()
    """A job that has just left its replica and has not ended."""
    ENDED = auto()
    """A job that has ended."""
    POOL = auto()
    QUEUE = auto()


class ResolvedBy(Enum):
    """Who ends the state that a reason names."""

    NOBODY = "nobody"
    """It is as it should be, or final."""
    SYSTEM = "the system"
    JOB_OWNER = "the job's owner"
    ADMINISTRATOR = "the administrator"


@dataclass(frozen=True)
class ReasonInfo:
    """One row of the table. No column has a default: whoever adds a reason decides on each."""

    scope: Scope
    resolved_by: ResolvedBy
    lasting: bool
    """It does not pass by waiting: somebody must act."""
    backs_off: bool
    """The next attempt waits for a back-off: made at once, it would end in the same way."""
    counts: bool
    """It is a failure of the job itself: an attempt that ends with it counts against `spec.backoffLimit`. A hand-back
    because of store, Triton or disk does not count by itself."""
    final: bool
    """The job ends with it: there is no further attempt."""
    quiet: bool
    """A wait that is as it should be, worth a condition and no Event."""
    volatile: bool
    """The message changes with every pod or second, so a new message alone is not written."""
    summarised: bool
    """A job that waits for a pool with this reason has the reason PoolNotReady, with this one's message."""
    meaning: str
    """A sentence; Markdown."""
    remedy: str
    """What to do, as a sentence; Markdown. Empty where there is nothing to do."""


_WAITING, _HELD, _RETURNED, _ENDED, _POOL, _QUEUE = Scope
_NOBODY, _SYSTEM, _OWNER, _ADMIN = ResolvedBy
YES, NO = True, False

# fmt: off
REASONS: Mapping[Reason, ReasonInfo] = MappingProxyType({
    # columns: scope, resolved_by; lasting, backs_off, counts, final; quiet, volatile, summarised; meaning; remedy

    Reason.QUEUED: ReasonInfo(_WAITING, _SYSTEM, NO, NO, NO, NO, YES, YES, NO,
        "Every slot that could take the job is busy.",
        "Nothing; or raise `scaling.maxReplicas` (see Waiting and Backlog in `kubectl get gpupools`), or `priority` of "
        "the job."),
    Reason.MODEL_NOT_FOUND: ReasonInfo(_WAITING | _POOL, _ADMIN, YES, NO, NO, NO, NO, NO, NO,
        "There is no `VideoModel` of the name in `spec.model` of the job, or of any name in `spec.models` of the pool.",
        "Create the model (`kubectl get videomodels`), or the job again with another name."),
    Reason.QUEUE_NOT_FOUND: ReasonInfo(_WAITING, _OWNER, YES, NO, NO, NO, NO, NO, NO,
        "The job's namespace has no `VideoQueue` of the name in `spec.queueName`.",
        "`kubectl apply -n NAMESPACE -f manifests/samples/videoqueue.yaml`"),
    Reason.POOL_NOT_FOUND: ReasonInfo(_WAITING, _ADMIN, YES, NO, NO, NO, NO, NO, NO,
        "No `GPUPool` lists the job's model; or the pool that has the job's finished chunks is gone, or does not list "
        "the model any more.",
        "List the model in a pool: `kubectl get gpupools -o "
        "custom-columns=NAME:.metadata.name,MODELS:.spec.models`"),
    Reason.POOL_NOT_READY: ReasonInfo(_WAITING, _ADMIN, YES, NO, NO, NO, NO, NO, NO,
        "A pool serves the model, but none of its replicas can take the job now; the message is about the replica that "
        "is nearest to it.",
        "See the pool's reason: `kubectl describe gpupool POOL`"),
    Reason.QUEUE_STOPPED: ReasonInfo(_WAITING | _RETURNED, _ADMIN, YES, NO, NO, NO, YES, NO, NO,
        "The `stopPolicy` of the job's queue is Hold or HoldAndDrain.",
        "`kubectl patch videoqueue QUEUE -n NAMESPACE --type=merge -p '{\"spec\": {\"stopPolicy\": \"None\"}}'`"),
    Reason.EXCEEDS_MODEL_LIMITS: ReasonInfo(_WAITING, _OWNER, YES, NO, NO, NO, NO, NO, NO,
        "The video is wider, higher or longer, or has more frames, than the model's `limits` allow.",
        "Create the job again with smaller values, fewer fps among them, or raise `limits` of the model."),
    Reason.MEMORY_UNSUPPORTED: ReasonInfo(_WAITING, _OWNER, YES, NO, NO, NO, NO, NO, NO,
        "A shot is to keep what the model's family cannot remember from one shot to the next.",
        "Create the job again without `memory`, or with one that the condition names, or with another model."),
    Reason.ADAPTER_NOT_FOUND: ReasonInfo(_WAITING, _OWNER, YES, NO, NO, NO, NO, NO, NO,
        "The job names an adapter that its model does not have.",
        "Create the job again with adapters that the condition names, or with another model."),
    Reason.GUIDANCE_UNSUPPORTED: ReasonInfo(_WAITING, _OWNER, YES, NO, NO, NO, NO, NO, NO,
        "The job has a `guidanceScale2`, which is for models with a second transformer.",
        "Create the job again without it, or with a model that has `defaults.guidanceScale2`."),
    Reason.IMAGE_UNSUPPORTED: ReasonInfo(_WAITING, _OWNER, YES, NO, NO, NO, NO, NO, NO,
        "A shot of the job has an image, and its model takes none there.",
        "Create the job again without it, or with a model that takes images: [images](run-a-job.md#images)"),
    Reason.IMAGE_MISSING: ReasonInfo(_WAITING, _OWNER, YES, NO, NO, NO, NO, NO, NO,
        "The model begins each shot with an image, or ends it with one, and a shot of the job has none.",
        "Create the job again with the image that the condition names: [images](run-a-job.md#images)"),
    Reason.DRIFT_POLICY_UNSUPPORTED: ReasonInfo(_WAITING, _OWNER, YES, NO, NO, NO, NO, NO, NO,
        "The job's `driftPolicy` is Refresh or Stop, and its model has no thresholds; or Refresh, and the model's "
        "family keeps nothing of the beginning.",
        "Create the job again with another `driftPolicy`, or set `drift` of the model."),
    Reason.PRECISION_UNSUPPORTED: ReasonInfo(_WAITING | _POOL, _ADMIN, YES, NO, NO, NO, NO, NO, NO,
        "The model's precision does not run on the pool's accelerator: a cpu pool runs float32 models only.",
        "Use a float32 model, or a pool with an accelerator: `kubectl get videomodels,gpupools`"),
    Reason.INSUFFICIENT_MEMORY: ReasonInfo(_WAITING, _ADMIN, YES, NO, NO, NO, NO, NO, NO,
        "No replica has memory for the model and one job together.",
        "Correct `memory` of the model or `template.memoryBytes` of the pool, if they are wrong; else use larger "
        "accelerators."),
    Reason.WEIGHTS_CHANGED: ReasonInfo(_WAITING | _RETURNED, _ADMIN, YES, NO, NO, NO, NO, NO, NO,
        "The job has begun with weights that no replica of its pool has any more, or its `VideoModel` was replaced.",
        "Restore the weights in `status.resolved`, or create the job again: [weights](upgrade.md#weights)"),
    Reason.BACKING_OFF: ReasonInfo(_WAITING, _SYSTEM, NO, YES, NO, NO, YES, YES, NO,
        "An attempt failed, or was handed back because store or Triton did not answer. The message has the cause, and "
        "the time of the next attempt.",
        "See the cause under [The job left its replica](#the-job-left-its-replica)."),
    Reason.POOL_STARTING: ReasonInfo(_WAITING | _POOL, _SYSTEM, NO, NO, NO, NO, YES, YES, NO,
        "Pods of the pool are starting, or are loading the model.",
        "Nothing within a cold start (`status.coldStartSeconds`), at most `template.modelLoadSeconds`; then "
        "`kubectl get pods -n videojob-system -l videojob.dev/pool=POOL`"),
    Reason.POOL_EMPTY: ReasonInfo(_WAITING | _POOL, _ADMIN, NO, NO, NO, NO, NO, NO, NO,
        "The pool has no replica: it is new, paused or scaled from outside. The condition ScalingActive has which.",
        "[Resume it](scaling.md#pause), or scale it: [External](scaling.md#another-controller-decides-mode-external)"),
    Reason.UNSCHEDULABLE: ReasonInfo(_WAITING | _POOL, _SYSTEM, NO, NO, NO, NO, NO, YES, NO,
        "The scheduler finds no node for the pool's pods.",
        "[Pods without a node](#pods-without-a-node)"),
    Reason.NODE_PROVISIONING_TIMEOUT: ReasonInfo(_WAITING | _POOL, _ADMIN, YES, NO, NO, NO, NO, YES, NO,
        "The scheduler has found no node for the pool's pods for five minutes: the node pool does not grow.",
        "[Pods without a node](#pods-without-a-node)"),
    Reason.IMAGE_PULL_FAILED: ReasonInfo(_WAITING | _POOL, _ADMIN, YES, NO, NO, NO, NO, YES, NO,
        "An image of the pool's pods cannot be pulled.",
        "[Images](#images)"),
    Reason.CRASH_LOOP: ReasonInfo(_WAITING | _POOL, _ADMIN, YES, NO, NO, NO, NO, YES, NO,
        "A container of the pool's pods ends again and again.",
        "[Containers that end](#containers-that-end)"),
    Reason.TEMPLATE_REFUSED: ReasonInfo(_WAITING | _POOL, _ADMIN, YES, NO, NO, NO, NO, NO, NO,
        "The API server refuses the pool's Deployment, or no image is configured.",
        "[A template that is refused](#a-template-that-is-refused)"),

    Reason.ASSIGNED: ReasonInfo(_HELD, _NOBODY, NO, NO, NO, NO, NO, NO, NO,
        "A replica holds the job.", ""),
    Reason.RUNNING: ReasonInfo(_HELD, _NOBODY, NO, NO, NO, NO, NO, NO, NO,
        "Chunks are being made.", ""),
    Reason.SUSPENDED: ReasonInfo(_WAITING | _RETURNED, _OWNER, YES, NO, NO, NO, NO, NO, NO,
        "`spec.suspend` is true.", "Set it to false."),
    Reason.RESUMED: ReasonInfo(_WAITING, _NOBODY, NO, NO, NO, NO, NO, NO, NO,
        "`spec.suspend` is false again.", ""),
    Reason.CANCELLED: ReasonInfo(_ENDED, _NOBODY, NO, NO, NO, YES, NO, NO, NO,
        "`spec.cancel` is true.", "Finished segments are kept until the job is deleted."),
    Reason.DELETED: ReasonInfo(_RETURNED, _NOBODY, NO, NO, NO, NO, NO, NO, NO,
        "The job is being deleted.", ""),
    Reason.DRAINED: ReasonInfo(_RETURNED | _POOL, _SYSTEM, NO, NO, NO, NO, NO, NO, YES,
        "The replica was drained: by a scale-down, a rollout, an eviction or a person, or because its accelerator "
        "fails. Finished chunks are kept.",
        "Nothing for a job. A drain by hand is undone with `kubectl annotate lease -n videojob-system LEASE "
        "videojob.dev/drain-`; `kubectl get leases -n videojob-system -o "
        "custom-columns='NAME:.metadata.name,DRAIN:.metadata.annotations.videojob\\.dev/drain'` lists them."),
    Reason.REPLICA_LOST: ReasonInfo(_RETURNED, _SYSTEM, NO, NO, NO, NO, NO, NO, NO,
        "The replica's heartbeat expired, or its runner was restarted. Finished chunks are kept.",
        "Nothing for one; for many see [VideojobReassignmentStorm](runbooks/VideojobReassignmentStorm.md)."),

    Reason.SUCCEEDED: ReasonInfo(_ENDED, _NOBODY, NO, NO, NO, YES, NO, NO, NO,
        "The video is in the store.", "`status.output` has its URI."),
    Reason.PROMPT_TOO_LONG: ReasonInfo(_ENDED, _OWNER, YES, NO, YES, YES, NO, NO, NO,
        "The prompt has more tokens than the model reads; the message has both numbers.",
        "Create a job with a shorter prompt."),
    Reason.INVALID_REQUEST: ReasonInfo(_ENDED, _OWNER, YES, NO, YES, YES, NO, NO, NO,
        "The model refuses the request; the message has the value.",
        "Create the job again with other values."),
    Reason.IMAGE_NOT_FOUND: ReasonInfo(_ENDED, _OWNER, YES, NO, YES, YES, NO, NO, NO,
        "The pool's store has no such object in the job's namespace; the message has its URI.",
        "Put the image there, then create the job again: [images](run-a-job.md#images)"),
    Reason.IMAGE_INVALID: ReasonInfo(_ENDED, _OWNER, YES, NO, YES, YES, NO, NO, NO,
        "An image is no PNG or JPEG, is damaged, or is too large; the message has which, and why.",
        "Create the job again with another image."),
    Reason.DRIFTED_TOO_FAR: ReasonInfo(_ENDED, _OWNER, YES, NO, NO, YES, NO, NO, NO,
        "A shot has gone further from its first frames than the model's `drift` allows, and `driftPolicy` is Stop; the "
        "message has the signal, its value, the shot and the second.",
        "Create the job again with another seed or shorter shots, or with `driftPolicy` Refresh or Report."),
    Reason.BACKOFF_LIMIT_EXCEEDED: ReasonInfo(_ENDED, _OWNER, YES, NO, NO, YES, NO, NO, NO,
        "The job itself failed more often than `spec.backoffLimit`; the message has the last failure.",
        "Remove the cause, then create the job again."),
    Reason.REPLICA_LOSS_LIMIT_EXCEEDED: ReasonInfo(_ENDED, _OWNER, YES, NO, NO, YES, NO, NO, NO,
        "Fifty replicas were lost while they held the job, which may be the cause.",
        "Check its size and prompt, and the logs of the lost replicas, before you create it again."),
    Reason.DEADLINE_EXCEEDED: ReasonInfo(_ENDED, _OWNER, YES, NO, NO, YES, NO, NO, NO,
        "The job was active for longer than `spec.activeDeadlineSeconds`, counted from `status.startTime`.",
        "Create a job with a longer deadline. Suspend and resume start the time anew."),

    Reason.CHUNK_FAILED: ReasonInfo(_RETURNED, _OWNER, YES, YES, YES, NO, NO, NO, NO,
        "The model failed to make a chunk; the message is the model's.",
        "`kubectl logs -n videojob-system POD -c triton`"),
    Reason.OUT_OF_MEMORY: ReasonInfo(_RETURNED, _ADMIN, YES, YES, YES, NO, NO, NO, NO,
        "The accelerator's memory did not suffice for a chunk.",
        "Raise `memory.perJobBytes` (in a model of another name), so that fewer jobs share a replica; or lower "
        "`limits` or `jobsPerReplica`. GPU memory is on the dashboard *Pools*."),
    Reason.TRITON_UNAVAILABLE: ReasonInfo(_RETURNED | _POOL, _SYSTEM, NO, YES, NO, NO, NO, NO, YES,
        "The replica's Triton does not answer.",
        "`kubectl logs -n videojob-system POD -c triton --previous`, and [Containers that end](#containers-that-end)"),
    Reason.ACCELERATOR_FAILED: ReasonInfo(_RETURNED | _POOL, _ADMIN, NO, YES, NO, NO, NO, NO, YES,
        "The replica makes nothing of what it gets, whatever job it is: its accelerator, or a model on it, is broken. "
        "It loads its models anew, and tries one job after a pause.",
        "[An accelerator that fails](#an-accelerator-that-fails)"),
    Reason.STORE_UNAVAILABLE: ReasonInfo(_RETURNED | _POOL, _ADMIN, YES, YES, NO, NO, NO, NO, YES,
        "The object store refuses requests or does not answer: it is absent, full, or its keys are wrong.",
        "Correct it; it is checked every five seconds. `kubectl logs -n videojob-system POD -c runner`, and "
        "[VideojobStoreErrors](runbooks/VideojobStoreErrors.md)"),
    Reason.DISK_UNAVAILABLE: ReasonInfo(_RETURNED, _ADMIN, YES, YES, NO, NO, NO, NO, NO,
        "The replica's folder for temporary files (`/tmp`), where the video is joined, is full or cannot be written.",
        "Free some space there, or enlarge it: it holds up to two videos for each job that a replica takes."),
    Reason.STORE_CORRUPT: ReasonInfo(_RETURNED, _OWNER, YES, YES, YES, NO, NO, NO, NO,
        "An object in the store does not have the content that was put there; the message has its key.",
        "Find out who else writes to the bucket, then create the job again."),
    Reason.RUNNER_ERROR: ReasonInfo(_RETURNED, _ADMIN, YES, YES, YES, NO, NO, NO, NO,
        "The runner met an unknown error.",
        "Report it with the log: `kubectl logs -n videojob-system POD -c runner`, filtered by the job's uid."),

    Reason.READY: ReasonInfo(_POOL | _QUEUE, _NOBODY, NO, NO, NO, NO, NO, NO, NO,
        "The pool can take jobs; the queue's jobs are assigned.",
        "Nothing; the message names the cause where some replicas cannot take jobs."),
    Reason.SCALED_TO_ZERO: ReasonInfo(_POOL, _SYSTEM, NO, NO, NO, NO, NO, NO, NO,
        "The pool has no replica and no job; the first job starts a replica. It counts as ready.", ""),
    Reason.REPLICAS_UNAVAILABLE: ReasonInfo(_POOL, _ADMIN, YES, NO, NO, NO, NO, NO, YES,
        "No replica of the pool has a live heartbeat.",
        "Start Triton and the runner of its `endpoints`: `kubectl get leases -n videojob-system`"),
    Reason.MODEL_LOADING: ReasonInfo(_HELD | _POOL, _SYSTEM, NO, NO, NO, NO, NO, NO, YES,
        "Replicas are loading the model, or unload another one first.",
        "Nothing, unless it takes much longer than the pool's `status.coldStartSeconds`; then "
        "`kubectl logs -n videojob-system POD -c runner`"),
    Reason.MODEL_LOAD_FAILED: ReasonInfo(_POOL, _ADMIN, YES, NO, NO, NO, NO, NO, YES,
        "Triton refused to load a model; the message is Triton's.",
        "[Models that do not load](#models-that-do-not-load)"),
    Reason.STOPPED: ReasonInfo(_QUEUE, _ADMIN, YES, NO, NO, NO, YES, NO, NO,
        "The queue's `stopPolicy` holds its jobs, on purpose.",
        "Set `stopPolicy` to None."),
    Reason.SCHEDULED: ReasonInfo(_POOL, _NOBODY, NO, NO, NO, NO, NO, NO, NO,
        "Every pod of the pool has a node.", ""),
    Reason.PULLED: ReasonInfo(_POOL, _NOBODY, NO, NO, NO, NO, NO, NO, NO,
        "Every pod of the pool has its images.", ""),
    Reason.LOADED: ReasonInfo(_POOL, _NOBODY, NO, NO, NO, NO, NO, NO, NO,
        "No model has failed to load.", ""),
    Reason.STABLE: ReasonInfo(_POOL, _NOBODY, NO, NO, NO, NO, NO, NO, NO,
        "No container of the pool ends again and again.", ""),
})
# fmt: on


def _those(trait: Callable[[ReasonInfo], bool]) -> frozenset[str]:
    return frozenset(reason for reason, info in REASONS.items() if trait(info))


LASTING = _those(lambda info: info.lasting)
BACKS_OFF = _those(lambda info: info.backs_off)
OF_REPLICA = frozenset({Reason.TRITON_UNAVAILABLE, Reason.ACCELERATOR_FAILED, Reason.DISK_UNAVAILABLE})
"""With which a job is handed back because of the replica, and not of its pool."""
QUIET = _those(lambda info: info.quiet)
VOLATILE = _those(lambda info: info.volatile)
"""Columns as sets, to test a status's reason, which may be one of another version, for membership."""


def parse(reason: str) -> Reason | None:
    """The Reason of that value; None where this version does not know it."""
    return Reason._value2member_map_.get(reason)  # type: ignore[return-value]


def of_chunk_error(code: str) -> Reason:
    """The reason with which an attempt fails on a chunk's error of that code: the same word, where it is a Reason."""
    reason = parse(code)
    return reason if reason is not None and REASONS[reason].counts else Reason.CHUNK_FAILED
