"""Units of one job through Triton: two requests in flight, answers taken in order, encoded and committed in order.

While Triton denoises unit k+1 and decodes unit k, the runner encodes and uploads the piece of unit k-1. What bounds it
all is the number of frame buffers: a request is sent only with a buffer for its answer, which is free again once it is
encoded.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videojob.api.videojob import StageSeconds
from videojob.families import Piece, Plan, Unit
from videojob.media import encode_segment
from videojob.runner.accounting import hidden_decode
from videojob.runner.buffers import Buffer, FrameBuffers
from videojob.runner.clock import Clock
from videojob.runner.stop import Stop, StoppedError
from videojob.runner.triton import Answer, Request, Stream, Triton, TritonGoneError, TritonRefusedError
from videojob.triton import contract
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import Settings, UnitRequest

log = logging.getLogger(__name__)

DEPTH = 2
"""Requests in flight: one that is denoised, one that is decoded."""
BUFFERS = DEPTH + 1
"""And one chunk in the encoder."""
END_SECONDS = 60.0
"""Longer than one denoising step and the decoding of one chunk."""
FLUSH_SECONDS = 15.0
"""For finished chunks to reach the store when the job has to stop."""


@dataclass(frozen=True)
class Recipe:
    """What a job's video is made from."""

    model: str
    correlation_id: str
    settings: Settings
    plan: Plan
    fps: int

    def shape(self, unit: Unit) -> tuple[int, int, int, int]:
        """Shape `[F, H, W, 3]` of the frames that come out of a unit."""
        return (len(unit.frames), self.settings.height, self.settings.width, 3)

    @property
    def largest_bytes(self) -> int:
        """Size of the frames of the largest unit."""
        return max(math.prod(self.shape(unit)) for unit in self.plan.units)


@dataclass(frozen=True)
class Made:
    """A finished piece and the unit that it comes from, ready for the store."""

    index: int
    frames: int
    segment: bytes
    checkpoint: bytes
    seconds: StageSeconds
    hidden_decode: float
    """Seconds for which the unit before was decoded while this one was denoised."""


@dataclass
class _Flow:
    """What is on its way in one run of a sequence."""

    stream: Stream
    free: asyncio.Queue[Buffer]
    in_flight: deque[tuple[int, Buffer]]
    answers: asyncio.Queue[tuple[int, Buffer, Answer] | None]
    """Bounded by the buffers."""


