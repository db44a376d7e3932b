"""The stages of serving: what a Triton model does with a request, apart from Triton.

Each stage runs in a process of its own and makes one chunk at a time. Denoiser and decoder keep what a sequence needs
next; what they give depends only on the requests of that sequence.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from videojob.chunks import ChunkLayout, memory_chunks
from videojob.models.family import Cancelled, Denoiser, TextEncoder, VideoDecoder
from videojob.models.noise import chunk_noise
from videojob.triton.contract import END_SEQUENCE, ChunkError, ErrorCode
from videojob.triton.sequences import Sequences

Clock = Callable[[], float]
"""Seconds that only grow."""


@dataclass(frozen=True)
class Turn:
    """Where a request stands in its sequence."""

    sequence: str
    chunk: int
    start: bool
    end: bool

    def __post_init__(self) -> None:
        if self.chunk < END_SEQUENCE or (self.chunk == END_SEQUENCE and not self.end):
            raise ChunkError(
                ErrorCode.INVALID_REQUEST,
                f"CHUNK is {self.chunk}; it must be 0 or more, or {END_SEQUENCE} with sequence_end to end a sequence.",
            )

    @property
    def only_ends(self) -> bool:
        """Whether there is nothing to make."""
        return self.chunk == END_SEQUENCE


@dataclass(frozen=True)
class Timed:
    """A tensor and the seconds that computing it took."""

    tensor: torch.Tensor
    seconds: float


class TextStage:
    """Prompt embeddings, the last `limit` texts of them cached."""

    def __init__(self, encoder: TextEncoder, limit: int = 64, clock: Clock = time.perf_counter) -> None:
        self._encoder = encoder
        self._limit = limit
        self._clock = clock
        self._cache: OrderedDict[str, torch.Tensor] = OrderedDict()

    def encode(self, prompt: str, guidance_scale: float) -> Timed:
        """Embeddings `[B, L, D]` on the CPU: of the prompt, with guidance (above 1) of the empty text before it.

        0 seconds where all of it was cached. Raises ChunkError (PromptTooLong).
        """
        started = self._clock()
        texts = ["", prompt] if guidance_scale > 1.0 else [prompt]
        cached = all(text in self._cache for text in texts)
        embeds = torch.cat([self._embeds(text) for text in texts])
        return Timed(embeds, 0.0 if cached else self._clock() - started)

    def _embeds(self, text: str) -> torch.Tensor:
        if text not in self._cache:
            self._cache[text] = self._encoder.encode(text).cpu()
        self._cache.move_to_end(text)
        embeds = self._cache[text]
        while len(self._cache) > self._limit:
            self._cache.popitem(last=False)
        return embeds


@dataclass(frozen=True)
class DenoiseRequest:
    """What a chunk's latents are a function of, apart from its place in the sequence."""

    prompt_embeds: torch.Tensor
    """`[B, L, D]`."""
    seed: int
    shot: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    memory: torch.Tensor | None
    """`[1, C, T, h, w]`, the latents of `memory_chunks`; only where a sequence starts after chunk 0."""


