"""`GPUPool`: replicas that serve models, and the store of their videos."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from videojob.api import GROUP
from videojob.api.conditions import Condition
from videojob.api.meta import ObjectMeta
from videojob.api.names import AcceleratorClass, EndpointName, ModelName, NamespaceName, ObjectName, sentence
from videojob.api.podtemplate import PodTemplate
from videojob.api.schema import MAP_BY_NAME, MAP_BY_TYPE, SET, Resource, immutable, rules, without_default

CPU = "cpu"
"""The accelerator class of a pool without one."""
PAUSED_ANNOTATION = f"{GROUP}/paused"
"""While it is "true" on a pool, the operator does not scale it."""
CA_KEY = "ca.crt"
"""Of the ConfigMap that `store.caConfigMapName` names."""
TRITON_GRPC_PORT = 8001
"""Where the Triton of a pool's pod answers its runner, on loopback."""
MAX_REPLICAS = 1000
ADDRESS = r"^([^/:\[\]\s]+|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._~-]+)?\]):[0-9]{1,5}$"
SHARE = r"^([1-9][0-9]?|100)%$"


class Endpoint(Resource):
    """A replica that already runs somewhere: a Triton and the runner beside it."""

    name: Annotated[EndpointName, Field(description="Name of the replica; its runner is started with --replica NAME.")]
    url: Annotated[
        str,
        Field(
            min_length=1,
            max_length=512,
            pattern=ADDRESS,
            json_schema_extra=sentence(
                ADDRESS, "url is host:port without http://; an IPv6 address is in brackets, such as [::1]:8001"
            ),
            description="Triton's gRPC, as host:port; an IPv6 address is in brackets.",
        ),
    ]
    max_jobs: Annotated[int, Field(ge=1, le=64, description="Jobs that share the replica, chunk by chunk.")] = 1


class Store(Resource):
    """An object store."""

    url: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            pattern=r"^(file:///\S*|s3://[^/\s]+(/\S*)?)$",
            description="file:///folder or s3://bucket/prefix. Immutable.",
        ),
    ]
    endpoint: Annotated[
        str | None, Field(max_length=512, pattern=r"^https?://\S+$", description="Of an S3 server that is not AWS.")
    ] = None
    region: Annotated[str | None, Field(max_length=64, pattern=r"^\S+$")] = None
    secret_name: Annotated[
        ObjectName | None,
        Field(
            description="Secret in the operator's namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        ),
    ] = None
    ca_config_map_name: Annotated[
        ObjectName | None,
        Field(
            description="ConfigMap in the operator's namespace with ca.crt: the PEM of CAs that are trusted "
            "beside the system's, for an S3 server whose certificate a CA of your own has signed.",
        ),
    ] = None


OTHER_POOL = "create a GPUPool of another name instead"
STORE_RULES = rules(
    immutable("url", f"jobs have files there; {OTHER_POOL}"),
)


class ScalingMode(StrEnum):
    """Who scales a pool."""

    BACKLOG = "Backlog"
    """The operator, by the predicted seconds of pending work."""
    EXTERNAL = "External"
    """Whoever writes the scale subresource: an HPA, KEDA or a person."""


class Scaling(Resource):
    """Scaling of a managed pool."""

    mode: Annotated[
        ScalingMode,
        Field(description="Backlog: the operator scales the pool. External: an HPA, KEDA or a person does."),
    ] = ScalingMode.BACKLOG
    min_replicas: Annotated[
        int, Field(ge=0, le=MAX_REPLICAS, description="Least number of replicas; with 0 the pool scales to zero.")
    ] = 0
    max_replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS, description="Greatest number of replicas.")] = 1
    target_seconds: Annotated[
        int, Field(ge=1, le=86400, description="Replicas are added so that the backlog drains within this time.")
    ] = 600
    stabilization_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=86400,
            description="Stabilization window: fewer replicas must have sufficed for this time before one is removed.",
        ),
    ] = 300
    idle_seconds: Annotated[
        int, Field(ge=0, le=604800, description="After this time without any job, the pool scales to minReplicas.")
    ] = 300


class Rollout(Resource):
    """How a change of the template reaches the replicas of a managed pool."""

    max_unavailable: Annotated[
        int | str,
        Field(
            json_schema_extra={
                "x-kubernetes-int-or-string": True,
                **rules(
                    (
                        f"type(self) == int ? self >= 1 : self.matches(r'{SHARE}')",
                        "maxUnavailable is a number of replicas, at least 1, or a share of them, such as 25%",
                    )
                ),
            },
            description="Replicas that are replaced at a time, each drained first: a number, or a share as of a "
            "Deployment, rounded down, but at least one.",
        ),
    ] = "25%"


SCALING_RULES = rules(
    ("self.minReplicas <= self.maxReplicas", "minReplicas is more than maxReplicas: raise maxReplicas or lower it"),
)


ONE_ACCELERATOR = rules(
    ("self <= 1", "no model uses more than one accelerator yet: make it 1 and have more replicas"),
)
"""Of the schema alone: pools that were stored before it may have more, and are read as they are."""


def _endpoints(schema: dict[str, Any]) -> None:
    without_default(schema)
    schema.update(MAP_BY_NAME)