class Pipeline:
    """Makes the chunks of one job, and calls `commit` for each, in order: it returns when the chunk is in the store."""

    def __init__(
        self,
        recipe: Recipe,
        triton: Triton,
        buffers: FrameBuffers,
        clock: Clock,
        commit: Callable[[Made], Awaitable[None]],
    ) -> None:
        self._recipe = recipe
        self._triton = triton
        self._buffers = buffers
        self._clock = clock
        self._commit = commit

    async def run(self, first: int, past: Mapping[int, bytes], stop: Stop) -> None:
        """Make every unit from the first on, as one sequence; `past` are the checkpoints of those that it needs.

        Raises ChunkError, TritonGoneError, StoppedError, or what `commit` raises. Then the sequence is ended on the
        server, and chunks that were finished before are committed, unless the job is lost. A drain ends no request
        that was sent: their chunks are committed first.
        """
        buffers = await self._buffers.borrow(BUFFERS, self._recipe.largest_bytes)
        stream = self._triton.stream(self._recipe.model, self._recipe.correlation_id)
        flow = _Flow(stream, asyncio.Queue(), deque(), asyncio.Queue())
        for buffer in buffers:
            flow.free.put_nowait(buffer)
        finisher = asyncio.create_task(self._finish(flow))
        try:
            complete = await self._request(flow, first, past, stop, finisher)
            flow.answers.put_nowait(None)
            await stop.race(_joined(finisher))
            if not complete:
                stop.check(new=True)
        except BaseException as error:
            await asyncio.shield(self._wind_down(flow, finisher, error))
            raise
        finally:
            # Nobody may use a buffer again that the server or the encoder still works on.
            if not flow.in_flight and not finisher.cancelled():
                self._buffers.give_back(buffers)
            else:
                for buffer in buffers:
                    await self._buffers.retire(buffer)
            await flow.stream.close()

    async def _request(
        self, flow: _Flow, first: int, past: Mapping[int, bytes], stop: Stop, finisher: asyncio.Task[None]
    ) -> bool:
        """Send all requests, unless a drain comes first, and take all answers; whether all were sent."""
        units, following, drained = self._recipe.plan.units, first, False
        while True:
            while not drained and following < len(units) and len(flow.in_flight) < DEPTH:
                buffer = await self._buffer(flow, stop, finisher)
                if buffer is None:
                    drained = True
                    break
                start, end = following == first, following == len(units) - 1
                came = past if start else {}
                wanted = UnitRequest(units[following], self._recipe.settings, tuple(came))
                flow.stream.send(Request(wanted, tuple(came.values()), start, end, buffer.region))
                flow.in_flight.append((following, buffer))
                following += 1
            if not flow.in_flight:
                return not drained
            try:
                answer = await stop.race(flow.stream.answer(), finisher)
            except ChunkError:
                if not finisher.done():
                    flow.in_flight.popleft()  # It was answered: with the error.
                raise
            flow.answers.put_nowait((*flow.in_flight.popleft(), answer))

    async def _buffer(self, flow: _Flow, stop: Stop, finisher: asyncio.Task[None]) -> Buffer | None:
        """A buffer for the next request; None where a drain comes first."""
        try:
            stop.check(new=True)
            buffer = await stop.race(flow.free.get(), finisher, new=True)
            stop.check(new=True)  # A drain may come in the very turn of the loop that brings the buffer.
        except StoppedError:
            stop.check()
            return None
        return buffer

    async def _finish(self, flow: _Flow) -> None:
        """Encode and commit every answer, in order."""
        arrived_before, decode_before = float("-inf"), 0.0
        while (item := await flow.answers.get()) is not None:
            index, buffer, answer = item
            unit, piece = self._recipe.plan.units[index], self._recipe.plan.pieces[index]
            shape, expected = answer.shape(contract.FRAMES), self._recipe.shape(unit)
            if shape != expected:
                raise ChunkError(
                    ErrorCode.MODEL_FAILED, f"Unit {index} has frames {list(shape)} instead of {list(expected)}."
                )
            frames = buffer.frames(shape) if buffer.region else answer.array(contract.FRAMES)
            started = self._clock.monotonic()
            segment = await asyncio.to_thread(self._encode, frames[: len(piece.frames)], piece)
            seconds = StageSeconds(
                text_encode=answer.seconds(contract.TEXT_REPORT),
                denoise=answer.seconds(contract.DENOISE_REPORT),
                vae_decode=answer.seconds(contract.DECODE_REPORT),
                mux=self._clock.monotonic() - started,
            )
            flow.free.put_nowait(buffer)
            gap = answer.arrived - arrived_before
            hidden = hidden_decode(seconds.denoise, seconds.vae_decode, gap, decode_before)
            arrived_before, decode_before = answer.arrived, seconds.vae_decode
            checkpoint = answer.binary(contract.CHECKPOINT)
            await self._commit(Made(index, len(piece.frames), segment, checkpoint, seconds, hidden))

    def _encode(self, frames: NDArray[np.uint8], piece: Piece) -> bytes:
        return encode_segment(frames, self._recipe.fps, piece.frames.start)

    async def _wind_down(self, flow: _Flow, finisher: asyncio.Task[None], error: BaseException) -> None:
        """End the sequence on the server; commit what was finished before the error."""
        late: list[Answer | Exception] = []
        if not isinstance(error, TritonGoneError):
            try:
                await self._triton.cancel(self._recipe.correlation_id)
            except (TritonGoneError, TritonRefusedError) as failure:
                log.warning("The sequence %s could not be marked: %s", self._recipe.correlation_id, failure)
            late = await flow.stream.end(END_SECONDS)
        unbroken = isinstance(error, StoppedError)
        for answer in late:
            index, buffer = flow.in_flight.popleft()
            unbroken = unbroken and isinstance(answer, Answer)
            if unbroken and isinstance(answer, Answer):
                flow.answers.put_nowait((index, buffer, answer))
        flow.answers.put_nowait(None)
        if not (isinstance(error, StoppedError) and error.lost):
            await asyncio.wait({finisher}, timeout=FLUSH_SECONDS)
        finisher.cancel()
        (ended,) = await asyncio.gather(finisher, return_exceptions=True)
        if isinstance(ended, Exception) and ended is not error:
            log.warning("A finished chunk was not committed: %s", ended)


async def _joined(task: asyncio.Task[None]) -> None:
    await asyncio.shield(task)
