"""`GPUPool`: replicas that serve models, and the store that their videos go to."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from videojob.api import GROUP
from videojob.api.conditions import Condition
from videojob.api.meta import ObjectMeta
from videojob.api.podtemplate import PodTemplate
from videojob.api.schema import MAP_BY_NAME, MAP_BY_TYPE, SET, Resource, immutable, rules
from videojob.api.videojob import ObjectName

CPU = "cpu"
"""The accelerator class of a pool without one."""
PAUSED_ANNOTATION = f"{GROUP}/paused"
"""While it is "true" on a pool, the operator leaves the number of its replicas alone."""
TRITON_GRPC_PORT = 8001
"""Where the Triton of a pool's pod answers its runner, on loopback."""
MAX_REPLICAS = 1000


class Endpoint(Resource):
    """A replica that already runs somewhere: a Triton and the runner beside it."""

    name: Annotated[ObjectName, Field(description="Name of the replica; its runner is started with --replica NAME.")]
    url: Annotated[
        str,
        Field(min_length=1, max_length=512, pattern=r"^[^/\s]+:[0-9]+$", description="Triton's gRPC, as host:port."),
    ]
    max_jobs: Annotated[int, Field(ge=1, le=64, description="Jobs that share the replica, chunk by chunk.")] = 1


class Store(Resource):
    """An object store."""

    url: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            pattern=r"^(file:///|s3://[^/\s]+)",
            description="file:///folder or s3://bucket/prefix.",
        ),
    ]
    endpoint: Annotated[
        str | None, Field(max_length=512, pattern=r"^https?://", description="Of an S3 server that is not AWS.")
    ] = None
    region: Annotated[str | None, Field(max_length=64)] = None
    secret_name: Annotated[
        ObjectName | None,
        Field(
            description="Secret in the operator's namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        ),
    ] = None


class ScalingMode(StrEnum):
    """Who decides how many replicas a pool has."""

    BACKLOG = "Backlog"
    """The operator, by the predicted seconds of work that wait."""
    EXTERNAL = "External"
    """Whoever writes the scale subresource: an HPA, KEDA or a person."""


class Scaling(Resource):
    """How many replicas a managed pool has."""

    mode: Annotated[
        ScalingMode, Field(description="Backlog: the operator decides. External: an HPA, KEDA or a person does.")
    ] = ScalingMode.BACKLOG
    min_replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS, description="Never fewer; 0 lets the pool rest.")] = 0
    max_replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS, description="Never more.")] = 1
    target_seconds: Annotated[
        int, Field(ge=1, le=86400, description="Replicas are added until they drain the backlog within so long.")
    ] = 600
    stabilization_seconds: Annotated[
        int, Field(ge=0, le=86400, description="Fewer replicas must have sufficed for so long before one is removed.")
    ] = 300
    idle_seconds: Annotated[
        int, Field(ge=0, le=604800, description="Without any job for so long, the pool goes to minReplicas.")
    ] = 300


SCALING_RULES = rules(
    ("self.minReplicas <= self.maxReplicas", "minReplicas is more than maxReplicas: raise maxReplicas or lower it"),
)


def _without_default(schema: dict[str, Any]) -> None:
    """The API server fills nothing in: rules can tell what was given."""
    schema.pop("default", None)


def _endpoints(schema: dict[str, Any]) -> None:
    _without_default(schema)
    schema.update(MAP_BY_NAME)


def _scaling(schema: dict[str, Any]) -> None:
    _without_default(schema)
    schema.update(SCALING_RULES)


