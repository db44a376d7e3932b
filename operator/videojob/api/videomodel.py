"""`VideoModel`: a model that jobs refer to, with its weights, components, chunks, memory, limits and defaults."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from videojob import families
from videojob.api.drift import DriftThresholds
from videojob.api.meta import ObjectMeta
from videojob.api.names import FPS, MAX_ADAPTERS, MAX_FPS, MAX_SECONDS, AdapterName, Folder, Side, Steps
from videojob.api.schema import MAP_BY_NAME, Resource, immutable_but, rules
from videojob.families import (
    ADAPTED,
    BEGUN_WITH_IMAGES,
    FAMILIES,
    SAMPLED,
    WITH_TWO_TRANSFORMERS,
    Chunking,
    ComponentName,
    FamilyName,
    Plan,
    SamplerName,
    Video,
)

OTHER_MODEL = "create a VideoModel of another name instead"


class Precision(StrEnum):
    """Number format of weights and latents: a property of the checkpoint, never converted silently."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class WeightFormat(StrEnum):
    """Number format that weights are kept in, where that is smaller than what is computed with."""

    INT8 = "int8"
    FLOAT8 = "float8"


class ComponentDevice(StrEnum):
    """Where a component runs."""

    ACCELERATOR = "accelerator"
    CPU = "cpu"


class Source(Resource):
    """Location of the weights."""

    directory: Annotated[
        Folder,
        Field(
            description="Absolute path, on the replicas, of a folder written by the pipeline's save_pretrained.",
        ),
    ]
    digest: Annotated[
        str | None,
        Field(
            pattern=r"^sha256:[0-9a-f]{64}$",
            description="Digest of the weights, as status.resolved.weightsDigest of a job has it. Others do not load.",
        ),
    ] = None


class Component(Resource):
    """Where a component of the pipeline differs from the rest of it."""

    name: ComponentName
    directory: Annotated[
        Folder | None,
        Field(
            description="Absolute path, on the replicas, of a folder written by the component's own save_pretrained. "
            "It is taken in place of the one in source.directory, which is not read; several models may name it.",
        ),
    ] = None
    format: Annotated[
        Precision | None,
        Field(description="Number format of its weights and arithmetic; precision where it is omitted."),
    ] = None
    weights: Annotated[
        WeightFormat | None,
        Field(
            description="Number format in which the weights of its linear layers are kept, with a scale for each row, "
            "and from which they are brought back to its format where they are used. As in the folder if omitted."
        ),
    ] = None
    device: Annotated[
        ComponentDevice,
        Field(description="Where it runs. What runs on the cpu takes nothing of memory.weightsBytes, and is slow."),
    ] = ComponentDevice.ACCELERATOR


class Adapter(Resource):
    """Low-rank weights (LoRA) that jobs may have added to a transformer's."""

    name: Annotated[AdapterName, Field(description="What jobs call it.")]
    directory: Annotated[
        Folder,
        Field(
            description="Absolute path, on the replicas, of the folder with its safetensors file.",
        ),
    ]
    weight_name: Annotated[
        str | None,
        Field(
            max_length=253,
            pattern=r"^[^/]+\.safetensors$",
            description="Name of the file, where there are several in the folder.",
        ),
    ] = None
    scale: Annotated[float, Field(ge=-10, le=10, description="That it is added with.")] = 1.0
    component: Annotated[
        Literal[ComponentName.TRANSFORMER, ComponentName.TRANSFORMER_2],
        Field(description="Whose weights it is added to."),
    ] = ComponentName.TRANSFORMER


class Sampling(Resource):
    """How the model is sampled, where that is not as its folder says: few-step checkpoints are good for one ladder."""

    scheduler: Annotated[
        SamplerName,
        Field(description="UniPC, FlowMatchEuler, or FlowMatchLCM, which adds new noise after each step."),
    ]
    shift: Annotated[float, Field(gt=0, le=100, description="Of the sigmas. With timesteps it counts for nothing.")] = (
        1.0
    )
    timesteps: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1000)], ...],
        Field(
            max_length=200,
            description="One for each step, descending, in place of those that the scheduler would space; for "
            "FlowMatchLCM alone. The model then makes so many steps and no others.",
        ),
    ] = ()


