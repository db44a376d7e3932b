"""The jobs that a model runner finds on its replica when it takes it: it hands them back."""

import asyncio
from datetime import timedelta

from pydantic import ValidationError

from tests.simulation.clock import Clock
from tests.simulation.documents import Json
from videojob.api import transitions
from videojob.api.patch import attempt_fence, status_patch
from videojob.api.videojob import VideoJob
from videojob.kube.client import VIDEO_JOBS, KubeClient, KubeError


async def hand_back(kube: KubeClient, clock: Clock, pool: str, replica: str, cut_off_seconds: float) -> None:
    """Jobs of the runner before this one, which may be cut off, or of this one before it lost the Lease."""
    while True:
        try:
            for item in (await kube.list(VIDEO_JOBS, fieldSelector=selected(pool, replica)))["items"]:
                await _hand_back(kube, clock, pool, replica, cut_off_seconds, item)
        except KubeError:
            await asyncio.sleep(1.0)
        else:
            return


def selected(pool: str, replica: str) -> str:
    """Selects the jobs of a replica."""
    return f"status.assignment.pool={pool},status.assignment.replica={replica}"


async def _hand_back(
    kube: KubeClient, clock: Clock, pool: str, replica: str, cut_off_seconds: float, item: Json
) -> None:
    try:
        job = VideoJob.model_validate(item)
    except ValidationError:
        return
    old, meta = job.status, job.metadata
    now = clock.now()
    new = transitions.reclaimed(
        old,
        message="The runner was restarted.",
        cut_off_until=now + timedelta(seconds=cut_off_seconds),
        now=now,
        generation=meta.generation,
    )
    operations = status_patch(attempt_fence(old.attempts, pool, replica), old, new)
    try:
        await kube.json_patch(VIDEO_JOBS, meta.name, operations, meta.namespace, "status")
    except KubeError as error:
        if not (error.conflict or error.not_found):
            raise
