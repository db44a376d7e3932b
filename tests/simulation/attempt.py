"""One attempt of a model runner: from the last commit to the status that ends it."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from videojob.api import transitions
from videojob.api.patch import attempt_fence, status_patch
from videojob.api.reasons import Reason
from videojob.api.videojob import Cost, OutputStatus, Progress, Timing, VideoJob, VideoJobStatus
from videojob.kube.client import VIDEO_JOBS, KubeError
from videojob.store import JobClosed, JobStore, StoreError

if TYPE_CHECKING:
    from tests.simulation.runners import Runner


class Lost(Exception):
    """The job is somebody else's."""


class _Released(Exception):
    """The operator asks for the job."""


class _Refused(Exception):
    """The endpoint's Triton was claimed by a newer runner: it makes no chunk for this one."""


class _Failed(Exception):
    """The job itself fails."""


@dataclass(frozen=True)
class Settings:
    """How runners work."""

    cut_off_seconds: float = 1800.0
    """B."""
    chunk_seconds: float = 4.0
    failures: dict[str, list[int]] = field(default_factory=dict)
    """Chunks at which a job, by name, fails: each once."""


class Attempt:
    """One attempt. It is over when `run` has ended."""

    def __init__(self, runner: "Runner", job: VideoJob) -> None:
        assert job.status.resolved is not None
        self._runner = runner
        self._job = job
        self.number = job.status.attempts
        self.generation = job.metadata.generation
        self._resolved = job.status.resolved
        self._written = job.status
        self._gaps = runner.gaps
        self._release = ""
        self._lost = False
        self._stopping = asyncio.Event()
        self.done = asyncio.Event()
        assert job.status.store_uri is not None
        meta = job.metadata
        bucket = runner.stores.open(job.status.store_uri.removesuffix(f"/{meta.namespace}/{meta.uid}"))
        self._files = JobStore(bucket, meta.namespace, meta.uid)  # type: ignore[arg-type]

    def release(self, reason: str) -> None:
        """Give the job back, for that reason."""
        if not self._release:
            self._release = reason
            self._stopping.set()

    def lose(self) -> None:
        """Leave the job alone."""
        self._lost = True
        self._stopping.set()

    async def run(self) -> None:
        """Make the video, or leave the job with the reason why not."""
        try:
            await self._write(await self._outcome())
            if self._written.output is not None:
                self._must_go_on()
                await self._when_fresh()
                await self._files.discard_parts()
        except (Lost, StoreError):
            return

    async def _outcome(self) -> VideoJobStatus:
        while True:
            try:
                output = await self._make()
                break
            except _Released:
                return transitions.released(self._written, reason=self._release, **self._now())
            except _Failed as failed:
                return transitions.attempt_failed(
                    self._written, reason=Reason.CHUNK_FAILED, message=str(failed), **self._now()
                )
            except _Refused:
                message = "Another runner has claimed Triton."
                return transitions.waiting(
                    self._written, reason=Reason.TRITON_UNAVAILABLE, message=message, **self._now()
                )
            except JobClosed:
                raise Lost from None
            except StoreError as error:
                return transitions.waiting(
                    self._written, reason=Reason.STORE_UNAVAILABLE, message=str(error), **self._now()
                )
        return transitions.succeeded(self._written, output=output, **self._now())

    async def _make(self) -> OutputStatus:
        chunks, first = self._resolved.chunks, True
        record = await self._files.output()
        while record is None:
            done = len((await self._files.committed()).pieces)
            if done >= chunks:
                self._check()
                record = await self._files.commit_output(
                    attempt=self.number, path=_video(), frames=self._resolved.frames, duration_seconds=1.0
                )
                break
            if first:
                await self._show(transitions.running(self._written, **self._now()))
                first = False
            await self._chunk(done)
        return OutputStatus(
            uri=self._files.uri(record.key),
            sha256=record.sha256,
            size_bytes=record.size_bytes,
            frames=record.frames,
            duration_seconds=record.duration_seconds,
        )

    async def _chunk(self, index: int) -> None:
        self._check()
        await self._within_deadline()
        meta = self._job.metadata
        self._runner.begun(meta.uid, index, self.number)
        await self._pause(self._runner.settings.chunk_seconds)
        self._check()
        if self._runner.refused:
            raise _Refused
        failures = self._runner.settings.failures.get(meta.name, [])
        if index in failures:
            failures.remove(index)
            raise _Failed(f"Chunk {index} failed on purpose.")
        data = f"{meta.uid} {index}".encode()
        unit = await self._files.commit_unit(index=index, attempt=self.number, checkpoint=data, stage_seconds={})
        if unit.record.attempt > self.number:
            raise Lost
        piece = await self._files.commit_piece(
            index=index, attempt=self.number, frames=1, segment=data, units=[unit.record], stage_seconds={}
        )
        if piece.record.attempt > self.number:
            raise Lost
        done = index + 1
        progress = Progress(chunks_done=done, chunks_total=self._resolved.chunks, summary=f"{done}")
        await self._show(
            transitions.progressed(
                self._written,
                progress=progress,
                timing=Timing(running_seconds=self._runner.clock.monotonic()),
                cost=Cost(),
                drift=None,
                estimated_completion_time=None,
                generation=self.generation,
            )
        )

    def _check(self) -> None:
        self._must_go_on()
        if self._release:
            raise _Released

    def _must_go_on(self) -> None:
        if self._lost or self._runner.lost:
            raise Lost

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the attempt is asked to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _when_fresh(self) -> None:
        while not self._runner.fresh:
            self._must_go_on()
            await asyncio.sleep(0.5)
        self._must_go_on()

    async def _within_deadline(self) -> None:
        """While cut off, a deadline that passed ends the work: the operator decides once it can be asked."""
        seconds, began = self._job.spec.active_deadline_seconds, self._written.start_time
        if seconds is None or began is None or self._runner.fresh:
            return
        if (self._runner.clock.now() - began).total_seconds() >= seconds:
            await self._when_fresh()

    def _now(self) -> dict[str, Any]:
        return {"now": self._runner.clock.now(), "generation": self.generation}

    async def _show(self, new: VideoJobStatus) -> None:
        """Write progress, if that is possible now; later progress makes up for it."""
        if self._runner.fresh:
            try:
                await self._once(new)
            except KubeError:
                return

    async def _write(self, new: VideoJobStatus) -> None:
        """Write the end of the attempt, however long it takes. Raises Lost."""
        while True:
            await self._when_fresh()
            try:
                if await self._once(new):
                    return
            except KubeError as error:
                await asyncio.sleep(max(error.retry_after or 0.0, 0.5))

    async def _once(self, new: VideoJobStatus) -> bool:
        """One try; False where the job has to be written anew from what it is. Raises KubeError, Lost."""
        if self._gaps != self._runner.gaps:
            gaps = self._runner.gaps
            await self._read()
            self._gaps = gaps
        meta, runner = self._job.metadata, self._runner
        fence = attempt_fence(self.number, runner.pool, runner.replica)
        operations = status_patch(fence, self._written, transitions.observed(new, self.generation))
        if len(operations) == len(fence):
            return True
        try:
            answer = await runner.kube.json_patch(VIDEO_JOBS, meta.name, operations, meta.namespace, "status")
        except KubeError as error:
            if error.not_found:
                raise Lost from None
            if error.conflict:
                await self._read()
                return False
            raise
        self._written = VideoJobStatus.model_validate(answer["status"])
        return True

    async def _read(self) -> None:
        """See whose the job is. Raises Lost, KubeError."""
        meta, runner = self._job.metadata, self._runner
        try:
            found = await runner.kube.get(VIDEO_JOBS, meta.name, meta.namespace)
        except KubeError as error:
            if error.not_found:
                raise Lost from None
            raise
        status = found.get("status", {})
        assignment = status.get("assignment") or {}
        holder = (found["metadata"]["uid"], status.get("attempts"), assignment.get("pool"), assignment.get("replica"))
        if holder != (meta.uid, self.number, runner.pool, runner.replica):
            raise Lost
        self.generation = max(self.generation, found["metadata"]["generation"])
        if assignment.get("release"):
            self.release(assignment["release"])
        try:
            self._written = VideoJobStatus.model_validate(status)
        except ValidationError:
            return


def _video() -> Any:
    from tests.simulation.runners import VIDEO  # noqa: PLC0415 - they know each other

    return VIDEO
