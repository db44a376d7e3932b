"""A replica in the API: a Lease that its runner renews, with a report in an annotation."""

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
"""Set by the operator or a person, with the reason: the replica releases its jobs and takes no more."""


CUT_OFF_SECONDS = 1800
"""How long a runner goes on without the API server, unless its options or its report differ."""
MAX_CUT_OFF_SECONDS = 86400


class ModelState(StrEnum):
    """State of a model on a replica."""

    LOADING = "Loading"
    READY = "Ready"
    FAILED = "Failed"
    UNLOADED = "Unloaded"
    """It was unloaded in favour of another one, and is loaded again for the next job that needs it."""


class LoadedModel(Resource):
    """A VideoModel on a replica."""

    name: str
    uid: str
    state: ModelState
    digest: Annotated[str, Field(description="sha256 over the weights; empty while unknown.")] = ""
    message: Annotated[str, Field(max_length=512)] = ""


class HeldJob(Resource):
    """A job that the runner holds, whether it makes chunks of it or only cleans up after it."""

    uid: str
    attempt: Annotated[int, Field(ge=1, description="The value of status.attempts that the runner works for.")]
    finishing: Annotated[
        bool, Field(description="Its frames are made, and only its video and its status are missing: it needs no slot.")
    ] = False


class ReplicaReport(Resource):
    """The runner's report on its replica."""

    slots: Annotated[int, Field(ge=0, description="Jobs that it takes at a time.")]
    memory_bytes: Annotated[int, Field(ge=0, description="Memory for weights and jobs; 0 if unknown.")] = 0
    draining: bool = False
    models: tuple[LoadedModel, ...] = ()
    store_error: Annotated[str, Field(max_length=512, description="Why the store cannot be used, if so.")] = ""
    triton_error: Annotated[str, Field(max_length=512, description="Why Triton cannot be used, if so.")] = ""
    accelerator_error: Annotated[
        str, Field(max_length=512, description="Why the replica takes no job though Triton answers, if so.")
    ] = ""
    jobs_error: Annotated[
        str, Field(max_length=512, description="Why the runner does not see which jobs are assigned to it, if so.")
    ] = ""
    jobs: Annotated[tuple[HeldJob, ...], Field(description="Jobs that the runner holds, each in one attempt.")] = ()
    cut_off_seconds: Annotated[
        int,
        Field(ge=0, description="Seconds since the last renewal for which a runner without the API server goes on."),
    ] = CUT_OFF_SECONDS


def lease_name(pool: str, replica: str) -> str:
    """Name of the replica's Lease: unique, because names of pools have no dot. The leader's Lease has none either."""
    return f"{pool}.{replica}"


def pod_labels(pool: str) -> dict[str, str]:
    """Labels that select the pods of a pool, and its Deployment."""
    return {POOL_LABEL: pool, COMPONENT_LABEL: REPLICA_COMPONENT}
