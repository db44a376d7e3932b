"""Writes one job's status: fenced, at most once a second, the last write always."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter

from videojob.api.patch import attempt_fence, status_patch
from videojob.api.videojob import VideoJob, VideoJobStatus
from videojob.kube.client import VIDEO_JOBS, KubeClient, KubeError
from videojob.runner.clock import Clock
from videojob.runner.metrics import RunnerMetrics

log = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0


class JobLostError(Exception):
    """The job belongs to somebody else, or is gone: nothing may be written any more."""


@dataclass(frozen=True)
class Owner:
    """Who may write: a replica, in one attempt."""

    pool: str
    replica: str
    attempt: int

    def owns(self, job: VideoJob) -> bool:
        """Whether the job, as the API server has it, is this replica's in this attempt."""
        held = job.status.assignment
        return (
            held is not None
            and (held.pool, held.replica) == (self.pool, self.replica)
            and job.status.attempts == self.attempt
        )


class Throttle:
    """At most one write in `seconds`. Times are passed in, in seconds of one monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until the next write may take place."""
        return max(0.0, self._last + self._seconds - now)

    def wrote(self, now: float) -> None:
        """A write took place."""
        self._last = now


class StatusWriter:
    """The status of one attempt: asks `may_write` before each write, and tells `lost` when it finds a new owner."""

    def __init__(
        self,
        kube: KubeClient,
        clock: Clock,
        metrics: RunnerMetrics,
        job: VideoJob,
        owner: Owner,
        may_write: Callable[[], bool],
        lost: Callable[[str], None],
    ) -> None:
        self._kube = kube
        self._clock = clock
        self._metrics = metrics
        self._meta = job.metadata
        self._owner = owner
        self._may_write = may_write
        self._lost = lost
        self.written = job.status
        """What it says, as far as we know."""
        self._throttle = Throttle(WRITE_SECONDS)
        self._throttle.wrote(clock.monotonic())  # So that the first chunk of a fast job shares the first write.
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self.status = job.status
        """What the status should say."""

    def show(self, status: VideoJobStatus) -> None:
        """Let the status say this, soon: `run` writes it."""
        self.status = status
        self._changed.set()

    async def run(self) -> None:
        """Write what is shown, for ever. A write that fails is made up for by the next one."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(self._throttle.wait(self._clock.monotonic()))
            self._changed.clear()
            try:
                await self.write()
            except JobLostError as error:
                self._lost(str(error))
                return
            except KubeError as error:
                log.warning("The status of %s was not written: %s", self._meta.name, error)

    async def write(self) -> None:
        """Write now, and until it succeeds or the right to write is lost. Raises JobLostError, KubeError."""
        async with self._writing:
            wanted = self.status
            fence = attempt_fence(self._owner.attempt, self._owner.pool, self._owner.replica)
            operations = status_patch(fence, self.written, wanted)
            if len(operations) == len(fence):
                return
            try:
                async for attempt in self._patiently():
                    with attempt:
                        self.check()
                        meta = self._meta
                        await self._kube.json_patch(VIDEO_JOBS, meta.name, operations, meta.namespace, "status")
            except KubeError as error:
                if error.not_found or (error.conflict and not await self.owned()):
                    raise JobLostError("the job was given to another replica, or deleted") from error
                raise
            self._throttle.wrote(self._clock.monotonic())
            self.written = wanted

    def check(self) -> None:
        """Raises JobLostError where the replica may not write."""
        if not self._may_write():
            raise JobLostError("the replica's Lease has expired")

    async def owned(self) -> bool:
        """Whether the API server still says that the job is ours. Raises JobLostError, KubeError."""
        try:
            async for attempt in self._patiently():
                with attempt:
                    self.check()
                    found = await self._kube.get(VIDEO_JOBS, self._meta.name, self._meta.namespace)
        except KubeError as error:
            if error.not_found:
                return False
            raise
        job = VideoJob.model_validate(found)
        return job.metadata.uid == self._meta.uid and self._owner.owns(job)

    def _patiently(self) -> AsyncRetrying:
        """Tries again what may pass: `check` ends it when the right to write is lost."""
        return AsyncRetrying(
            wait=wait_exponential_jitter(FIRST_PAUSE, LONGEST_PAUSE),
            retry=retry_if_exception(lambda error: isinstance(error, KubeError) and error.transient),
            before_sleep=self._again,
        )

    def _again(self, state: RetryCallState) -> None:
        self._metrics.retry("api")
        error = state.outcome.exception() if state.outcome else None
        log.warning("The API server did not answer for %s, and is asked again: %s", self._meta.name, error)
