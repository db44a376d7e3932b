"""`VideoJob`: a video that somebody wants, and how far it is."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from videojob.api import MANAGER
from videojob.api.conditions import Condition
from videojob.api.meta import ObjectMeta
from videojob.api.schema import MAP_BY_TYPE, Resource, immutable, rules

MAX_SECONDS = 600
MAX_PROMPT = 4000
MAX_SIDE = 4096

OTHER_JOB = "create another job instead"
ObjectName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
Side = Annotated[int, Field(ge=16, le=MAX_SIDE, multiple_of=16)]


class Phase(StrEnum):
    """Where a job is: a summary of its conditions."""

    PENDING = "Pending"
    ASSIGNED = "Assigned"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def finished(self) -> bool:
        """Whether the job has ended, for good."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


class Shot(Resource):
    """A part of the video with a prompt of its own."""

    prompt: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_PROMPT,
            description="What the shot shows.",
            json_schema_extra=rules((r"self.matches('\\S')", "the prompt is blank: say what the shot shows")),
        ),
    ]
    seconds: Annotated[
        float,
        Field(gt=0, le=MAX_SECONDS, description="Length of the shot in seconds; it gets round(seconds x fps) frames."),
    ]


class Output(Resource):
    """What becomes of the finished video."""

    container: Annotated[Literal["mp4"], Field(description="Container format of the video.")] = "mp4"
    deletion_policy: Annotated[
        Literal["Retain", "Delete"],
        Field(description="Whether the video of a succeeded job stays in the store when the job is deleted."),
    ] = "Retain"


IMMUTABLE = (
    "model",
    "queueName",
    "shots",
    "width",
    "height",
    "fps",
    "seed",
    "steps",
    "guidanceScale",
    "backoffLimit",
    "activeDeadlineSeconds",
    "managedBy",
    "output",
)


class VideoJobSpec(Resource):
    """The video that is wanted. All but suspend, cancel, priority and ttlSecondsAfterFinished is immutable."""

    model: Annotated[ObjectName, Field(description="Name of the VideoModel.")]
    queue_name: Annotated[ObjectName, Field(description="Name of the VideoQueue, in the job's namespace.")] = "default"
    shots: Annotated[
        tuple[Shot, ...],
        Field(min_length=1, max_length=1, description="The shots of the video, in order (one, for now)."),
    ]
    width: Annotated[Side | None, Field(description="Pixels; a multiple of 16. The model's default if omitted.")] = None
    height: Annotated[Side | None, Field(description="Pixels; a multiple of 16. The model's default if omitted.")] = (
        None
    )
    fps: Annotated[int | None, Field(ge=1, le=60, description="Frames per second. The model's default if omitted.")] = (
        None
    )
    seed: Annotated[
        int | None, Field(ge=0, le=2**32 - 1, description="Seed of the noise. Drawn, and kept on status, if omitted.")
    ] = None
    steps: Annotated[
        int | None, Field(ge=1, le=200, description="Denoising steps per chunk. The model's default if omitted.")
    ] = None
    guidance_scale: Annotated[
        float | None, Field(ge=0, le=30, description="Classifier-free guidance. The model's default if omitted.")
    ] = None
    priority: Annotated[
        int, Field(ge=-1_000_000, le=1_000_000, description="Jobs of a higher priority are assigned first.")
    ] = 0
    suspend: Annotated[bool, Field(description="Take the job from its replica; finished chunks are kept.")] = False
    cancel: Annotated[bool, Field(description="End the job as Cancelled. It cannot be taken back.")] = False
    backoff_limit: Annotated[
        int, Field(ge=0, le=100, description="Failures of the job itself before it is Failed.")
    ] = 3
    active_deadline_seconds: Annotated[
        int | None, Field(ge=1, description="Seconds from startTime after which the job is Failed.")
    ] = None
    ttl_seconds_after_finished: Annotated[
        int | None, Field(ge=0, description="Seconds after its end at which the job is deleted.")
    ] = None
    managed_by: Annotated[
        str,
        Field(min_length=1, max_length=253, description=f"The controller that acts on the job, if not {MANAGER}."),
    ] = MANAGER
    output: Output = Output()


