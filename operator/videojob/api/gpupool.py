"""`GPUPool`: replicas that serve models, and the store that their videos go to."""

from typing import Annotated

from pydantic import Field

from videojob.api.conditions import Condition
from videojob.api.meta import ObjectMeta
from videojob.api.schema import MAP_BY_NAME, MAP_BY_TYPE, SET, Resource, immutable, rules
from videojob.api.videojob import ObjectName

CPU = "cpu"
"""The accelerator class of a pool without one."""


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
        Field(min_length=1, max_length=256, json_schema_extra=MAP_BY_NAME, description="Replicas that already run."),
    ]
    models: Annotated[
        tuple[ObjectName, ...],
        Field(min_length=1, max_length=64, json_schema_extra=SET, description="VideoModels that every replica serves."),
    ]
    store: Store


SPEC_RULES = rules(
    immutable("store", "create a GPUPool of another name instead"),
    immutable("accelerator", "create a GPUPool of another name instead"),
)


class GPUPoolStatus(Resource):
    """How the pool is."""

    observed_generation: int | None = None
    replicas: Annotated[int, Field(description="Replicas that the pool should have.")] = 0
    ready_replicas: Annotated[int, Field(description="Replicas with a live heartbeat and a loaded model.")] = 0
    running_jobs: int = 0
    slots: Annotated[int, Field(description="Jobs that the ready replicas can hold.")] = 0
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=MAP_BY_TYPE)] = ()


class GPUPool(Resource):
    """Replicas that serve models."""

    metadata: ObjectMeta
    spec: Annotated[GPUPoolSpec, Field(json_schema_extra=SPEC_RULES)]
    status: GPUPoolStatus = GPUPoolStatus()
