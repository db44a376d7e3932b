"""Writes one job's status: fenced, at most once a second, the last write always."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter

from videojob.api import transitions
from videojob.api.patch import attempt_fence, status_patch
from videojob.api.videojob import VideoJob, VideoJobStatus
from videojob.kube.client import VIDEO_JOBS, KubeClient, KubeError
from videojob.runner.clock import Clock
from videojob.runner.hold import LeaseLostError, Permission
from videojob.runner.metrics import RunnerMetrics

log = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
REFUSED_SECONDS = 240.0
"""For so long a write is tried again that the API server answers with an error."""
REBASES = 5
"""Of a patch whose fence holds, on a status that is another one than was known."""
FORBIDDEN = (401, 403)


class JobLostError(Exception):
    """The job belongs to somebody else, or is gone: nothing may be written any more."""


@dataclass(frozen=True)
class Owner:
    """Who may write: a replica, in one attempt."""

    pool: str
    replica: str
    attempt: int

    def owns(self, job: dict[str, Any]) -> bool:
        """Whether the job, as the API server has it, is this replica's in this attempt: also one of a newer schema."""
        status = job.get("status") or {}
        held = status.get("assignment") or {}
        place = (held.get("pool"), held.get("replica"), status.get("attempts"))
        return place == (self.pool, self.replica, self.attempt)


class Generation:
    """The newest generation of a job that the watch has shown."""

    def __init__(self, newest: int) -> None:
        self.newest = newest
        self.on_change: Callable[[], None] = lambda: None

    def see(self, generation: int) -> None:
        """The watch shows this one."""
        if generation > self.newest:
            self.newest = generation
            self.on_change()


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
    """The status of one attempt. It writes only where `permission` is fresh, and after a gap reads the job first.

    `lost` is called with the reason when `run` finds that the job has a new owner.
    """

    def __init__(
        self,
        kube: KubeClient,
        clock: Clock,
        metrics: RunnerMetrics,
        job: VideoJob,
        owner: Owner,
        permission: Permission,
        generation: Generation,
        lost: Callable[[str], None],
    ) -> None:
        self._kube = kube
        self._clock = clock
        self._metrics = metrics
        self._meta = job.metadata
        self._owner = owner
        self._permission = permission
        self._gaps = permission.gaps
        self._generation = generation
        self._lost = lost
        self.written = job.status
        """What the API server has, as far as we know."""
        self._throttle = Throttle(WRITE_SECONDS)
        self._throttle.wrote(clock.monotonic())  # So that the first chunk of a fast job shares the first write.
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._refused_since: float | None = None
        self.status = job.status
        """What the status should be."""
        generation.on_change = self._changed.set

    def show(self, status: VideoJobStatus) -> None:
        """Let the status be this, soon: `run` writes it."""
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

    async def write(self, *, forbidden_too: bool = False) -> None:
        """Write now, or once the runner is no longer cut off, however long that takes.

        What the API server refuses is tried again for REFUSED_SECONDS where that may pass: with `forbidden_too` also
        missing rights, which an administrator may restore. Raises JobLostError, KubeError.
        """
        async with self._writing:
            self._refused_since = None
            async for attempt in self._retrying(forbidden_too):
                with attempt:
                    await self._write()

    def check(self) -> None:
        """Raises JobLostError where the replica may do nothing any more."""
        try:
            self._permission.check()
        except LeaseLostError as error:
            raise JobLostError(str(error)) from error

    async def owned(self) -> bool:
        """Whether the API server still has the job as ours, once it can be asked. Raises JobLostError, KubeError."""
        async with self._writing:
            self._refused_since = None
            try:
                async for attempt in self._retrying():
                    with attempt:
                        await self.fresh()
                        await self._read()
            except JobLostError:
                self.check()
                return False
        return True

    async def _write(self) -> None:
        fence = attempt_fence(self._owner.attempt, self._owner.pool, self._owner.replica)
        refused = ""
        for _ in range(REBASES):
            await self.fresh()
            if self._permission.gaps != self._gaps:
                await self._read()
            wanted = self._wanted()
            operations = status_patch(fence, self.written, wanted)
            if len(operations) == len(fence):
                return
            try:
                await self._kube.json_patch(VIDEO_JOBS, self._meta.name, operations, self._meta.namespace, "status")
            except KubeError as error:
                if not (error.conflict or error.not_found):
                    raise
                refused = str(error)
                # Either the fence does not hold, or what is written is not what we know of, as after a lost answer.
                await self._read()
                continue
            self._throttle.wrote(self._clock.monotonic())
            self.written = wanted
            return
        raise KubeError(422, f"the status of {self._meta.name} cannot be patched: {refused}")

    def _wanted(self) -> VideoJobStatus:
        """The status with the newest generation. Of the assignment, the runner only ever writes its end."""
        wanted = transitions.observed(self.status, self._generation.newest)
        if wanted.assignment is not None:
            wanted = wanted.model_copy(update={"assignment": self.written.assignment})
        return wanted

    async def fresh(self) -> None:
        """Wait while the runner is cut off. Raises JobLostError."""
        try:
            await self._permission.fresh()
        except LeaseLostError as error:
            raise JobLostError(str(error)) from error

    async def _read(self) -> None:
        """Learn what is written. Raises JobLostError where the job is not ours, KubeError."""
        gaps = self._permission.gaps
        try:
            found = await self._kube.get(VIDEO_JOBS, self._meta.name, self._meta.namespace)
        except KubeError as error:
            if error.not_found:
                raise JobLostError("it was deleted") from error
            raise
        if found["metadata"].get("uid") != self._meta.uid or not self._owner.owns(found):
            raise JobLostError("it was given to another replica, or taken back")
        try:
            self.written = VideoJob.model_validate(found).status
        except ValidationError:
            log.warning("The job %s cannot be read; what was last read of it counts", self._meta.name)
        self._generation.see(found["metadata"].get("generation", 0))
        self._gaps = gaps

    def _retrying(self, forbidden_too: bool = False) -> AsyncRetrying:
        def passing(error: BaseException) -> bool:
            return isinstance(error, KubeError) and (error.transient or (forbidden_too and error.code in FORBIDDEN))

        return AsyncRetrying(
            wait=wait_exponential_jitter(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
            retry=retry_if_exception(passing),
            stop=self._refused_for_long,
            before_sleep=self._again,
            reraise=True,
        )

    def _refused_for_long(self, state: RetryCallState) -> bool:
        """Whether there were only errors for answers for too long. Without any answer, the Lease decides how long."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, KubeError) and error.code == 0:
            self._refused_since = None
            return False
        now = self._clock.monotonic()
        if self._refused_since is None:
            self._refused_since = now
        return now - self._refused_since >= REFUSED_SECONDS

    def _again(self, state: RetryCallState) -> None:
        self._metrics.retry("api")
        error = state.outcome.exception() if state.outcome else None
        log.warning("A request for %s failed, and is tried again: %s", self._meta.name, error)
