"""What a write on a job is fenced by: the record that was decided on, never the newest one."""

from videojob.api import FINALIZER
from videojob.api.patch import Operation, attempt_fence, version_fence
from videojob.api.videojob import VideoJobStatus
from videojob.planner.facts import Job


def fence(job: Job) -> list[Operation]:
    """The write takes place only on the job that was decided on.

    A job that nobody holds must not have changed at all. One that is held must be held by the same replica in the same
    attempt, and must want the same: its runner's reports on its progress change no decision, and must not starve it.
    """
    if job.assignment is None or job.phase.finished:
        return version_fence(str(job.version))
    generation: Operation = {"op": "test", "path": "/metadata/generation", "value": job.generation}
    return [*attempt_fence(job.attempts, job.assignment.pool, job.assignment.replica), generation]


def finalizer_added(job: Job) -> list[Operation]:
    """Our finalizer is added to those that the job had."""
    whole = version_fence(str(job.version))
    if job.finalizers:
        return [*whole, {"op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER}]
    return [*whole, {"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}]


def finalizer_removed(job: Job) -> list[Operation]:
    """Our finalizer is removed from those that the job had."""
    path = f"/metadata/finalizers/{job.finalizers.index(FINALIZER)}"
    return [
        *version_fence(str(job.version)),
        {"op": "test", "path": path, "value": FINALIZER},
        {"op": "remove", "path": path},
    ]


def status_of(job: Job) -> VideoJobStatus:
    """The status that was decided on."""
    return VideoJobStatus.model_validate_json(job.status)
