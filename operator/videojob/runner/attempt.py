"""One attempt of one job: whatever happens to it becomes the job's status."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from videojob.api import transitions
from videojob.api.reasons import Reason
from videojob.api.videojob import OutputStatus, Resolved, VideoJob, VideoJobStatus
from videojob.kube.client import KubeError
from videojob.runner.errors import End, Outcome, outcome
from videojob.runner.events import Events
from videojob.runner.hold import Standing
from videojob.runner.services import Services
from videojob.runner.status import Generation, JobLostError, Owner, StatusWriter
from videojob.runner.stop import Stop, StoppedError
from videojob.runner.video import Video
from videojob.store import JobClosed, StoreError

log = logging.getLogger(__name__)

DEADLINE_POLL_SECONDS = 1.0
LONGEST_SLEEP = 60.0
"""Towards a deadline: the wall clock may be set."""


class Attempt:
    """One attempt. `run` ends with the status written, or with the job left to its new owner; it raises nothing."""

    def __init__(
        self,
        services: Services,
        job: VideoJob,
        resolved: Resolved,
        owner: Owner,
        stop: Stop,
        generation: Generation,
        free_slot: Callable[[], None],
    ) -> None:
        """`free_slot` is called once every frame is committed."""
        self._services = services
        self._job = job
        self._resolved = resolved
        self._owner = owner
        self._stop = stop
        self._generation = generation
        self._free_slot = free_slot
        self._name = f"{job.metadata.namespace}/{job.metadata.name} (attempt {owner.attempt})"
        self._events = Events(services.kube, services.clock, job, owner.replica, services.permission)
        self._status = StatusWriter(
            services.kube, services.clock, services.metrics, job, owner, services.permission, generation, stop.lose
        )
        self._video: Video | None = None

    async def run(self) -> None:
        """Make the video, or leave the job with the reason why not."""
        helpers = [asyncio.create_task(self._status.run()), asyncio.create_task(self._watch_deadline())]
        try:
            await self._leave(await self._outcome())
        except JobLostError as lost:
            log.info("%s is left alone: %s.", self._name, lost)
        finally:
            for helper in helpers:
                helper.cancel()

    async def _leave(self, status: VideoJobStatus) -> None:
        """Write the last status. Where it is refused for good, nobody holds the job: it leaves the replica's report.

        Raises JobLostError.
        """
        try:
            self._status.status = status
            await self._status.write(forbidden_too=True)
        except KubeError as error:
            # The status is what the API server does not take, which is our fault: it may know this one.
            log.warning("The API server refused the status of %s: %s", self._name, error)
            message = f"The API server refused the job's status: {error}"
            self._status.status = self._failed(self._status.written, Reason.RUNNER_ERROR, message)
            try:
                await self._status.write(forbidden_too=True)
            except KubeError:
                self._services.metrics.unreported()
                log.exception("%s is given up without a status", self._name)
                return
        await self._report()

    async def _outcome(self) -> VideoJobStatus:
        """The status at the end of the attempt. Raises JobLostError."""
        try:
            output = await self._make()
        except JobLostError:
            raise
        except JobClosed as closed:
            raise JobLostError(str(closed).rstrip(".")) from closed
        except StoppedError as stopped:
            if stopped.lost:
                raise JobLostError(stopped.reason) from stopped
            return await self._stopped(stopped.reason)
        except Exception as error:
            return self._ended(error)
        return self._succeeded(output)

    def _ended(self, error: Exception) -> VideoJobStatus:
        found = outcome(error, self._owner.replica)
        if found is None:
            log.error("%s failed", self._name, exc_info=error)
            message = f"The runner met an error that it does not know: {type(error).__name__}: {error}"
            found = Outcome(End.FAILED, Reason.RUNNER_ERROR, message)
        if found.end is End.RETURNED:
            return self._handed_back(found)
        return self._failed(self._status.status, found.reason, found.message, final=found.end is End.FINAL)

    async def _stopped(self, reason: str) -> VideoJobStatus:
        """A deadline that has passed ends the work, but takes no video away that is finished."""
        if reason == Reason.DEADLINE_EXCEEDED and self._video is not None:
            try:
                output = await self._video.finished()
            except StoreError as error:
                log.warning("Whether %s was finished in time is not known: %s", self._name, error)
            else:
                if output is not None:
                    return self._succeeded(output)
        return transitions.released(
            self._status.status, reason=reason, now=self._services.clock.now(), generation=self._generation.newest
        )

    def _handed_back(self, back: Outcome) -> VideoJobStatus:
        """For store or Triton it is one more hand-back in a row, unless the attempt has committed something."""
        status = transitions.waiting(
            self._status.status,
            reason=back.reason,
            message=back.message,
            now=self._services.clock.now(),
            generation=self._generation.newest,
        )
        progressed = self._video is not None and self._video.progressed
        return status.model_copy(update={"hand_backs": 0}) if progressed else status

    def _failed(self, status: VideoJobStatus, reason: Reason, message: str, *, final: bool = False) -> VideoJobStatus:
        end = transitions.failed if final else transitions.attempt_failed
        now = self._services.clock.now()
        return end(status, reason=reason, message=message, now=now, generation=self._generation.newest)

    def _succeeded(self, output: OutputStatus) -> VideoJobStatus:
        now, generation = self._services.clock.now(), self._generation.newest
        return transitions.succeeded(self._status.status, output=output, now=now, generation=generation)

    async def _make(self) -> OutputStatus:
        meta = self._job.metadata
        self._stop.check(new=True)
        with self._services.store.watched():
            self._video = Video(
                self._services,
                self._job,
                self._resolved,
                self._owner,
                await self._services.store.job(meta.namespace, meta.uid),
                self._status,
                self._generation,
                self._events,
                self._stop,
                self._free_slot,
            )
            return await self._video.make()

    async def _watch_deadline(self) -> None:
        """Stop the work once its deadline has passed while nobody else can see to that, because of the cut."""
        start, seconds = self._job.status.start_time, self._job.spec.active_deadline_seconds
        if start is None or seconds is None:
            return
        deadline, services = start + timedelta(seconds=seconds), self._services
        while (left := (deadline - services.clock.now()).total_seconds()) > 0:  # noqa: ASYNC110 - a clock has no event
            await asyncio.sleep(min(left, LONGEST_SLEEP))
        # While it is, the operator sees to that.
        while services.permission.standing is Standing.FRESH:  # noqa: ASYNC110 - time alone ends it
            await asyncio.sleep(DEADLINE_POLL_SECONDS)
        self._stop.release(Reason.DEADLINE_EXCEEDED.value)

    async def _report(self) -> None:
        """Count the end of the attempt, and write an Event where a person cares. Then chunks may go."""
        status, model = self._status.status, self._job.spec.model
        reason = status.reason or ""
        self._services.metrics.ended(model, reason)
        log.info("%s is left as %s (%s).", self._name, status.phase, reason)
        message = status.conditions[-1].message
        if status.output is not None:
            if status.timing is not None:
                self._services.metrics.finished(model, status.timing)
            await self._events.write("Normal", reason, message)
            if self._video is not None:
                await self._video.discard_parts()
        elif status.failures > self._job.status.failures or status.phase.finished:
            await self._events.write("Warning", reason, message)