def _scaling(schema: dict[str, Any]) -> None:
    without_default(schema)
    schema.update(SCALING_RULES)


class GPUPoolSpec(Resource):
    """Replicas of one accelerator class. The store's URL is immutable, because jobs have files there."""

    accelerator: Annotated[
        AcceleratorClass,
        Field(
            description="Class of the accelerator, such as nvidia-h200, or cpu. The same class gives the same bytes."
        ),
    ]
    accelerators_per_replica: Annotated[
        int,
        Field(
            ge=1,
            json_schema_extra=ONE_ACCELERATOR,
            description="Accelerators that a replica holds: 1, because no model uses more yet. Its GPU-seconds count "
            "this many times.",
        ),
    ] = 1
    endpoints: Annotated[
        tuple[Endpoint, ...],
        Field(
            min_length=1,
            max_length=256,
            json_schema_extra=_endpoints,
            description="Replicas that already run elsewhere. Without any, the operator runs them: a managed pool.",
        ),
    ] = ()
    operator_namespace: Annotated[
        NamespaceName | None,
        Field(description="Namespace of the operator that reconciles the pool, if it serves its own namespace only."),
    ] = None
    jobs_per_replica: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            json_schema_extra=without_default,
            description="Jobs that share a pod's replica, chunk by chunk; 1 if omitted.",
        ),
    ] = 1
    replicas: Annotated[
        int | None,
        Field(ge=0, le=MAX_REPLICAS, description="Replicas of a pool whose scaling.mode is External."),
    ] = None
    scaling: Annotated[Scaling, Field(json_schema_extra=_scaling)] = Scaling()
    rollout: Annotated[Rollout, Field(json_schema_extra=without_default)] = Rollout()
    template: Annotated[PodTemplate, Field(json_schema_extra=without_default)] = PodTemplate()
    models: Annotated[
        tuple[ModelName, ...],
        Field(min_length=1, max_length=64, json_schema_extra=SET, description="VideoModels that every replica serves."),
    ]
    store: Annotated[Store, Field(json_schema_extra=STORE_RULES)]

    @property
    def managed(self) -> bool:
        """Whether the operator manages the replicas."""
        return not self.endpoints

    def endpoint(self, replica: str) -> Endpoint | None:
        """Address and job limit of that replica's Triton; None where the pool has no such replica."""
        if self.managed:
            return Endpoint(name=replica, url=f"127.0.0.1:{TRITON_GRPC_PORT}", max_jobs=self.jobs_per_replica)
        return next((endpoint for endpoint in self.endpoints if endpoint.name == replica), None)


SPEC_RULES = rules(
    immutable("accelerator", OTHER_POOL),
    immutable("operatorNamespace", OTHER_POOL),
    (
        "has(self.endpoints) == has(oldSelf.endpoints)",
        f"a pool of endpoints does not become a managed one, or the reverse: {OTHER_POOL}",
    ),
    (
        "!has(self.endpoints) || !(has(self.jobsPerReplica) || has(self.replicas) || has(self.scaling) || "
        "has(self.rollout) || has(self.template))",
        "jobsPerReplica, replicas, scaling, rollout and template are for managed pools: remove them, or endpoints",
    ),
    (
        "!has(self.replicas) || (has(self.scaling) && self.scaling.mode == 'External')",
        "replicas is for scaling.mode External: with mode Backlog the operator scales the pool, "
        "between scaling.minReplicas and scaling.maxReplicas",
    ),
)


class ModelEstimate(Resource):
    """Measured duration of a model's chunks on the pool."""

    model: str
    chunk_seconds: Annotated[float, Field(description="Replica seconds of a chunk at the model's default size.")]


class LastScaling(Resource):
    """The last change of desiredReplicas."""

    time: datetime
    from_replicas: int
    to_replicas: int
    reason: Annotated[str, Field(max_length=128)]
    message: Annotated[str, Field(max_length=1024)]


class GPUPoolStatus(Resource):
    """The pool's state."""

    observed_generation: int | None = None
    desired_replicas: Annotated[
        int, Field(description="Replicas that the pool should have, as of the last scaling decision.")
    ] = 0
    replicas: Annotated[int, Field(description="Replicas that exist: pods, or endpoints.")] = 0
    ready_replicas: Annotated[int, Field(description="Replicas with a live heartbeat and a loaded model.")] = 0
    busy_replicas: Annotated[int, Field(description="Replicas that hold a job.")] = 0
    loading_replicas: Annotated[int, Field(description="Replicas that are starting or loading a model.")] = 0
    running_jobs: int = 0
    waiting_jobs: Annotated[int, Field(description="Pending jobs that are predicted to run here.")] = 0
    slots: Annotated[int, Field(description="Jobs that the ready replicas can hold.")] = 0
    backlog_seconds: Annotated[
        int,
        Field(description="Predicted replica seconds of the jobs that run or wait here, with two significant digits."),
    ] = 0
    cold_start_seconds: Annotated[
        int | None, Field(description="Seconds from a pod's creation to its first ready model: a moving average.")
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
        """Whether scaling is paused."""
        return self.metadata.annotations.get(PAUSED_ANNOTATION, "").lower() == "true"
