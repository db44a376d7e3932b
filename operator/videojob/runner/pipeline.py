"""Units of one job through Triton: denoised, decoded, encoded and kept side by side, each in order.

While Triton denoises unit k+1 and decodes unit k, the runner encodes and uploads what came of unit k-1. A unit's
checkpoint is kept as soon as it is denoised, whatever becomes of its frames. What bounds it all is the number of units
that are begun and not yet encoded, and that of the buffers: frames are requested only with a buffer for them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from videojob.api.videojob import StageSeconds
from videojob.families import Piece, Unit
from videojob.media import Look, encode_segment, look
from videojob.runner.accounting import Span, hidden_decode
from videojob.runner.buffers import Buffer, FrameBuffers
from videojob.runner.clock import Clock
from videojob.runner.lane import Lane
from videojob.runner.partials import goes_on
from videojob.runner.recipe import MadePiece, MadeUnit, Recipe, Resume
from videojob.runner.refreshing import Refreshing
from videojob.runner.stop import Stop, StoppedError
from videojob.runner.triton import Answer, Request, Stream, Triton, TritonGoneError, TritonRefusedError
from videojob.triton import contract
from videojob.triton.contract import ChunkError, ErrorCode, Mark
from videojob.triton.wire import UnitRequest

log = logging.getLogger(__name__)

DEPTH = 2
"""Requests in flight at the denoiser: one that is worked on, and one so that it never waits for the network."""
AHEAD = 3
"""Units that are begun and not yet encoded: one that is denoised, one that is decoded, one in the encoder."""
BUFFERS = 3
"""Pieces that are decoded, wait for that, or are in the encoder."""
FLUSH_SECONDS = 15.0
"""For what is finished to reach the store when the job has to stop."""


@dataclass
class _Flow:
    """What is on its way in one run of a sequence. Every queue is bounded by `AHEAD` or by the buffers."""

    denoiser: Lane[int]
    """Of units."""
    decoder: Lane[tuple[Piece, Buffer]]
    free: asyncio.Queue[Buffer] = field(default_factory=asyncio.Queue)
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AHEAD))
    to_keep: asyncio.Queue[MadeUnit | None] = field(default_factory=asyncio.Queue)
    to_decode: asyncio.Queue[tuple[int, bytes] | None] = field(default_factory=asyncio.Queue)
    requested: asyncio.Queue[Piece | None] = field(default_factory=asyncio.Queue)
    decoded: asyncio.Queue[tuple[Piece, Buffer, Answer] | None] = field(default_factory=asyncio.Queue)
    kept: dict[int, asyncio.Event] = field(default_factory=dict)
    """Set once the unit is in the store. One that was there before is not listed."""
    denoised: dict[int, Span] = field(default_factory=dict)
    """When each unit that is not encoded yet was denoised."""

    def took(self, made: MadeUnit, arrived: float) -> None:
        """A unit was denoised: it is to be kept. Raises ChunkError where it was paused, by somebody else."""
        if made.step is not None:
            raise ChunkError(ErrorCode.CANCELLED, f"Unit {made.index} was paused after step {made.step}.")
        self.kept[made.index] = asyncio.Event()
        self.denoised[made.index] = Span(arrived - made.seconds.denoise, arrived)
        self.to_keep.put_nowait(made)


class Pipeline:
    """Makes the units of one job and the pieces of its video.

    `keep_unit` and `keep_piece` are called for each, in order, and return when it is in the store. A piece is kept only
    after the units that it comes from. `keep_partial` is called for a unit that a stop has paused, after those before.
    """

    def __init__(
        self,
        recipe: Recipe,
        triton: Triton,
        buffers: FrameBuffers,
        clock: Clock,
        keep_unit: Callable[[MadeUnit], Awaitable[None]],
        keep_piece: Callable[[MadePiece], Awaitable[None]],
        keep_partial: Callable[[MadeUnit], Awaitable[None]],
        refreshing: Refreshing | None = None,
    ) -> None:
        self._recipe = recipe
        self._triton = triton
        self._buffers = buffers
        self._clock = clock
        self._keep_unit = keep_unit
        self._keep_piece = keep_piece
        self._keep_partial = keep_partial
        self._refreshing = refreshing or Refreshing(None, lambda _: recipe.plan)

    async def run(self, resume: Resume, checkpoints: Mapping[int, bytes], stop: Stop) -> None:
        """Make what is missing from `resume` on, as one sequence, with `Resume.checkpoints`.

        Raises ChunkError, TritonGoneError, StoppedError, or what `keep_unit` and `keep_piece` raise. Then the sequence
        is ended on the server, and what was finished before is kept, unless the job is lost. A drain ends no request
        that was sent: what comes of them is kept first.
        """
        borrowed = await self._buffers.borrow(BUFFERS, self._recipe.largest_bytes)
        flow = _Flow(Lane(self._stream("denoiser")), Lane(self._stream("vae_decoder")))
        for buffer in borrowed:
            flow.free.put_nowait(buffer)
        for index in resume.denoised(self._recipe.plan):
            flow.to_decode.put_nowait((index, checkpoints[index]))
        decoding = [self._request_frames(flow, resume, checkpoints), self._take_frames(flow)]
        decoders = [asyncio.create_task(each) for each in decoding]
        units, pieces = asyncio.create_task(self._keep(flow)), asyncio.create_task(self._finish(flow, resume))
        workers = asyncio.create_task(_all([*decoders, units, pieces]))
        try:
            try:
                complete = await self._denoise(flow, resume, checkpoints, stop, workers)
            except ChunkError:
                # What was denoised is made all the same: else a unit that always fails takes those before it along.
                await _rest(flow, stop, workers)
                raise
            await _rest(flow, stop, workers)
            if not complete:
                stop.check(new=True)
        except BaseException as error:
            await asyncio.shield(self._wind_down(flow, decoders, units, pieces, error))
            await _cancelled(workers)  # What they failed with was said, or is this error.
            raise
        finally:
            # Nobody may use a buffer again that the server or the encoder still works on.
            if not flow.decoder.requested and not pieces.cancelled():
                self._buffers.give_back(borrowed)
            else:
                for buffer in borrowed:
                    await self._buffers.retire(buffer)
            await asyncio.gather(flow.denoiser.stream.close(), flow.decoder.stream.close())

    def _stream(self, stage: contract.Stage) -> Stream:
        recipe = self._recipe
        return self._triton.stream(recipe.model, stage, recipe.correlation_id, recipe.unit_seconds, recipe.run)

    async def _denoise(
        self,
        flow: _Flow,
        resume: Resume,
        checkpoints: Mapping[int, bytes],
        stop: Stop,
        workers: asyncio.Task[None],
    ) -> bool:
        """Have all units denoised, unless a drain comes first; whether all were."""
        units, following, drained = self._recipe.plan.units, resume.unit, False
        text_seconds: dict[int, float] = {}
        while True:
            while not drained and following < len(units) and len(flow.denoiser.requested) < DEPTH:
                unit = await self._next(following, flow, stop, workers)
                if unit is None:
                    drained = True
                    break
                start = following == resume.unit
                past = {index: checkpoints[index] for index in unit.needs} if start else {}
                files = {contract.PAST: [*past.values()]}
                if start or unit.shot != units[following - 1].shot:
                    conditions, text_seconds[following] = await stop.race(self._encode_text(unit), workers)
                    files[contract.CONDITIONS] = [conditions]
                wanted = UnitRequest(unit, self._recipe.settings[unit.shot], tuple(past))
                if start and resume.partial:
                    files[contract.PARTIAL] = [resume.partial.checkpoint]
                    wanted = replace(wanted, resume=resume.partial.step)
                flow.denoiser.send(following, Request(wanted, files, start, end=following == len(units) - 1))
                following += 1
            if not flow.denoiser.requested:
                return not drained
            index, answer = await stop.race(flow.denoiser.answer(), workers)
            made = MadeUnit.of(index, answer, self._refreshing.why(index), text_seconds.pop(index, 0.0))
            flow.took(made, answer.arrived)
            flow.to_decode.put_nowait((index, made.checkpoint))

    async def _next(self, index: int, flow: _Flow, stop: Stop, workers: asyncio.Task[None]) -> Unit | None:
        """The unit, once there is room for it and it is settled; None where a drain comes first."""
        try:
            stop.check(new=True)
            await stop.race(flow.room.acquire(), workers, new=True)
            unit = await stop.race(self._refreshing.unit(index), workers, new=True)
            stop.check(new=True)  # A drain may come in the very turn of the loop that brings the room.
        except StoppedError:
            stop.check()
            return None
        return unit

    async def _encode_text(self, unit: Unit) -> tuple[bytes, float]:
        """The conditions of the unit's shot, and the seconds that they took."""
        images = await self._recipe.images(unit.shot)
        stream = self._stream("text_encoder")
        try:
            wanted = UnitRequest(unit, self._recipe.settings[unit.shot])
            stream.send(Request(wanted, {contract.IMAGES: [*images]}))
            answer = await stream.answer()
            return answer.binary(contract.CONDITIONS), answer.seconds
        finally:
            await stream.close()

    async def _keep(self, flow: _Flow) -> None:
        """Keep every unit that was denoised, in order."""
        while (made := await flow.to_keep.get()) is not None:
            await self._keep_unit(made)
            flow.kept[made.index].set()

    async def _request_frames(self, flow: _Flow, resume: Resume, checkpoints: Mapping[int, bytes]) -> None:
        """Have the frames of every piece decoded whose unit was denoised, in order."""
        plan, following = self._recipe.plan, resume.piece
        while (item := await flow.to_decode.get()) is not None:
            index, checkpoint = item
            unit = plan.units[index]
            while following < len(plan.pieces) and (piece := plan.pieces[following]).units[-1] == index:
                buffer = await flow.free.get()
                start, first = following == resume.piece, piece.frames.start - unit.frames.start
                past = {earlier: checkpoints[earlier] for earlier in unit.decode} if start else {}
                brought = [checkpoint] if start or first == 0 else []
                files = {contract.PAST: [*past.values()], contract.CHECKPOINT: brought}
                frames = range(first, first + len(piece.frames))
                wanted = UnitRequest(unit, self._recipe.settings[unit.shot], tuple(past), frames)
                end = following == len(plan.pieces) - 1
                flow.decoder.send((piece, buffer), Request(wanted, files, start, end, buffer.region))
                flow.requested.put_nowait(piece)
                following += 1
        flow.requested.put_nowait(None)

    async def _take_frames(self, flow: _Flow) -> None:
        """Take every answer of the decoder."""
        while await flow.requested.get() is not None:
            (piece, buffer), answer = await flow.decoder.answer()
            flow.decoded.put_nowait((piece, buffer, answer))
        flow.decoded.put_nowait(None)

    async def _finish(self, flow: _Flow, resume: Resume) -> None:
        """Encode and keep every piece, in order."""
        before: list[Span] = []
        spans: list[Span] = []
        while (item := await flow.decoded.get()) is not None:
            piece, buffer, answer = item
            unit = piece.units[-1]
            shape, expected = answer.shape(contract.FRAMES), self._recipe.shape(piece)
            if shape != expected:
                raise ChunkError(
                    ErrorCode.MODEL_FAILED, f"Piece {piece.index} has frames {list(shape)} instead of {list(expected)}."
                )
            frames = buffer.frames(shape) if buffer.region else answer.array(contract.FRAMES)
            started = self._clock.monotonic()
            segment, looks = await asyncio.to_thread(_encoded, frames, self._recipe.fps, piece.frames.start)
            mux = self._clock.monotonic() - started
            flow.free.put_nowait(buffer)
            spans.append(Span(answer.arrived - answer.seconds, answer.arrived))
            hidden = 0.0
            self._refreshing.see(piece.index, looks)
            if self._recipe.plan.ends_unit(piece):
                if unit >= resume.unit:
                    flow.room.release()
                hidden = hidden_decode(flow.denoised.pop(unit, Span(0.0, 0.0)), before)
                before, spans = spans, []
            for index in piece.units:
                if (kept := flow.kept.get(index)) is not None:
                    await kept.wait()
            seconds = StageSeconds(vae_decode=answer.seconds, mux=mux)
            await self._keep_piece(
                MadePiece(piece.index, piece.units, len(piece.frames), segment, looks, seconds, hidden)
            )

    async def _wind_down(
        self,
        flow: _Flow,
        decoders: list[asyncio.Task[None]],
        units: asyncio.Task[None],
        pieces: asyncio.Task[None],
        error: BaseException,
    ) -> None:
        """End the sequence on the server; keep what was finished before the error, and what its unit has come to."""
        await _cancelled(*decoders)  # From here on nobody else takes answers.
        partial: list[asyncio.Future[None]] = []
        paused: list[MadeUnit] = []
        if not isinstance(error, TritonGoneError):
            mark = Mark.PAUSE if goes_on(error) else Mark.CANCEL
            try:
                await self._triton.mark(self._recipe.correlation_id, mark, self._recipe.run)
            except (TritonGoneError, TritonRefusedError) as failure:
                log.warning("The sequence %s could not be marked: %s", self._recipe.correlation_id, failure)
            decoded, denoised = await asyncio.gather(flow.decoder.end(), flow.denoiser.end())
            for (piece, buffer), answer in decoded:
                flow.decoded.put_nowait((piece, buffer, answer))
            for index, answer in denoised:
                if (made := MadeUnit.of(index, answer, self._refreshing.why(index))).step is None:
                    flow.took(made, answer.arrived)
                else:
                    paused.append(made)
        flow.decoded.put_nowait(None)
        flow.to_keep.put_nowait(None)
        if not (isinstance(error, StoppedError) and error.lost):
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await asyncio.wait({units})
                    if units.exception() is None:  # Else pieces wait for what is not kept.
                        partial = [asyncio.ensure_future(self._keep_partial(made)) for made in paused]
                        await asyncio.wait({pieces, *partial})
        for ended in await _cancelled(units, pieces, *partial):
            if ended is not error:
                log.warning("What was finished may not all be kept: %s", ended)


def _encoded(frames: NDArray[np.uint8], fps: Fraction, first_frame: int) -> tuple[bytes, Look]:
    """The segment of a piece, and what its frames `[F, H, W, 3]` look like. Raises ValueError, MediaError."""
    return encode_segment(frames, fps, first_frame), look(frames)


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all, or raise what the first of them fails with."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


async def _rest(flow: _Flow, stop: Stop, workers: asyncio.Task[None]) -> None:
    """Have everything made that was denoised."""

    async def all_made() -> None:
        await asyncio.shield(workers)

    flow.to_decode.put_nowait(None)
    flow.to_keep.put_nowait(None)
    await stop.race(all_made())


async def _cancelled(*tasks: asyncio.Future[None]) -> list[Exception]:
    """End the tasks; what they failed with."""
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    return [error for error in ended if isinstance(error, Exception)]