SAMPLING_RULES = rules(
    (
        "!has(self.timesteps) || self.timesteps.size() == 0 || self.scheduler == 'FlowMatchLCM'",
        "timesteps are for the scheduler FlowMatchLCM: the others space their own",
    ),
    (
        "!has(self.timesteps) || self.timesteps.map(t, -t).isSorted()",
        "timesteps descend: write the first, and highest, first",
    ),
)


class Use(StrEnum):
    """Whether jobs give something."""

    REQUIRED = "Required"
    OPTIONAL = "Optional"


class Images(Resource):
    """What images the model takes for each shot."""

    first: Annotated[Use, Field(description="The first frame, `image` of a shot.")] = Use.REQUIRED
    last: Annotated[
        Use | None, Field(description="The last frame, `lastImage` of a shot. If omitted, the model takes none.")
    ] = None


IMAGES_RULES = rules(
    (
        "!has(self.last) || self.last != 'Required' || self.first == 'Required'",
        "a last image comes with a first one: where last is Required, make first Required",
    ),
)


class Chunk(Resource):
    """Size of chunks, where the family makes a video chunk by chunk. Others take no notice."""

    first_latents: Annotated[int, Field(ge=1, le=64, description="Latents of the first chunk.")] = 1
    latents: Annotated[int, Field(ge=1, le=64, description="Latents of every later chunk.")] = 3


class Memory(Resource):
    """Accelerator memory in bytes, for placement."""

    weights_bytes: Annotated[int, Field(ge=0, description="Of the loaded model, without components on the cpu.")]
    per_job_bytes: Annotated[int, Field(ge=0, description="Memory of each job that runs on it.")]


class Limits(Resource):
    """The largest video that jobs may request."""

    max_width: Side = 1280
    max_height: Side = 1280
    max_seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)] = 60
    max_guidance_scale: Annotated[
        float,
        Field(ge=0, le=30, description="1 for a model that is distilled: guidance makes its pictures worse, and slow."),
    ] = 30
    max_frames: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_SECONDS * MAX_FPS,
            description="Of one shot, whatever its fps: for families that make a shot at once, as many as the model "
            "can make and perJobBytes holds. No limit where it is omitted.",
        ),
    ] = None


class Defaults(Resource):
    """Values for fields that a job omits."""

    width: Side = 832
    height: Side = 480
    fps: FPS = 16
    steps: Steps = 4
    guidance_scale: Annotated[float, Field(ge=0, le=30)] = 1.0
    guidance_scale_2: Annotated[
        float | None,
        Field(
            ge=0,
            le=30,
            description="Of the steps that the second transformer makes: for models that have two, whose jobs may then "
            "choose it. Where it is omitted, guidanceScale is that of all steps.",
        ),
    ] = None


class Estimate(Resource):
    """Predicted duration of a chunk, until the operator has measured it."""

    chunk_seconds: Annotated[
        float, Field(gt=0, le=86400, description="Wall seconds of a chunk at the default size and steps.")
    ] = 10


MUTABLE = ("limits", "defaults", "estimate", "drift")


