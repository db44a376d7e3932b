"""JSON objects of the API as facts: what planning needs of them, and nothing else.

These are pure functions. Each raises UnreadableError, with a sentence, for an object that cannot be read.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from videojob.api.conditions import ConditionType, find
from videojob.api.replica import (
    DRAIN_ANNOTATION,
    POOL_LABEL,
    REPLICA_LABEL,
    REPORT_ANNOTATION,
    ReplicaReport,
    lease_name,
)
from videojob.api.videojob import Phase, VideoJob, VideoJobStatus
from videojob.planner.facts import EPOCH, Deployed, Job, Pod, Replica, ReplicaKey, WantedShot
from videojob.planner.liveness import DEFAULT_LEASE_SECONDS, Beat
from videojob.workload.deployment import deployment_name
from videojob.workload.pod import read_pod

Json = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)

FIELD_MANAGER = "videojob-operator"
"""Owns the operator's fields of a Deployment."""
NO_REPORT = "The runner has not reported yet."


class UnreadableError(Exception):
    """An object cannot be read; the text says why."""


def read_model(kind: type[Model], body: Json) -> Model:
    """An object of videojob.dev. Raises UnreadableError."""
    try:
        found = kind.model_validate(body)
        int(body["metadata"]["resourceVersion"])
    except ValidationError as error:
        raise UnreadableError(_sentence(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableError(f"its metadata cannot be read: {_why(error)}") from error
    return found


def read_job(body: Json, draw_seed: Callable[[], int]) -> tuple[VideoJob, Job]:
    """A VideoJob, whole and slim; `draw_seed` gives a seed where the spec has none. Raises UnreadableError."""
    found = read_model(VideoJob, body)
    status = json.dumps(body.get("status") or {}, separators=(",", ":")).encode()
    return found, slim(found, found.spec.seed if found.spec.seed is not None else draw_seed(), status)


def slim(found: VideoJob, seed: int, status: bytes) -> Job:
    """What planning needs of a VideoJob."""
    metadata, spec, state = found.metadata, found.spec, found.status
    waits = find(state.conditions, ConditionType.ASSIGNED)
    return Job(
        uid=metadata.uid,
        namespace=metadata.namespace,
        name=metadata.name,
        created=metadata.creation_timestamp or EPOCH,
        queue=spec.queue_name,
        model=spec.model,
        shots=tuple(WantedShot(shot.seconds, shot.memory, shot.seed, len(shot.images)) for shot in spec.shots),
        seed=seed,
        width=spec.width,
        height=spec.height,
        fps=spec.fps,
        steps=spec.steps,
        guidance_scale=spec.guidance_scale,
        guidance_scale_2=spec.guidance_scale_2,
        adapters=spec.adapters,
        drift_policy=spec.drift_policy,
        priority=spec.priority,
        suspend=spec.suspend,
        cancel=spec.cancel,
        deleted=metadata.deletion_timestamp is not None,
        finalizers=metadata.finalizers,
        retain_output=spec.output.deletion_policy == "Retain",
        backoff_limit=spec.backoff_limit,
        active_deadline_seconds=spec.active_deadline_seconds,
        ttl_seconds_after_finished=spec.ttl_seconds_after_finished,
        phase=state.phase,
        attempts=state.attempts,
        failures=state.failures,
        losses=state.losses,
        hand_backs=state.hand_backs,
        reason=waits.reason if waits else "",
        message=waits.message if waits else "",
        since=waits.last_transition_time if waits else EPOCH,
        assignment=state.assignment,
        failed_on=ReplicaKey(state.failed_on.pool, state.failed_on.replica) if state.failed_on else None,
        pool=state.pool,
        resolved=state.resolved,
        store_uri=state.store_uri,
        chunks_done=state.progress.chunks_done if state.progress else 0,
        running_seconds=state.timing.running_seconds if state.timing else 0.0,
        start_time=state.start_time,
        completion_time=state.completion_time,
        cut_off_until=state.cut_off_until,
        earlier_stores=state.earlier_stores,
        version=int(metadata.resource_version),
        generation=metadata.generation,
        observed_generation=_observed(state),
        status=status,
    )


def _observed(status: VideoJobStatus) -> int:
    stamps = [status.observed_generation, *(condition.observed_generation for condition in status.conditions)]
    return min(stamp or 0 for stamp in stamps)


def replica_key(body: Json) -> ReplicaKey:
    """The replica that a Lease is of. Raises UnreadableError."""
    try:
        labels, name = body["metadata"].get("labels") or {}, body["metadata"]["name"]
        key = ReplicaKey(labels[POOL_LABEL], labels[REPLICA_LABEL])
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableError(f"its labels {POOL_LABEL} and {REPLICA_LABEL} do not name a replica") from error
    if not (isinstance(key.pool, str) and isinstance(key.name, str)) or lease_name(*key) != name:
        raise UnreadableError(f"the Lease of replica {key.name} of pool {key.pool} is {lease_name(*key)}, not {name}")
    return key


def read_beat(body: Json, old: Beat | None, now: float) -> tuple[Beat, str]:
    """A replica's Lease as seen now, in monotonic seconds, and why its report cannot be read; empty where it can.

    A report that cannot be read leaves the last one in force, and gives the replica no new job. Raises UnreadableError
    where not even the renewal can be read.
    """
    try:
        metadata, spec = body["metadata"], body["spec"]
        annotations = metadata.get("annotations") or {}
        name, renew_time = str(metadata["name"]), _text(spec.get("renewTime"))
        left = not spec.get("holderIdentity")
        seconds = float(spec.get("leaseDurationSeconds") or DEFAULT_LEASE_SECONDS)
        drain_reason = _text(annotations.get(DRAIN_ANNOTATION))
        text = annotations.get(REPORT_ANNOTATION)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableError(f"it is no Lease: {_why(error)}") from error
    last = old.replica.report if old is not None and old.replica is not None else ReplicaReport(slots=0)
    trouble = ""
    try:
        report = (
            ReplicaReport.model_validate_json(text)
            if text is not None
            else last.model_copy(update={"triton_error": NO_REPORT})
        )
    except ValidationError as error:
        trouble = f"its annotation {REPORT_ANNOTATION} is not valid: {_sentence(error)}"
        report = last.model_copy(update={"triton_error": f"Of Lease {name}, {trouble}"[:512]})
    replica = Replica(report, draining=bool(drain_reason), drain_reason=drain_reason)
    holder = str(spec.get("holderIdentity") or "")
    return Beat(replica, name, renew_time, seconds, seen=now, left=left, holder=holder), trouble


def pod_key(body: Json) -> ReplicaKey:
    """The replica that a pod is. Raises UnreadableError."""
    try:
        return ReplicaKey(body["metadata"]["labels"][POOL_LABEL], body["metadata"]["name"])
    except (KeyError, TypeError) as error:
        raise UnreadableError(f"it has no label {POOL_LABEL}") from error


def pod_of(body: Json) -> Pod:
    """The pod in a slim form. Raises UnreadableError."""
    try:
        return read_pod(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableError(f"it is no pod: {_why(error)}") from error


def deployment_pool(body: Json) -> str:
    """The pool that a Deployment is of. Raises UnreadableError."""
    try:
        pool, name = body["metadata"]["labels"][POOL_LABEL], body["metadata"]["name"]
    except (KeyError, TypeError) as error:
        raise UnreadableError(f"it has no label {POOL_LABEL}") from error
    if name != deployment_name(pool):
        raise UnreadableError(f"the Deployment of pool {pool} is {deployment_name(pool)}, not {name}")
    return str(pool)


def deployed_of(body: Json) -> Deployed:
    """The Deployment in a slim form. Raises UnreadableError."""
    try:
        metadata = body["metadata"]
        replicas = body["spec"].get("replicas", 1)
        return Deployed(int(replicas), int(metadata["generation"]), _owned(metadata), version_of(body))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableError(f"it is no Deployment: {_why(error)}") from error


def version_of(body: Json) -> int:
    """An object's resource version. Raises UnreadableError."""
    try:
        return int(body["metadata"]["resourceVersion"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableError("it has no resourceVersion that is a number") from error


def _text(value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value or ""


def _owned(metadata: Mapping[str, Any]) -> bool:
    """Whether `spec.replicas` is this operator's alone: it would fall back to its default if the operator let it go."""
    owners = {
        entry.get("manager")
        for entry in metadata.get("managedFields") or []
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    }
    return owners == {FIELD_MANAGER}


def _sentence(error: ValidationError) -> str:
    """What does not fit, without the values: they may be prompts."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{'.'.join(map(str, first['loc'])) or 'object'}: {first['msg']}{more}"


def _why(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def holder_of(body: Json) -> ReplicaKey | None:
    """The replica that a job names whose other fields cannot be read: it takes a place there, whatever it is."""
    status = body.get("status")
    held = status.get("assignment") if isinstance(status, dict) else None
    pool, name = (held.get("pool"), held.get("replica")) if isinstance(held, dict) else (None, None)
    return ReplicaKey(pool, name) if isinstance(pool, str) and isinstance(name, str) else None


def end_of(body: Json) -> Phase | None:
    """The phase in which a job has ended whose other fields cannot be read: it takes no place; None if it has not."""
    status = body.get("status")
    if not isinstance(status, dict) or status.get("assignment") is not None:
        return None
    return next((phase for phase in Phase if phase.finished and phase.value == status.get("phase")), None)
