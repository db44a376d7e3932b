"""The configurable part of a managed pool's pods; the operator sets the rest."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from videojob.api.names import ObjectName, Quantity
from videojob.api.schema import ANY, Resource

Image = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$")]
Quantities = dict[str, Quantity]
Fragment = Annotated[dict[str, Any], Field(json_schema_extra=ANY)]
"""A part of Kubernetes' own API, which is validated when the Deployment is applied."""


class PullPolicy(StrEnum):
    """When an image is pulled."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class UserIDs(StrEnum):
    """Source of the user, group and fsGroup of a pool's pods."""

    FIXED = "Fixed"
    """Set in the pod: those of the images."""
    NAMESPACE = "Namespace"
    """Not set in the pod: the cluster assigns those of its namespace, as OpenShift does."""


class SecretReference(Resource):
    """A Secret of the operator's namespace."""

    name: ObjectName


class Resources(Resource):
    """Resources of one container, without accelerators: resourceName and acceleratorsPerReplica set those."""

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
    user_ids: Annotated[
        UserIDs | None,
        Field(
            alias="userIDs",
            description="User, group and fsGroup of the pods. Fixed: those of the images, 10001. Namespace: none, for "
            "a cluster that assigns those of the namespace, as OpenShift does. Else the operator's --pod-user-ids.",
        ),
    ] = None
    resource_name: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$",
            description="Extended resource of the accelerators. If omitted, nvidia.com/gpu, or none for cpu.",
        ),
    ] = None
    triton_resources: Resources = Resources()
    runner_resources: Resources = Resources()
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: Annotated[tuple[Fragment, ...], Field(max_length=64)] = ()
    affinity: Fragment = Field(default_factory=dict)
    priority_class_name: ObjectName | None = None
    service_account_name: Annotated[
        ObjectName | None, Field(description="It needs the runner's rights. The runner's own account if omitted.")
    ] = None
    runtime_class_name: ObjectName | None = None
    volumes: Annotated[
        tuple[Fragment, ...],
        Field(max_length=32, description="Volumes for weights: a claim, an image volume, a ConfigMap."),
    ] = ()
    volume_mounts: Annotated[
        tuple[Fragment, ...], Field(max_length=32, description="Mounts of the volumes, in Triton and in the runner.")
    ] = ()
    env: Annotated[tuple[EnvironmentVariable, ...], Field(max_length=64, description="Environment of Triton.")] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    model_load_seconds: Annotated[
        int,
        Field(
            ge=10,
            le=86400,
            description="Longest time to load a model. A rollout without progress for 10 minutes more has failed.",
        ),
    ] = 900
    termination_grace_period_seconds: Annotated[
        int,
        Field(
            ge=35,
            le=3600,
            description="Time for a terminating pod to finish its chunks and release its jobs. What is not done 30 s "
            "before its end is paused.",
        ),
    ] = 120
    shared_memory_bytes: Annotated[
        int | None,
        Field(
            ge=1 << 20,
            description="Size of /dev/shm. Computed from the models' largest chunk and the slots if omitted.",
        ),
    ] = None
    memory_bytes: Annotated[int, Field(ge=0, description="Accelerator memory for weights and jobs; 0 if unknown.")] = 0
