"""Stages: what they keep of a sequence, what they refuse, and that a chunk depends on its inputs alone."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from videojob.chunks import ChunkLayout, memory_chunks, tail_chunks
from videojob.families import FAMILIES, FamilyName
from videojob.models.anyflow_far import Denoiser, TextEncoder, VideoDecoder
from videojob.models.noise import chunk_noise
from videojob.models.runtime import chunk_errors
from videojob.models.stages import DecodeStage, DenoiseRequest, DenoiseStage, TextStage, Turn
from videojob.triton.contract import END_SEQUENCE, ChunkError, ErrorCode
from videojob.triton.sequences import Sequences

CPU = torch.device("cpu")
LAYOUT = ChunkLayout(first_latents=1, latents=3, frames_per_latent=4)
SINK, WINDOW = 1, 6
CHUNKS = 6

pytestmark = pytest.mark.usefixtures("one_thread")


def never() -> bool:
    return False


def turn(sequence: str, chunk: int, *, start: bool | None = None, end: bool = False) -> Turn:
    return Turn(sequence, chunk, chunk == 0 if start is None else start, end)


@pytest.fixture(scope="module")
def denoiser(tiny_model: Path) -> Denoiser:
    return Denoiser(tiny_model, CPU, torch.float32)


@pytest.fixture(scope="module")
def decoder(tiny_model: Path) -> VideoDecoder:
    return VideoDecoder(tiny_model, CPU, torch.float32)


@pytest.fixture(scope="module")
def request_(tiny_model: Path) -> DenoiseRequest:
    embeds = TextEncoder(tiny_model, CPU, torch.float32).encode("a cat")
    return DenoiseRequest(embeds, seed=7, shot=0, width=32, height=32, steps=1, guidance_scale=1.0, memory=None)


@pytest.fixture
def denoise(denoiser: Denoiser) -> DenoiseStage:
    sequences: Sequences[dict[int, torch.Tensor]] = Sequences(4, 60.0, lambda: 0.0)
    return DenoiseStage(denoiser, sequences, LAYOUT, sink_latents=SINK, window_latents=WINDOW)


@pytest.fixture
def decode(decoder: VideoDecoder) -> DecodeStage:
    return DecodeStage(decoder, Sequences(4, 60.0, lambda: 0.0), LAYOUT)


def video(stage: DenoiseStage, request: DenoiseRequest, sequence: str = "job-1") -> list[torch.Tensor]:
    return [stage.make(turn(sequence, chunk), request, never).tensor for chunk in range(CHUNKS)]


def joined(latents: list[torch.Tensor], chunks: tuple[int, ...]) -> torch.Tensor | None:
    return torch.cat([latents[chunk] for chunk in chunks], dim=2) if chunks else None


def test_noise_depends_on_seed_shot_and_chunk_alone() -> None:
    shape = (1, 2, 3, 4, 5)
    keys = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (-1, 0, 0), (2**63 - 1, 0, 0)]
    noises = [chunk_noise(*key, shape) for key in keys]
    assert all(torch.equal(noise, chunk_noise(*key, shape)) for key, noise in zip(keys, noises, strict=True))
    assert len({noise.sum().item() for noise in noises}) == len(keys)
    assert noises[0].dtype == torch.float32


def test_two_sequences_interleaved_give_what_each_gives_alone(denoise: DenoiseStage, request_: DenoiseRequest) -> None:
    other = replace(request_, seed=8, shot=1, width=48)
    alone = [video(denoise, request_, "a"), video(denoise, other, "b")]
    for chunk in range(CHUNKS):
        for sequence, (request, expected) in enumerate(zip((request_, other), alone, strict=True)):
            made = denoise.make(turn(f"mixed-{sequence}", chunk), request, never)
            assert torch.equal(made.tensor, expected[chunk])


@pytest.mark.parametrize("chunk", range(1, CHUNKS))
def test_a_sequence_started_from_memory_goes_on_as_if_never_interrupted(
    denoise: DenoiseStage, request_: DenoiseRequest, chunk: int
) -> None:
    expected = video(denoise, request_)
    memory = joined(expected, memory_chunks(chunk, LAYOUT, SINK, WINDOW))
    made = [denoise.make(turn("job-2", chunk, start=True), replace(request_, memory=memory), never).tensor]
    made += [denoise.make(turn("job-2", later), request_, never).tensor for later in range(chunk + 1, CHUNKS)]
    assert all(torch.equal(*pair) for pair in zip(made, expected[chunk:], strict=True))


@pytest.mark.parametrize("chunk", [1, 3])
def test_frames_after_a_rebuilt_cache_are_those_of_an_unbroken_decode(
    denoise: DenoiseStage, decode: DecodeStage, request_: DenoiseRequest, chunk: int
) -> None:
    latents = video(denoise, request_)
    expected = [decode.make(turn("a", index), latents[index], None, never).tensor for index in range(CHUNKS)]
    tail = joined(latents, tail_chunks(chunk, LAYOUT, FAMILIES[FamilyName.ANYFLOW_FAR].tail_latents))
    made = [decode.make(turn("b", chunk, start=True), latents[chunk], tail, never).tensor]
    made += [decode.make(turn("b", later), latents[later], None, never).tensor for later in range(chunk + 1, CHUNKS)]
    assert all(torch.equal(*pair) for pair in zip(made, expected[chunk:], strict=True))
    assert [frames.shape for frames in expected] == [(LAYOUT.chunk_frames(index), 32, 32, 3) for index in range(CHUNKS)]


def memory_of(latents: int, value: float = 0.0) -> torch.Tensor:
    return torch.full((1, 16, latents, 4, 4), value)


@pytest.mark.parametrize(
    ("place", "change", "reason", "message"),
    [
        (turn("a", 2), {}, ErrorCode.OUT_OF_SEQUENCE, "last chunk made was 0"),
        (turn("a", 0, start=False), {}, ErrorCode.OUT_OF_SEQUENCE, "last chunk made was 0"),
        (turn("unknown", 1), {}, ErrorCode.OUT_OF_SEQUENCE, "nothing is known"),
        (turn("a", 1), {"steps": 0}, ErrorCode.INVALID_REQUEST, "STEPS is 0"),
        (turn("a", 1), {"width": 40}, ErrorCode.INVALID_REQUEST, "multiples of 16"),
        (turn("a", 1), {"width": 48}, ErrorCode.INVALID_REQUEST, "may not change"),
        (turn("a", 1), {"memory": memory_of(1)}, ErrorCode.INVALID_REQUEST, "only come with the request that starts"),
        (
            turn("a", 1, start=True),
            {},
            ErrorCode.INVALID_REQUEST,
            r"MEMORY of shape \[1, 16, 1, 4, 4\], not \[1, 16, 0",
        ),
        (turn("a", 3, start=True), {"memory": memory_of(4)}, ErrorCode.INVALID_REQUEST, r"\[1, 16, 7, 4, 4\]"),
        (turn("a", 0), {"memory": memory_of(1)}, ErrorCode.INVALID_REQUEST, r"\[1, 16, 0, 4, 4\]"),
        (turn("a", 1, start=True), {"memory": memory_of(1, torch.nan)}, ErrorCode.MODEL_FAILED, "not numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_the_denoiser_refuses_leaves_no_state(
    denoise: DenoiseStage,
    request_: DenoiseRequest,
    place: Turn,
    change: dict[str, Any],
    reason: ErrorCode,
    message: str,
) -> None:
    denoise.make(turn("a", 0), request_, never)
    with pytest.raises(ChunkError, match=message) as raised:
        denoise.make(place, replace(request_, **change), never)
    assert raised.value.reason is reason
    with pytest.raises(ChunkError, match="nothing is known"):
        denoise.make(turn(place.sequence, place.chunk + 1), request_, never)


@pytest.mark.parametrize(
    ("place", "tail", "reason"),
    [
        (turn("a", 2), None, ErrorCode.OUT_OF_SEQUENCE),
        (turn("a", 1), memory_of(1), ErrorCode.INVALID_REQUEST),
        (turn("a", 1, start=True), None, ErrorCode.INVALID_REQUEST),
        (turn("a", 0), memory_of(1), ErrorCode.INVALID_REQUEST),
        (turn("a", 2, start=True), memory_of(3), ErrorCode.INVALID_REQUEST),
        (turn("a", 1, start=True), memory_of(2), ErrorCode.INVALID_REQUEST),
        (turn("a", 20, start=True), memory_of(37), ErrorCode.INVALID_REQUEST),
        (turn("a", 1, start=True), memory_of(1, torch.nan), ErrorCode.MODEL_FAILED),
    ],
    ids=[
        "no successor",
        "TAIL without START",
        "START without TAIL",
        "TAIL at chunk 0",
        "TAIL too short",
        "TAIL too long",
        "TAIL shorter than the VAE looks back",
        "TAIL of no numbers",
    ],
)
def test_what_the_decoder_refuses_leaves_no_state(
    decode: DecodeStage, place: Turn, tail: torch.Tensor | None, reason: ErrorCode
) -> None:
    decode.make(turn("a", 0), memory_of(1), None, never)
    with pytest.raises(ChunkError) as raised:
        decode.make(place, memory_of(3), tail, never)
    assert raised.value.reason is reason
    with pytest.raises(ChunkError, match="nothing is known"):
        decode.make(turn("a", place.chunk + 1), memory_of(3), None, never)


def test_the_last_chunk_and_an_end_leave_no_state(denoise: DenoiseStage, request_: DenoiseRequest) -> None:
    denoise.make(turn("last", 0, end=True), request_, never)
    denoise.make(turn("ended", 0), request_, never)
    denoise.end("ended")
    for sequence in ("last", "ended"):
        with pytest.raises(ChunkError, match="nothing is known"):
            denoise.make(turn(sequence, 1), request_, never)


@pytest.mark.parametrize(("chunk", "end"), [(END_SEQUENCE, False), (-2, True)])
def test_a_turn_that_means_nothing_is_refused(chunk: int, end: bool) -> None:
    with pytest.raises(ChunkError) as raised:
        Turn("a", chunk, start=True, end=end)
    assert raised.value.reason is ErrorCode.INVALID_REQUEST


class CountingEncoder:
    """Counts its calls, and advances its own clock by a second for each text."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, prompt: str) -> torch.Tensor:
        self.texts.append(prompt)
        return torch.full((1, 2, 3), float(len(prompt)))

    def clock(self) -> float:
        return float(len(self.texts))


