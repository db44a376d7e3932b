"""The state of a pod in Kubernetes, as far as it matters to a pool."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from videojob.planner.facts import EPOCH, Container, Pod

Json = dict[str, Any]

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
MESSAGE_LIMIT = 300


def read_pod(body: Json) -> Pod:
    """The pod in a slim form, made from its JSON object in the API."""
    metadata, status = body["metadata"], body.get("status", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
    ready, scheduled = conditions.get("Ready", {}), conditions.get("PodScheduled", {})
    unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    containers = list(_containers(status))
    restarted = max(containers, key=lambda one: int(one.get("restartCount", 0)), default={})
    return Pod(
        uid=metadata["uid"],
        created=_time(metadata.get("creationTimestamp")) or EPOCH,
        ready_since=_time(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None,
        ending="deletionTimestamp" in metadata or status.get("phase") in ("Failed", "Succeeded"),
        unschedulable_since=_time(scheduled.get("lastTransitionTime")) if unschedulable else None,
        unschedulable=scheduled.get("message", "")[:MESSAGE_LIMIT] if unschedulable else "",
        waiting=next(_waiting(containers), None),
        restarts=int(restarted.get("restartCount", 0)),
        last_exit=_exit(restarted.get("lastState", {}).get("terminated")),
        deletion_cost=_number(metadata.get("annotations", {}).get(DELETION_COST, "0")),
    )


def _containers(status: Json) -> Iterator[Json]:
    yield from status.get("initContainerStatuses", [])
    yield from status.get("containerStatuses", [])


def _waiting(containers: list[Json]) -> Iterator[Container]:
    for one in containers:
        waiting = one.get("state", {}).get("waiting")
        # A main container waits for the sidecars before it: what they wait for comes first in the list.
        if waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating", None):
            yield Container(waiting["reason"], _sentence(f"container {one['name']}", waiting.get("message", "")))


def _exit(terminated: Json | None) -> Container | None:
    if terminated is None:
        return None
    reason = terminated.get("reason", "Error")
    message = terminated.get("message", "") or f"exit code {terminated.get('exitCode', '?')}"
    return Container(reason, message.strip()[-MESSAGE_LIMIT:])


def _sentence(who: str, message: str) -> str:
    message = message.strip()[:MESSAGE_LIMIT]
    return f"{who}: {message}" if message else f"{who}."


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0
