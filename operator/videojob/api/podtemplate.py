"""What a person may say of the pods of a pool; everything else the operator decides."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from videojob.api.schema import ANY, INT_OR_STRING, Resource
from videojob.api.videojob import ObjectName

Image = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$")]
Quantities = dict[str, Annotated[int | str, Field(json_schema_extra=INT_OR_STRING)]]
Fragment = Annotated[dict[str, Any], Field(json_schema_extra=ANY)]
"""A part of Kubernetes' own API; the API server judges it when the Deployment is applied."""


class PullPolicy(StrEnum):
    """When an image is pulled."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class SecretReference(Resource):
    """A Secret of the operator's namespace."""

    name: ObjectName


class Resources(Resource):
    """Of one container; accelerators are not named here, but by resourceName and acceleratorsPerReplica."""

    requests: Quantities = Field(default_factory=dict)
    limits: Quantities = Field(default_factory=dict)


class EnvironmentVariable(Resource):
    """A variable of Triton's environment."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    value: Annotated[str, Field(max_length=4096)] = ""


class PodTemplate(Resource):
    """A pod of the pool: Triton and the runner beside it. A change rolls out replica by replica, each drained first."""

    image: Annotated[
        Image | None, Field(description="Triton with the models. The operator's --triton-image if omitted.")
    ] = None
    runner_image: Annotated[Image | None, Field(description="The operator's --runner-image if omitted.")] = None
    image_pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    image_pull_secrets: Annotated[tuple[SecretReference, ...], Field(max_length=16)] = ()
    resource_name: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$",
            description="Of the accelerators, as nodes offer them. nvidia.com/gpu, or none where accelerator is cpu.",
        ),
    ] = None
    triton_resources: Resources = Resources()
    runner_resources: Resources = Resources()
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: Annotated[tuple[Fragment, ...], Field(max_length=64)] = ()
    affinity: Fragment = Field(default_factory=dict)
    priority_class_name: ObjectName | None = None
    service_account_name: Annotated[
        ObjectName | None, Field(description="Needs the runner's rights. The runner's own account if omitted.")
    ] = None
    runtime_class_name: ObjectName | None = None
    volumes: Annotated[
        tuple[Fragment, ...], Field(max_length=32, description="Weights: a claim, an image volume, a ConfigMap.")
    ] = ()
    volume_mounts: Annotated[
        tuple[Fragment, ...], Field(max_length=32, description="Of the volumes, in Triton and in the runner.")
    ] = ()
    env: Annotated[tuple[EnvironmentVariable, ...], Field(max_length=64, description="Of Triton.")] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    model_load_seconds: Annotated[
        int,
        Field(
            ge=10,
            le=86400,
            description="A job waits so long for its model; a rollout that takes 10 minutes more is stuck.",
        ),
    ] = 900
    termination_grace_period_seconds: Annotated[
        int, Field(ge=60, le=3600, description="For a pod that ends, to finish its chunks and hand its jobs back.")
    ] = 120
    shared_memory_bytes: Annotated[
        int | None,
        Field(ge=1 << 20, description="Of /dev/shm. From the models' largest chunk and the slots if omitted."),
    ] = None
    memory_bytes: Annotated[
        int, Field(ge=0, description="Accelerator memory for weights and jobs; 0 where it is not known.")
    ] = 0
