"""A replica as the control plane sees it: a Lease that its runner renews, with a report in an annotation."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from videojob.api import GROUP
from videojob.api.schema import Resource

POOL_LABEL = f"{GROUP}/pool"
REPLICA_LABEL = f"{GROUP}/replica"
COMPONENT_LABEL = f"{GROUP}/component"
REPLICA_COMPONENT = "replica"
REPORT_ANNOTATION = f"{GROUP}/report"
"""JSON of a `ReplicaReport`, written by the runner."""
DRAIN_ANNOTATION = f"{GROUP}/drain"
"""Set by the operator or a person: the reason why the replica should hand back its jobs and take no more."""


class ModelState(StrEnum):
    """How a model is on a replica."""

    LOADING = "Loading"
    READY = "Ready"
    FAILED = "Failed"
    UNLOADED = "Unloaded"
    """It made room for another one, and is loaded again when a job comes for it."""


class LoadedModel(Resource):
    """A VideoModel on a replica."""

    name: str
    uid: str
    state: ModelState
    digest: Annotated[str, Field(description="sha256 over the weights; empty while it is not known.")] = ""
    message: Annotated[str, Field(max_length=512)] = ""


class ReplicaReport(Resource):
    """What a runner says of its replica."""

    slots: Annotated[int, Field(ge=0, description="Jobs that it takes at a time.")]
    memory_bytes: Annotated[int, Field(ge=0, description="Memory for weights and jobs; 0 where it is not known.")] = 0
    draining: bool = False
    models: tuple[LoadedModel, ...] = ()
    store_error: Annotated[str, Field(max_length=512, description="Why the store cannot be used, if so.")] = ""
    triton_error: Annotated[str, Field(max_length=512, description="Why Triton cannot be used, if so.")] = ""


def lease_name(pool: str, replica: str) -> str:
    """Name of the replica's Lease."""
    return f"{pool}-{replica}"


def pod_labels(pool: str) -> dict[str, str]:
    """Labels that select the pods of a pool, and its Deployment."""
    return {POOL_LABEL: pool, COMPONENT_LABEL: REPLICA_COMPONENT}