class GPUPoolSpec(Resource):
    """Replicas of one accelerator class. The store is immutable, because jobs have files in it."""

    accelerator: Annotated[
        ObjectName,
        Field(description="Class of the accelerator, such as nvidia-h200, or cpu: the same class, the same bytes."),
    ]
    accelerators_per_replica: Annotated[
        int, Field(ge=1, le=64, description="Accelerators that a replica holds; its GPU-seconds count this many times.")
    ] = 1
    endpoints: Annotated[
        tuple[Endpoint, ...],
        Field(
            min_length=1,
            max_length=256,
            json_schema_extra=_endpoints,
            description="Replicas that already run. Without any, the pool is made of pods.",
        ),
    ] = ()
    operator_namespace: Annotated[
        ObjectName | None,
        Field(description="Of the operator that serves the pool, if that one serves its own namespace only."),
    ] = None
    jobs_per_replica: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            json_schema_extra=_without_default,
            description="Jobs that share a pod's replica, chunk by chunk; 1 if omitted.",
        ),
    ] = 1
    replicas: Annotated[
        int | None,
        Field(ge=0, le=MAX_REPLICAS, description="Replicas of a pool whose scaling.mode is External."),
    ] = None
    scaling: Annotated[Scaling, Field(json_schema_extra=_scaling)] = Scaling()
    template: Annotated[PodTemplate, Field(json_schema_extra=_without_default)] = PodTemplate()
    models: Annotated[
        tuple[ObjectName, ...],
        Field(min_length=1, max_length=64, json_schema_extra=SET, description="VideoModels that every replica serves."),
    ]
    store: Store

    @property
    def managed(self) -> bool:
        """Whether the operator makes the replicas."""
        return not self.endpoints

    def endpoint(self, replica: str) -> Endpoint | None:
        """How the runner of that replica reaches its Triton, and how many jobs it takes; None if it is none of ours."""
        if self.managed:
            return Endpoint(name=replica, url=f"127.0.0.1:{TRITON_GRPC_PORT}", max_jobs=self.jobs_per_replica)
        return next((endpoint for endpoint in self.endpoints if endpoint.name == replica), None)


OTHER_POOL = "create a GPUPool of another name instead"
SPEC_RULES = rules(
    immutable("store", OTHER_POOL),
    immutable("accelerator", OTHER_POOL),
    immutable("operatorNamespace", OTHER_POOL),
    ("has(self.endpoints) == has(oldSelf.endpoints)", f"a pool of endpoints does not become one of pods: {OTHER_POOL}"),
    (
        "!has(self.endpoints) || !(has(self.jobsPerReplica) || has(self.replicas) || has(self.scaling) || "
        "has(self.template))",
        "jobsPerReplica, replicas, scaling and template are for managed pools: remove them, or endpoints",
    ),
    (
        "!has(self.replicas) || (has(self.scaling) && self.scaling.mode == 'External')",
        "replicas is for scaling.mode External: with mode Backlog the operator decides, "
        "between scaling.minReplicas and scaling.maxReplicas",
    ),
)


class ModelEstimate(Resource):
    """What chunks of a model really take on the pool."""

    model: str
    chunk_seconds: Annotated[float, Field(description="Replica seconds of a chunk at the model's default size.")]


class LastScaling(Resource):
    """The last time that the number of wanted replicas changed."""

    time: datetime
    from_replicas: int
    to_replicas: int
    reason: Annotated[str, Field(max_length=128)]
    message: Annotated[str, Field(max_length=1024)]


class GPUPoolStatus(Resource):
    """How the pool is."""

    observed_generation: int | None = None
    wanted_replicas: Annotated[int, Field(description="Replicas that the pool should have.")] = 0
    replicas: Annotated[int, Field(description="Replicas that there are: pods, or endpoints.")] = 0
    ready_replicas: Annotated[int, Field(description="Replicas with a live heartbeat and a loaded model.")] = 0
    busy_replicas: Annotated[int, Field(description="Replicas that hold a job.")] = 0
    loading_replicas: Annotated[int, Field(description="Replicas on their way to being ready.")] = 0
    running_jobs: int = 0
    waiting_jobs: Annotated[int, Field(description="Jobs that wait, and are predicted to run here.")] = 0
    slots: Annotated[int, Field(description="Jobs that the ready replicas can hold.")] = 0
    backlog_seconds: Annotated[
        int, Field(description="Predicted replica seconds of the jobs that run or wait here; two digits.")
    ] = 0
    cold_start_seconds: Annotated[
        int | None, Field(description="From a pod's creation to its first ready model, as measured lately.")
    ] = None
    estimates: Annotated[tuple[ModelEstimate, ...], Field(max_length=64)] = ()
    last_scaling: LastScaling | None = None
    selector: Annotated[str, Field(description="Of the pods, for the scale subresource.")] = ""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=MAP_BY_TYPE)] = ()


class GPUPool(Resource):
    """Replicas that serve models."""

    metadata: ObjectMeta
    spec: Annotated[GPUPoolSpec, Field(json_schema_extra=SPEC_RULES)]
    status: GPUPoolStatus = GPUPoolStatus()

    @property
    def paused(self) -> bool:
        """Whether the number of replicas is to stay what it is."""
        return self.metadata.annotations.get(PAUSED_ANNOTATION, "").lower() == "true"