class DenoiseStage:
    """Makes the latents of chunks and remembers sink and window of each sequence."""

    def __init__(
        self,
        denoiser: Denoiser,
        sequences: Sequences[dict[int, torch.Tensor]],
        layout: ChunkLayout,
        *,
        sink_latents: int,
        window_latents: int,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._denoiser = denoiser
        self._sequences = sequences
        self._layout = layout
        self._sink_latents = sink_latents
        self._window_latents = window_latents
        self._clock = clock

    def end(self, sequence: str) -> None:
        """Forget a sequence, known or not."""
        self._sequences.drop(sequence)

    def make(self, turn: Turn, request: DenoiseRequest, cancelled: Cancelled) -> Timed:
        """Latents `[1, C, T, h, w]` of chunk `turn.chunk`.

        Raises ChunkError: OutOfSequence, InvalidRequest, Cancelled, or ModelFailed where the latents are not finite.
        After any exception the sequence is unknown.
        """
        started = self._clock()
        # Taken out first, whatever comes: an invalid request leaves no state behind either.
        if turn.start:
            self._sequences.drop(turn.sequence)
            known: dict[int, torch.Tensor] = {}
        else:
            known = self._sequences.take(turn.sequence, turn.chunk)
        if request.steps < 1:
            raise ChunkError(ErrorCode.INVALID_REQUEST, f"STEPS is {request.steps}; it must be at least 1.")
        shape = self._denoiser.latent_shape(self._layout.chunk_latents(turn.chunk), request.height, request.width)
        if turn.start:
            known = self._split_memory(turn.chunk, request.memory, shape)
        elif request.memory is not None:
            raise ChunkError(ErrorCode.INVALID_REQUEST, "MEMORY may only come with the request that starts a sequence.")
        elif any(latents.shape[3:] != shape[3:] for latents in known.values()):
            raise ChunkError(ErrorCode.INVALID_REQUEST, "WIDTH and HEIGHT may not change within a sequence.")

        latents = self._denoiser.denoise(
            request.prompt_embeds,
            [known[chunk] for chunk in self._memory_chunks(turn.chunk)],
            chunk_noise(request.seed, request.shot, turn.chunk, shape),
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            cancelled=cancelled,
        )
        _require_finite(latents, f"The latents of chunk {turn.chunk}")
        if not turn.end:
            known[turn.chunk] = latents
            needed = {chunk: known[chunk] for chunk in self._memory_chunks(turn.chunk + 1)}
            self._sequences.keep(turn.sequence, turn.chunk, needed)
        return Timed(latents, self._clock() - started)

    def _memory_chunks(self, chunk: int) -> tuple[int, ...]:
        return memory_chunks(chunk, self._layout, self._sink_latents, self._window_latents)

    def _split_memory(
        self, chunk: int, memory: torch.Tensor | None, shape: tuple[int, int, int, int, int]
    ) -> dict[int, torch.Tensor]:
        chunks = self._memory_chunks(chunk)
        sizes = [self._layout.chunk_latents(earlier) for earlier in chunks]
        expected = (1, shape[1], sum(sizes), *shape[3:])
        found = (1, shape[1], 0, *shape[3:]) if memory is None else tuple(memory.shape)
        if found != expected:
            raise ChunkError(
                ErrorCode.INVALID_REQUEST,
                f"A sequence that starts at chunk {chunk} needs MEMORY of shape {list(expected)}, not {list(found)}.",
            )
        if memory is None:
            return {}
        # Cloned: a slice would keep the whole request alive.
        parts = torch.split(memory, sizes, dim=2)
        return {earlier: part.clone() for earlier, part in zip(chunks, parts, strict=True)}


class DecodeStage:
    """Makes the frames of chunks and keeps the VAE's feature cache of each sequence."""

    def __init__(
        self,
        decoder: VideoDecoder,
        sequences: Sequences[Any],
        layout: ChunkLayout,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._decoder = decoder
        self._sequences = sequences
        self._layout = layout
        self._clock = clock

    def end(self, sequence: str) -> None:
        """Forget a sequence, known or not."""
        self._sequences.drop(sequence)

    def make(self, turn: Turn, latents: torch.Tensor, tail: torch.Tensor | None, cancelled: Cancelled) -> Timed:
        """Frames `[F, H, W, 3]` uint8, on the CPU, of the chunk's latents `[1, C, T, h, w]`.

        A sequence that starts after chunk 0 decodes `tail`, the latents before the chunk, for its cache alone.
        Raises ChunkError: OutOfSequence, InvalidRequest, Cancelled, or ModelFailed where the frames are not finite.
        After any exception the sequence is unknown.
        """
        started = self._clock()
        if turn.start:
            self._sequences.drop(turn.sequence)
            self._check_tail(turn.chunk, 0 if tail is None else tail.shape[2])
            cache = self._decoder.new_cache()
            if tail is not None:
                self._decoder.decode(tail, cache, cancelled)
        else:
            cache = self._sequences.take(turn.sequence, turn.chunk)
            if tail is not None:
                raise ChunkError(
                    ErrorCode.INVALID_REQUEST, "TAIL may only come with the request that starts a sequence."
                )
        frames = self._decoder.decode(latents, cache, cancelled)
        _require_finite(frames, f"The frames of chunk {turn.chunk}")
        if not turn.end:
            self._sequences.keep(turn.sequence, turn.chunk, cache)
        pixels = to_uint8(frames).cpu()
        return Timed(pixels, self._clock() - started)

    def _check_tail(self, chunk: int, latents: int) -> None:
        """Refuse a tail from which the cache would come out different: the frames would be wrong, if only slightly."""
        before = self._layout.first_latent(chunk)
        least = min(before, self._decoder.look_back)
        if not least <= latents <= before:
            raise ChunkError(
                ErrorCode.INVALID_REQUEST,
                f"A sequence that starts at chunk {chunk} needs a TAIL of {least} to {before} latents, not {latents}.",
            )


def to_uint8(frames: torch.Tensor) -> torch.Tensor:
    """RGB frames `[F, H, W, 3]` uint8 of decoded ones `[1, 3, F, H, W]` in -1..1, as diffusers makes images of them."""
    scaled = (frames[0].permute(1, 2, 3, 0).float() / 2 + 0.5).clamp(0, 1)
    return (scaled * 255).round().to(torch.uint8).contiguous()


def _require_finite(tensor: torch.Tensor, what: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise ChunkError(
            ErrorCode.MODEL_FAILED,
            f"{what} hold values that are not numbers. The weights, the precision or the memory given is broken.",
        )
