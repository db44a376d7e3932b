"""JSON patches of a status, fenced so that whoever has lost a job cannot write to it."""

from collections.abc import Mapping
from typing import Any

from videojob.api.videojob import VideoJobStatus

Operation = dict[str, Any]


def version_fence(resource_version: str) -> list[Operation]:
    """The write takes place only if the object is still the one that was decided on. For the operator."""
    return [{"op": "test", "path": "/metadata/resourceVersion", "value": resource_version}]


def attempt_fence(attempt: int, pool: str, replica: str) -> list[Operation]:
    """The write takes place only while that replica holds the job in that attempt. For the runner.

    `attempts` alone would let a runner write between the loss of its job and the next assignment; the replica alone
    would let it write when the job has come back to the same replica in a later attempt.
    """
    return [
        {"op": "test", "path": "/status/attempts", "value": attempt},
        {"op": "test", "path": "/status/assignment/pool", "value": pool},
        {"op": "test", "path": "/status/assignment/replica", "value": replica},
    ]


def status_patch(fence: list[Operation], old: VideoJobStatus, new: VideoJobStatus) -> list[Operation]:
    """The operations that turn `old` into `new`, behind `fence`; only the fence where nothing changed."""
    return [*fence, *changes(old.wire(), new.wire())]


def changes(old: Mapping[str, Any], new: Mapping[str, Any], root: str = "/status") -> list[Operation]:
    """One operation for each top-level field that differs."""
    operations: list[Operation] = [
        {"op": "add", "path": f"{root}/{field}", "value": value}
        for field, value in new.items()
        if field not in old or old[field] != value
    ]
    operations += [{"op": "remove", "path": f"{root}/{field}"} for field in old if field not in new]
    return operations