def test_a_cached_prompt_costs_nothing_and_the_cache_is_bounded() -> None:
    encoder = CountingEncoder()
    stage = TextStage(encoder, limit=2, clock=encoder.clock)
    seconds = [stage.encode(text, 1.0).seconds for text in ("a", "a", "bb", "a", "ccc", "bb")]
    assert seconds == [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    assert encoder.texts == ["a", "bb", "ccc", "bb"]


def test_guidance_adds_the_empty_text_before_the_prompt() -> None:
    encoder = CountingEncoder()
    encoded = TextStage(encoder, clock=encoder.clock).encode("abc", 2.0)
    assert encoded.tensor[:, 0, 0].tolist() == [0.0, 3.0]
    assert encoded.seconds == 2.0


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (lambda: torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemory: The denoiser ran out of memory"),
        (MemoryError, "OutOfMemory: "),
        (lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: ..."), "OutOfMemory: "),
        (
            lambda: RuntimeError("shapes differ\nat line 3"),
            r"ModelFailed: The denoiser failed: RuntimeError: shapes differ$",
        ),
        (KeyError, "ModelFailed: The denoiser failed: KeyError: no message"),
        (lambda: ChunkError(ErrorCode.CANCELLED, "Stop."), r"^Cancelled: Stop\.$"),
    ],
    ids=["GPU memory", "memory", "CPU allocator", "any error", "error without words", "known error"],
)
def test_every_failure_becomes_a_reason_and_a_sentence(cause: Callable[[], Exception], message: str) -> None:
    with pytest.raises(ChunkError, match=message), chunk_errors("The denoiser"):
        raise cause()


def test_memory_that_a_failed_chunk_took_is_free_before_the_cache_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the allocator keeps it: the traceback of the error holds the frames, and they hold their tensors."""
    alive: list[bool] = []
    taken: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        tensor = torch.zeros(1)
        taken.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(taken[0]() is not None))

    with pytest.raises(ChunkError, match=ErrorCode.OUT_OF_MEMORY), chunk_errors("The denoiser"):
        work()

    assert alive == [False]
