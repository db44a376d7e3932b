"""The making of one video in one attempt: from the last commit to the record of the output."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from videojob.api import transitions
from videojob.api.progress import progress_of
from videojob.api.reasons import Reason
from videojob.api.videojob import Cost, OutputStatus, Resolved, StageSeconds, Timing, VideoJob
from videojob.runner.accounting import Account, Spent, add_stages, estimated_completion, unit_seconds
from videojob.runner.adopting import Adopting
from videojob.runner.delivery import Delivery, delivery, output_status
from videojob.runner.drifting import Drifting, look_record
from videojob.runner.errors import HandBackError, restartable
from videojob.runner.events import Events
from videojob.runner.hold import Standing
from videojob.runner.images import Images
from videojob.runner.judge import SUSPICIOUS
from videojob.runner.partials import Partials
from videojob.runner.pipeline import Pipeline
from videojob.runner.playlist import layout_record
from videojob.runner.recipe import MadePiece, MadeUnit, Recipe, Resume, correlation_id, settings_of
from videojob.runner.refreshing import Refreshing
from videojob.runner.served import Served
from videojob.runner.services import Services
from videojob.runner.status import Generation, Owner, StatusWriter
from videojob.runner.stop import Stop
from videojob.runner.triton import TritonGoneError
from videojob.runner.viewing import Viewing
from videojob.store import Entry, JobClosed, JobStore, OutputRecord, PieceRecord, StoreError, UnitRecord
from videojob.triton.contract import ChunkError, StageGoneError

log = logging.getLogger(__name__)

RESTARTS = 3
"""Restarts of the sequence in a row without a newly committed chunk, before the attempt fails."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
GPU_STAGES = ("text_encode", "denoise", "vae_decode")


