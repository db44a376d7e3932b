"""`VideoJob`: a requested video, and its progress."""

from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from itertools import accumulate
from typing import Annotated, Literal

from pydantic import Field

from videojob import families
from videojob.api import MANAGER
from videojob.api.conditions import Condition
from videojob.api.drift import DriftPolicy, DriftStatus, DriftThresholds
from videojob.api.meta import ObjectMeta
from videojob.api.names import (
    FPS,
    MAX_ADAPTERS,
    AdapterName,
    ManagerName,
    ModelName,
    QueueName,
    ResolvedFPS,
    Seed,
    Side,
    Steps,
)
from videojob.api.schema import MAP_BY_TYPE, SET, Resource, immutable_but, rules
from videojob.api.shots import MAX_PROMPT, MAX_SHOTS, SHOT_RULES, SHOTS_RULES, ResolvedShot, Shot, ShotProgress
from videojob.families import Memory, Video, frame_rate

MAX_EARLIER_STORES = 16

OTHER_JOB = "create another job instead"
"""Advice where a field cannot be changed."""


class Phase(StrEnum):
    """The stage of a job: a summary of its conditions."""

    PENDING = "Pending"
    ASSIGNED = "Assigned"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def finished(self) -> bool:
        """Whether the job has ended, finally."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


class Output(Resource):
    """Formats and retention of the video."""

    formats: Annotated[
        tuple[Literal["MP4", "HLS"], ...],
        Field(
            min_length=1,
            max_length=2,
            description="What is made of the video: MP4, a file once it is finished; HLS, a playlist that can be "
            "watched from the first chunk on.",
            json_schema_extra=SET,
        ),
    ] = ("MP4",)
    deletion_policy: Annotated[
        Literal["Retain", "Delete"],
        Field(description="Whether the video of a succeeded job stays in the store when the job is deleted."),
    ] = "Retain"


MUTABLE = ("priority", "suspend", "cancel", "ttlSecondsAfterFinished")


class VideoJobSpec(Resource):
    """The requested video. All but priority, suspend, cancel and ttlSecondsAfterFinished is immutable."""

    model: Annotated[ModelName, Field(description="Name of the VideoModel.")]
    queue_name: Annotated[QueueName, Field(description="Name of the VideoQueue, in the job's namespace.")] = "default"
    shots: Annotated[
        tuple[Annotated[Shot, Field(json_schema_extra=SHOT_RULES)], ...],
        Field(
            min_length=1,
            max_length=MAX_SHOTS,
            description="The shots of the video, in order.",
            json_schema_extra=SHOTS_RULES,
        ),
    ]
    width: Annotated[Side | None, Field(description="In pixels, a multiple of 16. The model's default if omitted.")] = (
        None
    )
    height: Annotated[
        Side | None, Field(description="In pixels, a multiple of 16. The model's default if omitted.")
    ] = None
    fps: Annotated[
        FPS | None,
        Field(description="Frames per second: a whole number, 23.976, 29.97 or 59.94. The model's default if omitted."),
    ] = None
    seed: Annotated[
        Seed | None,
        Field(
            description="Seed of the noise, below 2^63. If omitted, one is drawn and kept in status.resolved. "
            "With a leading zero, YAML takes a number for octal: 0123 is 83."
        ),
    ] = None
    steps: Annotated[
        Steps | None,
        Field(description="Denoising steps per chunk, a whole number. The model's default if omitted."),
    ] = None
    guidance_scale: Annotated[
        float | None,
        Field(ge=0, le=30, description="Classifier-free guidance; 1 is none. The model's default if omitted."),
    ] = None
    guidance_scale_2: Annotated[
        float | None,
        Field(
            ge=0,
            le=30,
            description="Of the steps that the second transformer makes, where the model has two. If omitted: "
            "guidanceScale, or where that is omitted too, the model's default.",
        ),
    ] = None
    negative_prompt: Annotated[
        str | None,
        Field(
            max_length=MAX_PROMPT,
            description="Describes what the video is not to show. It counts only where guidanceScale is above 1.",
        ),
    ] = None
    adapters: Annotated[
        tuple[AdapterName, ...],
        Field(
            max_length=MAX_ADAPTERS,
            json_schema_extra=SET,
            description="Names of the model's adapters that are added to its weights, in this order.",
        ),
    ] = ()
    priority: Annotated[
        int, Field(ge=-1_000_000, le=1_000_000, description="Jobs of a higher priority are assigned first.")
    ] = 0
    suspend: Annotated[
        bool, Field(description="Release the job from its replica, as in batch/v1; finished chunks are kept.")
    ] = False
    cancel: Annotated[bool, Field(description="End the job as Cancelled. This cannot be undone.")] = False
    backoff_limit: Annotated[
        int, Field(ge=0, le=100, description="Failed attempts, through the job itself, before the job is Failed.")
    ] = 3
    active_deadline_seconds: Annotated[
        int | None, Field(ge=1, description="Seconds from startTime after which the job is Failed.")
    ] = None
    ttl_seconds_after_finished: Annotated[
        int | None, Field(ge=0, description="Seconds after its end at which the job is deleted; never if omitted.")
    ] = None
    drift_policy: Annotated[
        DriftPolicy,
        Field(
            description="What happens once a shot has gone further from its first frames than drift of the model "
            "allows: Report shows it, Refresh goes on without the recent past, Stop ends the job as Failed."
        ),
    ] = DriftPolicy.REPORT
    managed_by: Annotated[
        ManagerName,
        Field(description=f"The controller that reconciles the job, as a domain-prefixed path, if not {MANAGER}."),
    ] = MANAGER
    output: Output = Output()


SPEC_RULES = rules(
    *immutable_but(VideoJobSpec, MUTABLE, OTHER_JOB),
    ("!oldSelf.cancel || self.cancel", f"cancel cannot be undone: {OTHER_JOB}"),
)


class Assignment(Resource):
    """The replica that holds the job."""

    pool: str
    replica: str
    release: Annotated[
        str | None, Field(max_length=128, description="Set by the operator to have the job released: the reason.")
    ] = None


class ReplicaRef(Resource):
    """A replica of a pool."""

    pool: str
    replica: str


class Resolved(Resource):
    """Every parameter of the video, defaults included. Written with the first assignment, and never changed.

    But for the digest of weights that nobody had read by then: the first replica that reads them adds it.
    """

    width: int
    height: int
    fps: ResolvedFPS
    steps: int
    guidance_scale: float
    guidance_scale_2: Annotated[
        float | None, Field(description="Of the second transformer's steps, where it is another one.")
    ] = None
    seed: int
    frames: int
    chunks: int
    shots: Annotated[
        tuple[ResolvedShot, ...],
        Field(max_length=MAX_SHOTS, description="In order. Empty in what was written before there were several."),
    ] = ()
    model_uid: Annotated[str, Field(alias="modelUID")]
    model_generation: int
    weights_digest: Annotated[
        str, Field(description="Of the weights that the job is made with; empty until a replica has read them.")
    ]
    drift: Annotated[
        DriftThresholds | None, Field(description="How far it may drift, as the model had it when the job began.")
    ] = None

    @property
    def video(self) -> Video:
        """What its plan is made for."""
        return Video(tuple(families.Shot(shot.frames, shot.memory) for shot in self.cut), self.rate, self.steps)

    @property
    def rate(self) -> Fraction:
        """Frames per second, exactly."""
        return frame_rate(self.fps)

    @property
    def begins(self) -> tuple[int, ...]:
        """The first frame of each shot."""
        return tuple(accumulate((shot.frames for shot in self.cut[:-1]), initial=0))

    @property
    def cut(self) -> tuple[ResolvedShot, ...]:
        """Its shots, one at least."""
        return self.shots or (ResolvedShot(frames=self.frames, chunks=self.chunks, memory=Memory.CLEAR),)


class Progress(Resource):
    """Progress, in chunks that are committed to the store."""

    chunks_done: int = 0
    chunks_total: int = 0
    seconds_ready: Annotated[float, Field(description="Seconds of video in the store.")] = 0.0
    summary: Annotated[str, Field(max_length=32, description="Chunks done of all chunks, as 5/12.")] = ""
    shots: Annotated[tuple[ShotProgress, ...], Field(max_length=MAX_SHOTS, description="In order.")] = ()


class StageSeconds(Resource):
    """Seconds of work per stage, over all attempts."""

    text_encode: float = 0.0
    denoise: float = 0.0
    vae_decode: float = 0.0
    mux: float = 0.0
    upload: float = 0.0


class Timing(Resource):
    """Latencies, and durations by stage; in seconds."""

    queued_seconds: Annotated[float | None, Field(description="From creation to the first chunk's request.")] = None
    first_frame_seconds: Annotated[
        float | None, Field(description="From creation to the first frames in the store.")
    ] = None
    newest_frame_seconds: Annotated[
        float | None, Field(description="From creation to the newest frames in the store.")
    ] = None
    worst_gap_seconds: Annotated[
        float | None, Field(description="The longest time between two chunks in the store, over all attempts.")
    ] = None
    stalls: Annotated[
        int, Field(ge=0, description="Times that playback from the first frames on would have had to wait for more.")
    ] = 0
    stalled_seconds: Annotated[float, Field(description="For how long it would have waited, in all.")] = 0.0
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
    """Accelerator time that the video cost."""

    gpu_seconds: GPUSeconds = GPUSeconds()
    per_video_second: Annotated[float | None, Field(description="GPU-seconds per second of video.")] = None


class OutputStatus(Resource):
    """The finished video."""

    uri: Annotated[str, Field(max_length=2048, description="Of the MP4; of the playlist where none is asked for.")]
    sha256: str
    size_bytes: int
    frames: int
    duration_seconds: float
    playlist_uri: Annotated[
        str | None, Field(alias="playlistURI", max_length=2048, description="Of the playlist of the whole video.")
    ] = None
    poster_uri: Annotated[
        str | None, Field(alias="posterURI", max_length=2048, description="Of the first frame, as JPEG.")
    ] = None
    contact_sheet_uri: Annotated[
        str | None,
        Field(alias="contactSheetURI", max_length=2048, description="Of a JPEG with a frame from each shot's middle."),
    ] = None


class EarlierStore(Resource):
    """A folder that the job had in the store of another pool, to be purged."""

    pool: str
    store_uri: Annotated[str, Field(alias="storeURI", max_length=2048)]
    until: Annotated[
        datetime, Field(description="Until then a runner that was cut off may add files to it; it is purged after.")
    ]


class VideoJobStatus(Resource):
    """The job's state."""

    phase: Phase = Phase.PENDING
    reason: Annotated[
        str | None, Field(max_length=128, description="Reason of the condition that determines phase.")
    ] = None
    observed_generation: int | None = None
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=MAP_BY_TYPE)] = ()
    assignment: Assignment | None = None
    attempts: Annotated[
        int, Field(ge=0, description="Assignments so far; never reset: it fences off earlier runners.")
    ] = 0
    failures: Annotated[int, Field(ge=0, description="Failures that count against backoffLimit.")] = 0
    losses: Annotated[int, Field(ge=0, description="Replicas that were lost while they held the job.")] = 0
    hand_backs: Annotated[
        int,
        Field(
            ge=0,
            description="Times in a row that a replica returned it without progress, for store or replica.",
        ),
    ] = 0
    failed_on: Annotated[
        ReplicaRef | None,
        Field(description="Replica that the job last failed on. It is not given back to it while there is another."),
    ] = None
    pool: Annotated[
        str | None, Field(description="Pool of the last assignment: a job with finished chunks stays with it.")
    ] = None
    resolved: Resolved | None = None
    store_uri: Annotated[
        str | None, Field(alias="storeURI", max_length=2048, description="The job's folder in the pool's store.")
    ] = None
    cut_off_until: Annotated[
        datetime | None,
        Field(description="Until then a lost runner, cut off from the API server, may add files to the folder."),
    ] = None
    earlier_stores: Annotated[
        tuple[EarlierStore, ...],
        Field(max_length=MAX_EARLIER_STORES, description="Folders in the stores of earlier pools, to be purged."),
    ] = ()
    start_time: Annotated[datetime | None, Field(description="First assignment since creation or resume.")] = None
    completion_time: datetime | None = None
    estimated_completion_time: datetime | None = None
    progress: Progress | None = None
    timing: Timing | None = None
    cost: Cost | None = None
    drift: DriftStatus | None = None
    playlist_uri: Annotated[
        str | None,
        Field(
            alias="playlistURI",
            max_length=2048,
            description="Of the playlist to watch while the video is made; there with the first media segment.",
        ),
    ] = None
    output: OutputStatus | None = None


class VideoJob(Resource):
    """A requested video."""

    metadata: ObjectMeta
    spec: Annotated[VideoJobSpec, Field(json_schema_extra=SPEC_RULES)]
    status: VideoJobStatus = VideoJobStatus()