SPEC_RULES = rules(
    *(immutable(field, OTHER_JOB) for field in IMMUTABLE),
    ("!oldSelf.cancel || self.cancel", f"cancel cannot be taken back: {OTHER_JOB}"),
)


class Assignment(Resource):
    """The replica that holds the job."""

    pool: str
    replica: str
    release: Annotated[
        str | None, Field(max_length=128, description="Set by the operator to take the job back: why.")
    ] = None


class Resolved(Resource):
    """What is made, every default filled in. Written once, with the first assignment."""

    width: int
    height: int
    fps: int
    steps: int
    guidance_scale: float
    seed: int
    frames: int
    chunks: int
    model_uid: Annotated[str, Field(alias="modelUID")]
    model_generation: int
    weights_digest: str


class Progress(Resource):
    """How far the job is, in chunks that are committed to the store."""

    chunks_done: int = 0
    chunks_total: int = 0
    seconds_ready: Annotated[float, Field(description="Seconds of video in the store.")] = 0.0
    summary: Annotated[str, Field(max_length=32, description="Chunks done of all, as 5/12.")] = ""


class StageSeconds(Resource):
    """Seconds of work per stage, over all attempts."""

    text_encode: float = 0.0
    denoise: float = 0.0
    vae_decode: float = 0.0
    mux: float = 0.0
    upload: float = 0.0


class Timing(Resource):
    """When pixels came, and what the time went into; in seconds."""

    queued_seconds: Annotated[float | None, Field(description="From creation to the first chunk's request.")] = None
    first_frame_seconds: Annotated[
        float | None, Field(description="From creation to the first frames in the store.")
    ] = None
    running_seconds: Annotated[float, Field(description="Wall time on replicas, over all attempts.")] = 0.0
    real_time_factor: Annotated[
        float | None,
        Field(description="Wall seconds on replicas per second of video; below 1 is faster than playback."),
    ] = None
    stages: StageSeconds = StageSeconds()


class GPUSeconds(Resource):
    """Accelerator time per stage: compute seconds times the replica's accelerators, over all attempts."""

    text_encode: float = 0.0
    denoise: float = 0.0
    vae_decode: float = 0.0
    total: float = 0.0


class Cost(Resource):
    """What the video took."""

    gpu_seconds: GPUSeconds = GPUSeconds()
    per_video_second: Annotated[float | None, Field(description="GPU-seconds per second of video.")] = None


class OutputStatus(Resource):
    """The finished video."""

    uri: Annotated[str, Field(max_length=2048)]
    sha256: str
    size_bytes: int
    frames: int
    duration_seconds: float


class VideoJobStatus(Resource):
    """What became of the job so far."""

    phase: Phase = Phase.PENDING
    reason: Annotated[str | None, Field(max_length=128, description="Reason of the condition that phase rests on.")] = (
        None
    )
    observed_generation: int | None = None
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=MAP_BY_TYPE)] = ()
    assignment: Assignment | None = None
    attempts: Annotated[int, Field(ge=0, description="Assignments so far; never reset: it fences off old runners.")] = 0
    failures: Annotated[int, Field(ge=0, description="Failures that count against backoffLimit.")] = 0
    losses: Annotated[int, Field(ge=0, description="Replicas that were lost while they held the job.")] = 0
    pool: Annotated[
        str | None, Field(description="Pool of the last assignment: a job with finished chunks stays with it.")
    ] = None
    resolved: Resolved | None = None
    store_uri: Annotated[str | None, Field(alias="storeURI", max_length=2048)] = None
    start_time: Annotated[datetime | None, Field(description="First assignment since creation or resume.")] = None
    completion_time: datetime | None = None
    estimated_completion_time: datetime | None = None
    progress: Progress | None = None
    timing: Timing | None = None
    cost: Cost | None = None
    output: OutputStatus | None = None


class VideoJob(Resource):
    """A video that is asked for with `kubectl apply`."""

    metadata: ObjectMeta
    spec: Annotated[VideoJobSpec, Field(json_schema_extra=SPEC_RULES)]
    status: VideoJobStatus = VideoJobStatus()