class Video:
    """One video in the making. The status that it shows is written by `status`, at its pace."""

    def __init__(
        self,
        services: Services,
        job: VideoJob,
        resolved: Resolved,
        owner: Owner,
        files: JobStore,
        status: StatusWriter,
        generation: Generation,
        events: Events,
        stop: Stop,
        free_slot: Callable[[], None],
    ) -> None:
        self._services = services
        self._clock = services.clock
        self._job = job
        self._resolved = resolved
        self._owner = owner
        self._files = files
        self._status = status
        self._generation = generation
        self._events = events
        self._stop = stop
        self._free_slot = free_slot
        self._model = job.spec.model
        self._account = Account(
            created=job.metadata.creation_timestamp or services.clock.now(),
            fps=resolved.rate,
            accelerators=services.accelerators,
            timing=job.status.timing or Timing(),
            cost=job.status.cost or Cost(),
        )
        began = services.clock.monotonic()
        self._spent = Spent(began, last_commit=began, viewing=Viewing.of(self._account.timing))
        self._settings = settings_of(job, resolved)
        self._images = Images(files, job.spec.shots, owner.attempt, resolved.width, resolved.height)
        self._adopting = Adopting(owner, services.permission, status)
        self._partials = Partials(files, owner.attempt, services.permission, self._settings, self._images.digest)
        self._drifting = Drifting(resolved, job.spec.drift_policy)
        self._runs = 0
        """Of the sequence in this attempt."""
        self._units: list[UnitRecord] = []
        self._pieces: list[PieceRecord] = []
        self._output: Delivery
        """Holds as many of the pieces as it was given."""
        self.progressed = False
        """Whether this attempt has committed something."""

    async def make(self) -> OutputStatus:
        """Make what is missing. Raises StoppedError, JobLostError, JobClosed, and what `outcome` knows."""
        sequence, checkpoints = correlation_id(self._job), self._services.checkpoints
        checkpoints.saved(sequence, self._clock.monotonic())
        try:
            return await self._make()
        finally:
            checkpoints.ended(sequence)

    async def _make(self) -> OutputStatus:
        if (finished := await self.finished()) is not None:
            return finished
        resolved, permission = self._resolved, self._services.permission
        wanted = (self._job.spec.output.formats, self._files, resolved.rate, self._clock)
        await self._stop.race(self._images.check(), new=True)
        async with delivery(*wanted, permission, self._watchable, shots=resolved.begins) as self._output:
            await self._make_chunks()
            self._free_slot()
            return await self._finished(await self._stop.race(self._commit_output()))

    async def finished(self) -> OutputStatus | None:
        """The video, where this attempt or one before has committed it, whatever is left of its chunks."""
        record = await self._files.output()
        return None if record is None else await self._finished(record)

    async def _finished(self, record: OutputRecord) -> OutputStatus:
        """The status of a video that is committed. Before that is written, whoever watches sees the video's end."""
        if (playlist := await self._files.playlist(record)) is not None:
            await self._status.fresh()
            await self._files.live.end(playlist)
        self._show(self._resolved.chunks, record.frames)
        return output_status(self._files, record)

    def _watchable(self, uri: str) -> None:
        """The playlist is in the store."""
        if self._status.status.playlist_uri != uri:
            self._status.show(self._status.status.model_copy(update={"playlist_uri": uri}))

    async def discard_parts(self) -> None:
        """Delete what the finished video was made of. Only once its status is written: else a successor has nothing.

        What is left, because the runner is cut off or the store fails, is purged with the job.
        """
        if self._services.permission.standing is not Standing.FRESH:
            return
        try:
            await self._files.discard_parts()
        except StoreError as error:
            log.warning("Parts of %s are left until it is deleted: %s", self._job.metadata.name, error)

    async def _make_chunks(self) -> None:
        """Make every chunk that is not in the store, starting the sequence again where it fails."""
        restarts = 0

        async def again(state: RetryCallState) -> None:
            nonlocal restarts
            restarts += 1
            error = state.outcome.exception() if state.outcome else None
            message = f"The sequence starts again from chunk {len(self._pieces)}: {error}"
            log.warning("%s: %s", self._job.metadata.name, message)
            self._services.metrics.retry("sequence")
            await self._events.write("Warning", "Restarted", message)

        retrying = AsyncRetrying(
            stop=lambda state: restarts >= RESTARTS,
            wait=lambda state: min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**restarts),
            retry=retry_if_exception(restartable),
            before_sleep=again,
            sleep=lambda seconds: self._stop.race(asyncio.sleep(seconds), new=True),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                before = len(self._pieces)
                try:
                    await self._run_sequence()
                except TritonGoneError:
                    self._services.serving.doubt(self._model)
                    raise
                except ChunkError as error:
                    self._blame(error)
                    raise
                finally:
                    if len(self._pieces) > before:
                        restarts = 0

    def _blame(self, error: ChunkError) -> None:
        """See to what has failed a sequence. Raises HandBackError where it is the replica that fails everything."""
        judge = self._services.judge
        if isinstance(error, StageGoneError):
            self._services.serving.repair(self._model, error.model)
        judge.failed(self._job.metadata.uid, error, self._spent.sequence_began)
        if error.reason in SUSPICIOUS and judge.error:
            raise HandBackError(Reason.ACCELERATOR_FAILED, judge.error) from error

    async def _run_sequence(self) -> None:
        """Make the chunks from the last commit on, as one sequence."""
        if (closed := await self._files.closed()) >= self._owner.attempt:
            raise JobClosed(self._files.uri(), closed)
        committed = await self._files.committed()
        self._units, self._pieces = [*committed.units], [*committed.pieces]
        records: list[Entry] = [*self._units, *self._pieces]
        if records:
            await self._adopting.check(max(records, key=lambda record: record.attempt))
        for record in self._pieces[self._output.pieces :]:
            self._output.add(record)
        logs = (self._units, self._pieces)
        self._drifting = await asyncio.to_thread(Drifting.going_on, self._resolved, self._job.spec.drift_policy, *logs)
        self._drifting.check()
        if len(self._pieces) >= self._resolved.chunks:
            return
        served = await self._served()
        self._spent.sequence_began = self._clock.monotonic()
        try:
            await self._settle_weights(served)
            await self._run_sequence_on(served)
        finally:
            self._services.serving.give_back(served)

    async def _run_sequence_on(self, served: Served) -> None:
        resolved, resume = self._resolved, Resume(len(self._units), len(self._pieces))
        spec, policy, logs = served.model.spec, self._job.spec.drift_policy, (self._units, self._pieces)
        refreshing = await asyncio.to_thread(Refreshing.going_on, resolved, policy, spec, *logs)
        begun = refreshing.try_settle(resume.unit)
        plan = refreshing.plan
        needed = resume.checkpoints(plan)
        reading = self._files.read_checkpoints(self._units[index] for index in needed)
        past = dict(zip(needed, await self._stop.race(reading, new=True), strict=True))
        if begun:
            seeking = self._partials.find(plan, self._units, resolved.weights_digest)
            resume = replace(resume, partial=await self._stop.race(seeking, new=True))
        self._runs += 1
        expected = unit_seconds(served.model, plan, resolved)
        recipe = Recipe(
            *(self._model, correlation_id(self._job), self._settings, plan, resolved.rate, expected, self._runs),
            images=self._images.frames,
        )
        now = self._clock.now()
        self._spent.first_request = self._spent.first_request or now
        self._status.status = transitions.running(self._status.status, now=now, generation=self._generation.newest)
        self._show(len(self._pieces), self._frames_ready)
        services = self._services
        keep = (self._keep_unit, self._keep_piece, partial(self._keep_partial, refreshing))
        pipeline = Pipeline(recipe, services.triton, services.buffers, self._clock, *keep, refreshing)
        await pipeline.run(resume, past, self._stop)

    async def _served(self) -> Served:
        """The model, loaded, to be given back. Raises HandBackError where it does not come."""
        serving, seconds = self._services.serving, self._services.ready_seconds
        try:
            return await self._stop.race(serving.take(self._model, seconds, self._report_wait), new=True)
        except TritonGoneError as error:
            raise HandBackError(Reason.TRITON_UNAVAILABLE, str(error)) from error

    async def _settle_weights(self, served: Served) -> None:
        """See that the weights are those that the job has begun with; where it has not begun, its status names them.

        That has to be written before anything is made: the next attempt may be on a replica with others.
        Raises HandBackError.
        """
        begun = self._resolved.weights_digest or served.digest
        if (served.model.metadata.uid, served.digest) != (self._resolved.model_uid, begun):
            raise HandBackError(
                Reason.WEIGHTS_CHANGED,
                f"Replica {self._owner.replica} has the weights {served.digest} of VideoModel {self._model}; "
                f"the job has begun with {begun}.",
            )
        if not self._resolved.weights_digest:
            self._resolved = self._resolved.model_copy(update={"weights_digest": begun})
            self._status.status = self._status.status.model_copy(update={"resolved": self._resolved})
            await self._stop.race(self._status.write(), new=True)

    def _report_wait(self, why: str) -> None:
        """Write to the status why the model is not ready yet."""
        message = f"The model {self._model} is not ready on replica {self._owner.replica} yet: {why}."
        now, generation = self._clock.now(), self._generation.newest
        self._status.show(transitions.loading(self._status.status, message=message, now=now, generation=generation))

    async def _keep_unit(self, made: MadeUnit) -> None:
        """Put a unit into the store. Raises StoreError, JobLostError, ChunkError."""
        self._status.check()
        started = self._clock.monotonic()
        commit = await self._files.commit_unit(
            index=made.index,
            attempt=self._owner.attempt,
            checkpoint=made.checkpoint,
            stage_seconds=made.seconds.model_dump(),
            refreshed=bool(made.drifted),
        )
        if commit.adopted:
            await self._adopting.adopt(commit.record, commit.record.checkpoint, made.checkpoint)
        self._units.append(commit.record)
        self._saved(made.seconds, started)
        if made.drifted:
            self._drifting.refreshes += 1
            self._services.metrics.refreshed(self._model)
            message = f"Unit {made.index} goes on without the recent past, which has drifted: in {made.drifted}."
            await self._events.write("Normal", "Refreshed", message)
        await self._partials.committed(made.index)

    async def _keep_partial(self, refreshing: Refreshing, made: MadeUnit) -> None:
        """Leave a unit that was paused for the next attempt. Its steps count here. Raises JobLostError."""
        self._status.check()
        self._count(made.seconds)
        self._show(len(self._pieces), self._frames_ready)
        await self._partials.keep(refreshing.plan, self._units, self._resolved.weights_digest, made)

    async def _keep_piece(self, made: MadePiece) -> None:
        """Put a piece into the store, and show the progress.

        Raises StoreError, JobLostError, ChunkError, DriftedError.
        """
        self._status.check()
        started = self._clock.monotonic()
        commit = await self._files.commit_piece(
            index=made.index,
            attempt=self._owner.attempt,
            frames=made.frames,
            segment=made.segment,
            units=[self._units[unit] for unit in made.units],
            stage_seconds=made.seconds.model_dump(),
            layout_record=layout_record(made.segment),
            look=look_record(made.look),
        )
        if commit.adopted:
            await self._adopting.adopt(commit.record, commit.record.segment, made.segment)
        ready = float(self._frames_ready / self._resolved.rate)
        self._spent.viewing = self._spent.viewing.after(self._account.since(self._clock.now()), ready)
        self._pieces.append(commit.record)
        self._services.judge.made()
        self._output.add(commit.record, made.segment)
        ended = self._saved(made.seconds, started)
        gap = ended - self._spent.last_commit
        if (drift := self._drifting.see(commit.record)) is not None:
            self._services.metrics.drifted(self._model, drift)
        self._services.metrics.overlap(self._model, made.hidden_decode)
        self._services.metrics.chunk(self._model, gap if self._spent.gaps else None)
        self._spent.gaps.append(gap)
        self._spent.last_commit = ended
        self._show(len(self._pieces), self._frames_ready)
        self._drifting.check()

    def _saved(self, seconds: StageSeconds, started: float) -> float:
        """Count what was put into the store since `started`; when that was."""
        ended = self._clock.monotonic()
        self._count(seconds.model_copy(update={"upload": ended - started}))
        self._services.checkpoints.saved(correlation_id(self._job), ended)
        self.progressed = True
        return ended

    async def _commit_output(self) -> OutputRecord:
        """Put the video into the store."""
        frames = self._frames_ready
        made = await self._output.finish()
        self._status.check()
        started = self._clock.monotonic()
        record = await self._files.commit_output(
            attempt=self._owner.attempt,
            path=made.mp4,
            playlist=made.playlist,
            poster=made.stills.poster,
            contact_sheet=made.stills.contact_sheet,
            frames=frames,
            duration_seconds=float(frames / self._resolved.rate),
        )
        self.progressed = True
        self._count(StageSeconds(mux=self._output.seconds, upload=self._clock.monotonic() - started))
        return record

    @property
    def _frames_ready(self) -> int:
        return sum(record.frames for record in self._pieces)

    def _count(self, seconds: StageSeconds) -> None:
        self._spent.stages = add_stages(self._spent.stages, seconds)
        for stage, value in seconds.model_dump().items():
            if value:
                accelerators = self._services.accelerators if stage in GPU_STAGES else 0
                self._services.metrics.stage(self._model, stage, value, accelerators)

    def _show(self, chunks_done: int, frames_ready: int) -> None:
        """Write the job's progress to the status."""
        now, spent, status = self._clock.now(), self._spent, self._status.status
        running = self._clock.monotonic() - spent.began
        if frames_ready and spent.viewing.first is None:
            spent.viewing = spent.viewing.after(self._account.since(now), 0.0)
        timing = self._account.timing_after(
            spent.stages, running, frames_ready, spent.first_request or now, spent.viewing
        )
        known = status.timing is not None and status.timing.first_frame_seconds is not None
        if timing.first_frame_seconds is not None and not known:
            self._services.metrics.first_frame(self._model, timing.first_frame_seconds)
        remaining = self._resolved.chunks - chunks_done
        self._status.show(
            transitions.progressed(
                status,
                progress=progress_of(self._resolved, chunks_done, frames_ready),
                timing=timing,
                cost=self._account.cost_after(spent.stages, frames_ready),
                drift=self._drifting.status or status.drift,
                estimated_completion_time=estimated_completion(spent.gaps, remaining, now),
                generation=self._generation.newest,
            )
        )
