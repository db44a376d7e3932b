"""One attempt of one job: whatever happens to it becomes the job's status."""

import asyncio
import logging

from videojob.api import transitions
from videojob.api.conditions import Reason
from videojob.api.videojob import OutputStatus, Resolved, VideoJob, VideoJobStatus
from videojob.kube.client import KubeError
from videojob.media import MediaError
from videojob.runner.events import Events
from videojob.runner.status import JobLostError, Owner, StatusWriter
from videojob.runner.stop import Stop, StoppedError
from videojob.runner.video import AttemptFailedError, HandBackError, Services, Video
from videojob.store import CorruptObject, StoreError

log = logging.getLogger(__name__)


class Attempt:
    """One attempt. `run` ends with the status written, or with the job left to its new owner; it raises nothing."""

    def __init__(self, services: Services, job: VideoJob, resolved: Resolved, owner: Owner, stop: Stop) -> None:
        self._services = services
        self._job = job
        self._resolved = resolved
        self._owner = owner
        self._stop = stop
        self._name = f"{job.metadata.namespace}/{job.metadata.name} (attempt {owner.attempt})"
        self._events = Events(services.kube, services.clock, job, owner.replica)
        self._status = StatusWriter(
            services.kube, services.clock, services.metrics, job, owner, services.may_write, stop.lose
        )

    async def run(self) -> None:
        """Make the video, or leave the job with the reason why not."""
        writing = asyncio.create_task(self._status.run())
        try:
            self._status.status = await self._outcome()
            await self._status.write()
        except JobLostError as lost:
            log.info("%s is left alone: %s.", self._name, lost)
        except KubeError as error:
            await self._refused(error)
        else:
            await self._tell()
        finally:
            writing.cancel()

    async def _refused(self, error: KubeError) -> None:
        """The API server does not take the status, which is our fault: fail the attempt with one that it knows."""
        log.error("The API server refused the status of %s: %s", self._name, error)
        self._status.status = transitions.attempt_failed(
            self._status.written,
            reason=Reason.RUNNER_ERROR,
            message=f"The API server refused the job's status: {error}",
            now=self._services.clock.now(),
            generation=self._job.metadata.generation,
        )
        try:
            await self._status.write()
        except (JobLostError, KubeError):
            log.exception("%s stays as it is", self._name)

    async def _outcome(self) -> VideoJobStatus:
        """The status at the end of the attempt. Raises JobLostError."""
        now, generation = self._services.clock.now, self._job.metadata.generation
        try:
            output = await self._make()
        except JobLostError:
            raise
        except StoppedError as stopped:
            if stopped.lost:
                raise JobLostError(stopped.reason) from stopped
            return transitions.released(self._status.status, reason=stopped.reason, now=now(), generation=generation)
        except HandBackError as back:
            return transitions.waiting(
                self._status.status, reason=back.reason, message=str(back), now=now(), generation=generation
            )
        except AttemptFailedError as failure:
            end = transitions.failed if failure.final else transitions.attempt_failed
            return end(
                self._status.status, reason=failure.reason, message=str(failure), now=now(), generation=generation
            )
        except Exception as error:
            log.exception("%s failed", self._name)
            message = f"The runner met an error that it does not know: {type(error).__name__}: {error}"
            return transitions.attempt_failed(
                self._status.status, reason=Reason.RUNNER_ERROR, message=message, now=now(), generation=generation
            )
        return transitions.succeeded(self._status.status, output=output, now=now(), generation=generation)

    async def _make(self) -> OutputStatus:
        """The finished video; errors of store and media as what they mean for the job."""
        meta = self._job.metadata
        try:
            self._stop.check(new=True)
            with self._services.store.watched():
                files = await self._services.store.job(meta.namespace, meta.uid)
                return await Video(
                    self._services,
                    self._job,
                    self._resolved,
                    self._owner,
                    files,
                    self._status,
                    self._events,
                    self._stop,
                ).make()
        except CorruptObject as error:
            raise AttemptFailedError(Reason.STORE_CORRUPT, str(error)) from error
        except StoreError as error:
            raise HandBackError(Reason.STORE_UNAVAILABLE, str(error)) from error
        except MediaError as error:
            raise AttemptFailedError(Reason.RUNNER_ERROR, str(error)) from error

    async def _tell(self) -> None:
        """Count the end of the attempt, and write an Event where a person cares."""
        status, model = self._status.status, self._job.spec.model
        reason = status.reason or ""
        self._services.metrics.ended(model, reason)
        log.info("%s is left as %s (%s).", self._name, status.phase, reason)
        message = status.conditions[-1].message
        if status.output is not None:
            if status.timing is not None and status.timing.real_time_factor is not None:
                self._services.metrics.finished(model, status.timing.real_time_factor)
            await self._events.write("Normal", reason, message)
        elif status.failures > self._job.status.failures or status.phase.finished:
            await self._events.write("Warning", reason, message)
