"""The jobs that a replica still holds when a runner takes it: nobody here works on them, so they are handed back.

The operator assigns them anew with a higher attempt, which fences off whoever worked on them before: a runner that was
killed, or this one before it lost its Lease. What cannot be handed back is in nobody's report, and is taken back.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import ValidationError
from tenacity import AsyncRetrying, retry_if_exception, wait_exponential_jitter

from videojob.api import transitions
from videojob.api.patch import attempt_fence, status_patch
from videojob.api.videojob import VideoJob
from videojob.kube.client import VIDEO_JOBS, KubeClient, KubeError
from videojob.logs import about
from videojob.runner.buffers import FrameBuffers
from videojob.runner.clock import Clock
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.recipe import correlation_id
from videojob.runner.triton import Triton, TritonGoneError, TritonRefusedError
from videojob.triton.contract import SEQUENCE_STAGES, Mark, model_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leftovers:
    """What is needed to give back the jobs of one replica."""

    kube: KubeClient
    clock: Clock
    metrics: RunnerMetrics
    triton: Triton
    buffers: FrameBuffers
    pool: str
    replica: str
    cut_off_seconds: int
    """For so long the runner before this one may go on, cut off; 0 where it has certainly ended."""

    async def hand_back(self, namespace: str | None, selector: str) -> None:
        """Give back the jobs that match, and free what they hold on the server. Raises KubeError."""
        listing: dict[str, Any] = {}
        async for attempt in _patiently():
            with attempt:
                listing = await self.kube.list(VIDEO_JOBS, namespace, fieldSelector=selector)
        jobs = [job for item in listing.get("items", []) if (job := self._read(item)) is not None]
        await asyncio.gather(*(self._end_sequence(job) for job in jobs))
        await self.buffers.sweep()
        for job in jobs:
            await self._hand_back(job)

    def _read(self, item: dict[str, Any]) -> VideoJob | None:
        try:
            return VideoJob.model_validate(item)
        except ValidationError:
            self.metrics.unreadable(VIDEO_JOBS.plural)
            name = f"{item['metadata'].get('namespace')}/{item['metadata']['name']}"
            log.warning("%s cannot be read, and is left for the operator to take back", name)
            return None

    async def _hand_back(self, job: VideoJob) -> None:
        meta, status = job.metadata, job.status
        now = self.clock.now()
        new = transitions.reclaimed(
            status,
            message=f"The runner of replica {self.replica} was restarted; finished chunks are kept.",
            cut_off_until=now + timedelta(seconds=self.cut_off_seconds) if self.cut_off_seconds else None,
            now=now,
            generation=meta.generation,
        )
        operations = status_patch(attempt_fence(status.attempts, self.pool, self.replica), status, new)
        with about(meta.uid, meta.namespace, meta.name, status.attempts):
            try:
                async for attempt in _patiently():
                    with attempt:
                        await self.kube.json_patch(VIDEO_JOBS, meta.name, operations, meta.namespace, "status")
                log.info("%s/%s was handed back.", meta.namespace, meta.name)
            except KubeError as error:
                if not (error.conflict or error.not_found):
                    self.metrics.unreported()
                    log.warning("%s/%s cannot be handed back: %s", meta.namespace, meta.name, error)

    async def _end_sequence(self, job: VideoJob) -> None:
        identity = correlation_id(job)
        with suppress(TritonGoneError, TritonRefusedError):
            if not await self.triton.model_ready(model_name(job.spec.model, "video_chunk")):
                return
            await self.triton.mark(identity, Mark.CANCEL)
            for stage in SEQUENCE_STAGES:
                stream = self.triton.stream(job.spec.model, stage, identity)
                await stream.end()
                await stream.close()


def _patiently() -> AsyncRetrying:
    """Tries again for ever what may pass: the caller is stopped when the Lease is lost."""
    return AsyncRetrying(
        wait=wait_exponential_jitter(multiplier=0.2, max=5.0),
        retry=retry_if_exception(lambda error: isinstance(error, KubeError) and error.transient),
        reraise=True,
    )