class VideoModelSpec(Resource):
    """A model. All but limits, defaults, estimate and drift is immutable, because running jobs depend on it."""

    family: Annotated[FamilyName, Field(description="The diffusers family.")]
    source: Source
    precision: Annotated[
        Precision, Field(description="Number format of weights and latents; float32 where the accelerator is cpu.")
    ]
    components: Annotated[
        tuple[Component, ...],
        Field(
            max_length=len(ComponentName),
            json_schema_extra=MAP_BY_NAME,
            description="Components that have another folder, number format or device than the rest.",
        ),
    ] = ()
    adapters: Annotated[
        tuple[Adapter, ...],
        Field(
            max_length=MAX_ADAPTERS,
            json_schema_extra=MAP_BY_NAME,
            description="What jobs may have added to the weights. All are loaded with the model, and take memory.",
        ),
    ] = ()
    sampling: Annotated[
        Sampling | None, Field(json_schema_extra=SAMPLING_RULES, description="As the folder says where it is omitted.")
    ] = None
    images: Annotated[
        Images | None,
        Field(
            json_schema_extra=IMAGES_RULES,
            description="What images jobs give. If omitted, the model makes videos from text alone.",
        ),
    ] = None
    chunk: Chunk = Chunk()
    window_latents: Annotated[
        int, Field(ge=1, le=1024, description="Latents of the recent past in a chunk's memory, in whole chunks.")
    ] = 12
    sink_latents: Annotated[
        int, Field(ge=0, le=1024, description="Latents of the video's beginning that stay in a chunk's memory.")
    ] = 1
    memory: Memory
    limits: Limits = Limits()
    defaults: Defaults = Defaults()
    estimate: Estimate = Estimate()
    drift: Annotated[
        DriftThresholds | None,
        Field(
            json_schema_extra={"minProperties": 1},
            description="How far a video may go from the first frames of each shot before driftPolicy of its job "
            "counts. A job keeps those that it has begun with.",
        ),
    ] = None

    @property
    def accelerated(self) -> set[Precision]:
        """The number formats of what runs on the accelerator."""
        named = {one.format for one in self.components if one.format and one.device is ComponentDevice.ACCELERATOR}
        return {self.precision, *named}

    @property
    def memories(self) -> tuple[families.Memory, ...]:
        """What a shot may take over from those before it; the first is what it does where nothing is said."""
        return FAMILIES[self.family].memories

    def plan(self, video: Video) -> Plan:
        """How a video is made with this model, and stored."""
        return FAMILIES[self.family].plan(self._chunking, video)

    @property
    def most_frames(self) -> int:
        """How many frames the largest piece of any video has."""
        return FAMILIES[self.family].most_frames(self._chunking, MAX_FPS)

    @property
    def _chunking(self) -> Chunking:
        return Chunking(self.chunk.first_latents, self.chunk.latents, self.sink_latents, self.window_latents)


SPEC_RULES = rules(
    *immutable_but(VideoModelSpec, MUTABLE, OTHER_MODEL),
    (
        f"!has(self.adapters) || self.adapters.size() == 0 || self.family in {[*map(str, ADAPTED)]}",
        f"models of this family have no adapters yet: remove them; they are for {', '.join(ADAPTED)}",
    ),
    (
        "!has(self.components) || self.components.all(one, !has(one.weights) || one.name != 'vae')",
        "a vae has hardly any linear layers: remove weights of the component vae",
    ),
    (
        "!has(self.adapters) || !has(self.components) || self.components.all(one, "
        "!has(one.weights) || self.adapters.all(adapter, adapter.component != one.name))",
        "adapters are added to weights as they are: remove weights of the components that they are for",
    ),
    (
        f"!has(self.sampling) || self.family in {[*map(str, SAMPLED)]}",
        f"models of this family sample as their folders say: remove sampling, which is for {', '.join(SAMPLED)}",
    ),
    (
        f"!has(self.images) || self.family in {[*map(str, BEGUN_WITH_IMAGES)]}",
        f"models of this family take no images yet: remove images, which are for {', '.join(BEGUN_WITH_IMAGES)}",
    ),
    (
        "!has(self.sampling) || !has(self.sampling.timesteps) || self.sampling.timesteps.size() == 0 || "
        "double(self.sampling.timesteps.size()) == self.defaults.steps",
        "the model makes a step for each of sampling.timesteps: make defaults.steps their number",
    ),
    (
        "self.windowLatents >= self.chunk.latents",
        "windowLatents must hold at least one chunk: make it chunk.latents or more",
    ),
    (
        "self.defaults.width <= self.limits.maxWidth && self.defaults.height <= self.limits.maxHeight",
        "the default size is beyond limits.maxWidth or limits.maxHeight",
    ),
    (
        "self.defaults.guidanceScale <= self.limits.maxGuidanceScale",
        "the default guidanceScale is beyond limits.maxGuidanceScale",
    ),
    (
        "!has(self.defaults.guidanceScale2) || self.defaults.guidanceScale2 <= self.limits.maxGuidanceScale",
        "the default guidanceScale2 is beyond limits.maxGuidanceScale",
    ),
    (
        f"!has(self.defaults.guidanceScale2) || self.family in {[*map(str, WITH_TWO_TRANSFORMERS)]}",
        "models of this family have one transformer: remove defaults.guidanceScale2, which is for "
        f"{', '.join(WITH_TWO_TRANSFORMERS)}",
    ),
)


class VideoModel(Resource):
    """A model that jobs refer to."""

    metadata: ObjectMeta
    spec: Annotated[VideoModelSpec, Field(json_schema_extra=SPEC_RULES)]
