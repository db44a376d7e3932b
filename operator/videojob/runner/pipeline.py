"""Chunks of one job through Triton: two requests in flight, answers taken in order, encoded and committed in order.

While Triton denoises chunk k+1 and decodes chunk k, the runner encodes and uploads chunk k-1. What bounds it all is the
number of frame buffers: a request is sent only with a buffer for its answer, which is free again once it is encoded.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videojob.api.videojob import Resolved, StageSeconds
from videojob.chunks import ChunkLayout
from videojob.media import encode_segment
from videojob.runner.accounting import hidden_decode
from videojob.runner.buffers import Buffer, FrameBuffers
from videojob.runner.clock import Clock
from videojob.runner.resume import ResumePoint
from videojob.runner.stop import Stop, StoppedError
from videojob.runner.triton import (
    Answer,
    Array,
    Request,
    Stream,
    Tensor,
    Triton,
    TritonGoneError,
    TritonRefusedError,
    chunk_inputs,
)
from videojob.triton import contract
from videojob.triton.contract import ChunkError, ErrorCode

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
    """What a job's chunks are made from."""

    model: str
    correlation_id: str
    prompt: str
    resolved: Resolved
    layout: ChunkLayout

    def inputs(self, chunk: int) -> tuple[Tensor, ...]:
        """The inputs of a chunk's request."""
        return chunk_inputs(
            prompt=self.prompt,
            seed=self.resolved.seed,
            shot=0,
            chunk=chunk,
            width=self.resolved.width,
            height=self.resolved.height,
            steps=self.resolved.steps,
            guidance_scale=self.resolved.guidance_scale,
        )

    def shape(self, chunk: int) -> tuple[int, int, int, int]:
        """Shape `[F, H, W, 3]` of a chunk's frames."""
        return (self.layout.chunk_frames(chunk), self.resolved.height, self.resolved.width, 3)

    @property
    def largest_chunk_bytes(self) -> int:
        """Size of the frames of the largest chunk."""
        return max(int(np.prod(self.shape(chunk))) for chunk in range(min(2, self.resolved.chunks)))


@dataclass(frozen=True)
class Past:
    """Latents `[1, C, T, h, w]` of the chunks before the one to go on with; none at the beginning."""

    memory: Array | None = None
    tail: Array | None = None

    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs that only the request that starts a sequence has."""
        named = ((contract.MEMORY, self.memory), (contract.TAIL, self.tail))
        return tuple(Tensor(name, values) for name, values in named if values is not None)


@dataclass(frozen=True)
class Made:
    """A finished chunk, ready for the store."""

    index: int
    frames: int
    segment: bytes
    latents: Array
    seconds: StageSeconds
    hidden_decode: float
    """Seconds for which the chunk before was decoded while this one was denoised."""


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

    async def run(self, resume: ResumePoint, past: Past, stop: Stop) -> None:
        """Make every chunk from `resume.index` on, as one sequence.

        Raises ChunkError, TritonGoneError, StoppedError, or what `commit` raises. Then the sequence is ended on the
        server, and chunks that were finished before are committed, unless the job is lost. A drain ends no request
        that was sent: their chunks are committed first.
        """
        buffers = await self._buffers.borrow(BUFFERS, self._recipe.largest_chunk_bytes)
        stream = self._triton.stream(self._recipe.model, self._recipe.correlation_id)
        flow = _Flow(stream, asyncio.Queue(), deque(), asyncio.Queue())
        for buffer in buffers:
            flow.free.put_nowait(buffer)
        finisher = asyncio.create_task(self._finish(flow))
        try:
            complete = await self._request(flow, resume, past, stop, finisher)
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
        self, flow: _Flow, resume: ResumePoint, past: Past, stop: Stop, finisher: asyncio.Task[None]
    ) -> bool:
        """Send all requests, unless a drain comes first, and take all answers; whether all were sent."""
        total, following, drained = self._recipe.resolved.chunks, resume.index, False
        while True:
            while not drained and following < total and len(flow.in_flight) < DEPTH:
                buffer = await self._buffer(flow, stop, finisher)
                if buffer is None:
                    drained = True
                    break
                start, end = following == resume.index, following == total - 1
                inputs = self._recipe.inputs(following) + (past.inputs() if start else ())
                flow.stream.send(Request(inputs, start=start, end=end, frames_to=buffer.region))
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
            shape = answer.shape(contract.FRAMES)
            if shape != self._recipe.shape(index):
                raise ChunkError(
                    ErrorCode.MODEL_FAILED,
                    f"Chunk {index} has frames {list(shape)} instead of {list(self._recipe.shape(index))}.",
                )
            frames = buffer.frames(shape) if buffer.region else answer.array(contract.FRAMES)
            kept = self._recipe.layout.kept_frames(index, self._recipe.resolved.frames)
            started = self._clock.monotonic()
            segment = await asyncio.to_thread(self._encode, frames[:kept], index)
            seconds = StageSeconds(
                text_encode=answer.seconds(contract.TEXT_SECONDS),
                denoise=answer.seconds(contract.DENOISE_SECONDS),
                vae_decode=answer.seconds(contract.DECODE_SECONDS),
                mux=self._clock.monotonic() - started,
            )
            flow.free.put_nowait(buffer)
            gap = answer.arrived - arrived_before
            hidden = hidden_decode(seconds.denoise, seconds.vae_decode, gap, decode_before)
            arrived_before, decode_before = answer.arrived, seconds.vae_decode
            await self._commit(Made(index, kept, segment, answer.array(contract.LATENTS), seconds, hidden))

    def _encode(self, frames: NDArray[np.uint8], index: int) -> bytes:
        return encode_segment(frames, self._recipe.resolved.fps, self._recipe.layout.first_frame(index))

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
