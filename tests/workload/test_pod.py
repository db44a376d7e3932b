"""What is read of a pod, as a table."""

from datetime import UTC, datetime
from typing import Any

import pytest

from videojob.planner.facts import Container
from videojob.workload.pod import DELETION_COST, MESSAGE_LIMIT, read_pod

MADE, LATER = "2026-11-22T12:00:00Z", "2026-11-22T12:00:30Z"
THEN = datetime(2026, 11, 22, 12, 0, 30, tzinfo=UTC)


def body(status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """A pod."""
    return {"metadata": {"name": "a", "uid": "u", "creationTimestamp": MADE, **metadata}, "status": status or {}}


def condition(type_: str, status: str, **more: str) -> dict[str, Any]:
    """A status with that condition."""
    return {"conditions": [{"type": type_, "status": status, "lastTransitionTime": LATER, **more}]}


def container(name: str = "runner", **fields: Any) -> dict[str, Any]:
    """A status with that container."""
    return {"containerStatuses": [{"name": name, **fields}]}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """A container's state."""
    return {"waiting": {"reason": reason, "message": message}}


def test_a_pod_that_was_just_made() -> None:
    found = read_pod({"metadata": {"name": "a", "uid": "u", "creationTimestamp": MADE}})
    assert (found.uid, found.created) == ("u", datetime(2026, 11, 22, 12, tzinfo=UTC))
    assert (found.ready_since, found.ending, found.waiting, found.restarts) == (None, False, None, 0)


@pytest.mark.parametrize(
    ("status", "field", "value"),
    [
        (condition("Ready", "True"), "ready_since", THEN),
        (condition("Ready", "False"), "ready_since", None),
        (condition("PodScheduled", "False", reason="Unschedulable", message="no GPU"), "unschedulable_since", THEN),
        (condition("PodScheduled", "False", reason="Unschedulable", message="no GPU"), "unschedulable", "no GPU"),
        (condition("PodScheduled", "False", reason="SchedulingGated", message="wait"), "unschedulable_since", None),
        (condition("PodScheduled", "True"), "unschedulable_since", None),
        ({"phase": "Failed"}, "ending", True),
        ({"phase": "Succeeded"}, "ending", True),
        ({"phase": "Running"}, "ending", False),
        (
            container(state=waiting("ImagePullBackOff", "not found")),
            "waiting",
            Container("ImagePullBackOff", "container runner: not found"),
        ),
        (container(state=waiting("ErrImagePull")), "waiting", Container("ErrImagePull", "container runner.")),
        (container(state=waiting("PodInitializing")), "waiting", None),
        (container(state=waiting("ContainerCreating")), "waiting", None),
        (container(state={"running": {}}), "waiting", None),
        # The runner waits for the sidecar, whose state is reported.
        (
            {
                "initContainerStatuses": [{"name": "triton", "state": waiting("CrashLoopBackOff", "back-off")}],
                **container(state=waiting("PodInitializing")),
            },
            "waiting",
            Container("CrashLoopBackOff", "container triton: back-off"),
        ),
        (
            container(restartCount=4, lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137}}),
            "last_exit",
            Container("OOMKilled", "exit code 137"),
        ),
        (
            container(restartCount=1, lastState={"terminated": {"reason": "Error", "message": "x" * 999 + "end\n"}}),
            "last_exit",
            Container("Error", "x" * (MESSAGE_LIMIT - 3) + "end"),
        ),
        (container(restartCount=4), "restarts", 4),
    ],
)
def test_the_fields_that_a_status_gives(status: dict[str, Any], field: str, value: object) -> None:
    assert getattr(read_pod(body(status)), field) == value


def test_a_deleted_pod_ends() -> None:
    assert read_pod(body(deletionTimestamp=LATER)).ending


@pytest.mark.parametrize(("text", "cost"), [("-1000", -1000), ("7", 7), ("dear", 0)])
def test_deletion_costs(text: str, cost: int) -> None:
    assert read_pod(body(annotations={DELETION_COST: text})).deletion_cost == cost
