"""Stages: what they keep of a sequence, what they refuse, and that a unit depends on its inputs alone."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from videojob.families import FAMILIES, Chunking, FamilyName, Shot, Video
from videojob.models.anyflow_far import Conditioner, Decoder, Generator
from videojob.models.family import Conditioning
from videojob.models.history import LATENTS
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.runtime import chunk_errors
from videojob.models.stages import DecodeStage, DenoiseStage, TextStage, Turn
from videojob.models.stopwatch import of_clock
from videojob.models.tensors import Tensors
from videojob.triton.contract import ChunkError, ErrorCode, Mark
from videojob.triton.sequences import Sequences
from videojob.triton.wire import Settings, UnitRequest

CPU = torch.device("cpu")
CHUNKING = Chunking(first=1, later=3, sink=1, window=6)
PLAN = FAMILIES[FamilyName.ANYFLOW_FAR].plan(CHUNKING, Video((Shot(400),), 16, steps=1))
UNITS = 6
SETTINGS = Settings("a cat", seed=7, width=32, height=32, fps=16.0, guidance_scale=1.0)

pytestmark = pytest.mark.usefixtures("one_thread")


def never() -> None:
    """Nobody asks to stop."""


def turn(
    sequence: str, unit: int, *, start: bool | None = None, end: bool = False, past: Sequence[Tensors] = ()
) -> Turn:
    return Turn(sequence, unit == 0 if start is None else start, end, past)


def request(unit: int, past: Sequence[int] = (), **settings: Any) -> UnitRequest:
    return UnitRequest(PLAN.units[unit], replace(SETTINGS, **settings), tuple(past))


def checkpoint(latents: int, value: float = 0.0) -> Tensors:
    return {LATENTS: torch.full((1, 16, latents, 4, 4), value)}


@pytest.fixture(scope="module")
def generator(tiny_model: Path) -> Generator:
    return Generator(Parts(tiny_model, CPU, torch.float32))


@pytest.fixture(scope="module")
def decoder(tiny_model: Path) -> Decoder:
    return Decoder(Parts(tiny_model, CPU, torch.float32))


@pytest.fixture(scope="module")
def conditions(tiny_model: Path) -> Tensors:
    return Conditioner(Parts(tiny_model, CPU, torch.float32)).encode(Conditioning("a cat", None))


@pytest.fixture
def denoise(generator: Generator) -> DenoiseStage:
    return DenoiseStage(generator, Sequences(4, 60.0, lambda: 0.0))


@pytest.fixture
def decode(decoder: Decoder) -> DecodeStage:
    return DecodeStage(decoder, Sequences(4, 60.0, lambda: 0.0))


def video(stage: DenoiseStage, conditions: Tensors, sequence: str = "job-1", **settings: Any) -> list[Tensors]:
    """The checkpoints of a sequence."""
    return [
        stage.make(turn(sequence, unit), request(unit, **settings), conditions, never).tensors for unit in range(UNITS)
    ]


def same(made: Sequence[Tensors], expected: Sequence[Tensors]) -> bool:
    return all(torch.equal(one[LATENTS], other[LATENTS]) for one, other in zip(made, expected, strict=True))


def test_noise_depends_on_its_names_alone() -> None:
    shape = (1, 2, 3, 4, 5)
    units = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (-1, 0, 0), (2**63 - 1, 0, 0)]
    drawn = [("", 0), ("again", 0), ("again", 1)]
    noises = [Noise(*unit)(shape, *name) for unit in units for name in drawn]
    once_more = [Noise(*unit)(shape, *name) for unit in units for name in drawn]
    assert all(torch.equal(*pair) for pair in zip(noises, once_more, strict=True))
    assert len({noise.sum().item() for noise in noises}) == len(noises)
    assert noises[0].dtype == torch.float32


def test_two_sequences_interleaved_give_what_each_gives_alone(denoise: DenoiseStage, conditions: Tensors) -> None:
    jobs: dict[str, dict[str, Any]] = {"a": {}, "b": {"seed": 8, "width": 48}}
    alone = {name: video(denoise, conditions, f"{name}-alone", **settings) for name, settings in jobs.items()}
    mixed: dict[str, list[Tensors]] = {"a": [], "b": []}
    for unit in range(UNITS):
        for name, settings in jobs.items():
            mixed[name].append(denoise.make(turn(name, unit), request(unit, **settings), conditions, never).tensors)
    assert same(mixed["a"], alone["a"]) and same(mixed["b"], alone["b"])


@pytest.mark.parametrize("first", range(1, UNITS))
def test_a_sequence_started_from_checkpoints_goes_on_as_if_never_interrupted(
    denoise: DenoiseStage, conditions: Tensors, first: int
) -> None:
    expected = video(denoise, conditions)
    needs = PLAN.units[first].needs
    start = turn("job-2", first, start=True, past=[expected[unit] for unit in needs])
    made = [denoise.make(start, request(first, needs), conditions, never).tensors]
    made += [
        denoise.make(turn("job-2", later), request(later), conditions, never).tensors
        for later in range(first + 1, UNITS)
    ]
    assert same(made, expected[first:])


@pytest.mark.parametrize("first", [1, 3])
def test_frames_after_a_rebuilt_state_are_those_of_an_unbroken_decode(
    denoise: DenoiseStage, decode: DecodeStage, conditions: Tensors, first: int
) -> None:
    checkpoints = video(denoise, conditions)
    expected = [decode.make(turn("a", unit), request(unit), checkpoints[unit], never).frames for unit in range(UNITS)]
    tail = PLAN.units[first].decode
    start = turn("b", first, start=True, past=[checkpoints[unit] for unit in tail])
    made = [decode.make(start, request(first, tail), checkpoints[first], never).frames]
    made += [
        decode.make(turn("b", later), request(later), checkpoints[later], never).frames
        for later in range(first + 1, UNITS)
    ]
    assert all(torch.equal(*pair) for pair in zip(made, expected[first:], strict=True))
    assert [frames.shape for frames in expected] == [(len(PLAN.units[unit].frames), 32, 32, 3) for unit in range(UNITS)]


@pytest.mark.parametrize("first", [0, 5, 7])
def test_a_unit_comes_out_in_pieces_wherever_they_are_cut(
    denoise: DenoiseStage, decode: DecodeStage, conditions: Tensors, first: int
) -> None:
    """Of 12 frames, which come out of the decoder 4 at a time; also where the sequence starts within the unit."""
    checkpoints = video(denoise, conditions)
    expected = [decode.make(turn("a", unit), request(unit), checkpoints[unit], never).frames for unit in range(3)]
    start = turn("b", 1, start=True, past=[checkpoints[0]])
    made = []
    for piece in [each for each in (range(5), range(5, 7), range(7, 12)) if each.start >= first]:
        begins = piece.start == first
        wanted = replace(request(1, [0] if begins else []), frames=piece)
        made.append(decode.make(start if begins else turn("b", 1), wanted, checkpoints[1] if begins else None, never))
    assert torch.equal(torch.cat([one.frames for one in made]), expected[1][first:])
    assert torch.equal(decode.make(turn("b", 2), request(2), checkpoints[2], never).frames, expected[2])


@pytest.mark.parametrize(
    ("unit", "frames", "brings", "reason", "message"),
    [
        (1, range(4, 8), True, ErrorCode.OUT_OF_SEQUENCE, "last unit made was 0"),
        (0, range(1, 2), False, ErrorCode.MODEL_FAILED, "1 frames come out of unit 0, not 2"),
        (1, range(12), False, ErrorCode.INVALID_REQUEST, "CHECKPOINT must come with the first frames"),
        (1, range(13), True, ErrorCode.MODEL_FAILED, "12 frames come out of unit 1, not 13"),
    ],
    ids=["not the first of its unit", "beyond the unit", "without its checkpoint", "more than there are"],
)
def test_frames_that_cannot_be_given_are_refused(
    decode: DecodeStage, unit: int, frames: range, brings: bool, reason: ErrorCode, message: str
) -> None:
    decode.make(turn("a", 0), request(0), checkpoint(1), never)
    with pytest.raises(ChunkError, match=message) as raised:
        wanted = replace(request(unit), frames=frames)
        decode.make(turn("a", unit, start=False), wanted, checkpoint(3) if brings else None, never)
    assert raised.value.reason is reason
    with pytest.raises(ChunkError, match="nothing is known"):
        decode.make(turn("a", 1), request(1), checkpoint(3), never)


def test_a_piece_that_was_given_is_not_given_again(decode: DecodeStage) -> None:
    decode.make(turn("a", 0), request(0), checkpoint(1), never)
    decode.make(turn("a", 1), replace(request(1), frames=range(4)), checkpoint(3), never)
    with pytest.raises(ChunkError, match="Frame 8 of unit 1 cannot be made: the next one is 4") as raised:
        decode.make(turn("a", 1), replace(request(1), frames=range(8, 12)), None, never)
    assert raised.value.reason is ErrorCode.OUT_OF_SEQUENCE


def test_what_the_other_stage_needs_may_come_along(denoise: DenoiseStage, conditions: Tensors) -> None:
    """As where one request goes through both."""
    expected = video(denoise, conditions)
    start = turn("b", 5, start=True, past=expected[:5])
    assert PLAN.units[5].needs != tuple(range(5))
    assert same([denoise.make(start, request(5, range(5)), conditions, never).tensors], expected[5:])


@pytest.mark.parametrize(
    ("place", "wanted", "reason", "message"),
    [
        (turn("a", 2), request(2), ErrorCode.OUT_OF_SEQUENCE, "last unit made was 0"),
        (turn("a", 0, start=False), request(0), ErrorCode.OUT_OF_SEQUENCE, "last unit made was 0"),
        (turn("unknown", 1), request(1), ErrorCode.OUT_OF_SEQUENCE, "nothing is known"),
        (turn("a", 1), request(1, width=40), ErrorCode.INVALID_REQUEST, "multiples of 16"),
        (turn("a", 1), request(1, width=48), ErrorCode.INVALID_REQUEST, "may not change"),
        (
            turn("a", 1, past=[checkpoint(1)]),
            request(1, [0]),
            ErrorCode.INVALID_REQUEST,
            "only come with the request that starts",
        ),
        (
            turn("a", 3, start=True, past=[checkpoint(1)]),
            request(3, [0]),
            ErrorCode.INVALID_REQUEST,
            r"units \[0, 1, 2\]; PAST lacks those of \[1, 2\]",
        ),
        (
            turn("a", 1, start=True),
            request(1, [0]),
            ErrorCode.INVALID_REQUEST,
            "PAST holds 0 checkpoints; REQUEST names 1",
        ),
        (
            turn("a", 1, start=True, past=[checkpoint(1, torch.nan)]),
            request(1, [0]),
            ErrorCode.MODEL_FAILED,
            "not numbers",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_the_denoiser_refuses_leaves_no_state(
    denoise: DenoiseStage, conditions: Tensors, place: Turn, wanted: UnitRequest, reason: ErrorCode, message: str
) -> None:
    denoise.make(turn("a", 0), request(0), conditions, never)
    with pytest.raises(ChunkError, match=message) as raised:
        denoise.make(place, wanted, conditions, never)
    assert raised.value.reason is reason
    following = wanted.unit.index + 1
    with pytest.raises(ChunkError, match="nothing is known"):
        denoise.make(turn(place.sequence, following), request(following), conditions, never)


@pytest.mark.parametrize(
    ("place", "wanted", "reason"),
    [
        (turn("a", 2), request(2), ErrorCode.OUT_OF_SEQUENCE),
        (turn("a", 1, past=[checkpoint(1)]), request(1, [0]), ErrorCode.INVALID_REQUEST),
        (turn("a", 1, start=True), request(1), ErrorCode.INVALID_REQUEST),
        (turn("a", 1, start=True, past=[checkpoint(2)]), request(1, [0]), ErrorCode.INVALID_REQUEST),
        (turn("a", 1, start=True, past=[checkpoint(1, torch.nan)]), request(1, [0]), ErrorCode.MODEL_FAILED),
    ],
    ids=["no successor", "PAST without START", "START without PAST", "PAST too long", "PAST of no numbers"],
)
def test_what_the_decoder_refuses_leaves_no_state(
    decode: DecodeStage, place: Turn, wanted: UnitRequest, reason: ErrorCode
) -> None:
    decode.make(turn("a", 0), request(0), checkpoint(1), never)
    with pytest.raises(ChunkError) as raised:
        decode.make(place, wanted, checkpoint(3), never)
    assert raised.value.reason is reason
    following = wanted.unit.index + 1
    with pytest.raises(ChunkError, match="nothing is known"):
        decode.make(turn("a", following), request(following), checkpoint(3), never)


def test_the_last_unit_and_an_end_leave_no_state(denoise: DenoiseStage, conditions: Tensors) -> None:
    denoise.make(turn("last", 0, end=True), request(0), conditions, never)
    denoise.make(turn("ended", 0), request(0), conditions, never)
    denoise.end("ended")
    for sequence in ("last", "ended"):
        with pytest.raises(ChunkError, match="nothing is known"):
            denoise.make(turn(sequence, 1), request(1), conditions, never)


class StopsAt:
    """Says to stop when it is asked for the nth time."""

    def __init__(self, question: int) -> None:
        self._left = question
        self.asked = 0

    def __call__(self) -> Mark | None:
        self.asked += 1
        return Mark.CANCEL if self.asked >= self._left else None


@pytest.mark.parametrize("steps_made", [0, 1, 2])
def test_the_denoiser_stops_between_two_steps(
    denoise: DenoiseStage, generator: Generator, conditions: Tensors, monkeypatch: pytest.MonkeyPatch, steps_made: int
) -> None:
    """It asks before it begins, once it has the past in memory, and after each step."""
    step = Mock(wraps=generator._scheduler.step)
    monkeypatch.setattr(generator._scheduler, "step", step)
    unit = replace(PLAN.units[0], steps=8)
    with pytest.raises(ChunkError) as raised:
        denoise.make(turn("a", 0), UnitRequest(unit, SETTINGS), conditions, StopsAt(2 + steps_made))
    assert (raised.value.reason, step.call_count) == (ErrorCode.CANCELLED, steps_made)


@pytest.mark.parametrize("question", [2, 4], ids=["while it rebuilds its state", "within the unit"])
def test_the_decoder_stops_between_two_parts(decode: DecodeStage, question: int) -> None:
    stop = StopsAt(question)
    with pytest.raises(ChunkError) as raised:
        decode.make(turn("a", 1, start=True, past=[checkpoint(1)]), request(1, [0]), checkpoint(3), stop)
    assert (raised.value.reason, stop.asked) == (ErrorCode.CANCELLED, question)


class CountingConditioner:
    """Counts its calls, and advances its own clock by a second for each."""

    def __init__(self) -> None:
        self.encoded: list[Conditioning] = []

    def encode(self, conditioning: Conditioning) -> Tensors:
        self.encoded.append(conditioning)
        return {"embeds": torch.full((1, 2, 3), float(len(conditioning.prompt)))}

    def clock(self) -> float:
        return float(len(self.encoded))


def test_a_cached_prompt_costs_nothing_and_the_cache_is_bounded() -> None:
    conditioner: Any = CountingConditioner()
    stage = TextStage(conditioner, limit=2, stopwatch=of_clock(conditioner.clock))
    prompts = ("a", "a", "bb", "a", "ccc", "bb")
    seconds = [stage.encode(UnitRequest(PLAN.units[0], replace(SETTINGS, prompt=prompt))).seconds for prompt in prompts]
    assert seconds == [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    assert [each.prompt for each in conditioner.encoded] == ["a", "bb", "ccc", "bb"]


def test_the_negative_prompt_is_encoded_where_there_is_guidance() -> None:
    conditioner: Any = CountingConditioner()
    stage = TextStage(conditioner, stopwatch=of_clock(conditioner.clock))
    for scale in (1.0, 3.0, 4.0):
        for negative in ("", "blurred"):
            settings = replace(SETTINGS, guidance_scale=scale, negative_prompt=negative)
            stage.encode(UnitRequest(PLAN.units[0], settings))
    assert conditioner.encoded == [Conditioning("a cat", negative) for negative in (None, "", "blurred")]


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
        (
            lambda: torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nSearch for"),
            "AcceleratorFailed: The denoiser failed: AcceleratorError: CUDA error: an illegal memory access was enc",
        ),
        (lambda: RuntimeError("CUDA error: unspecified launch failure"), "^AcceleratorFailed: .* launch failure$"),
        (lambda: torch.AcceleratorError("CUDA error: invalid argument"), "^ModelFailed: "),
    ],
    ids=[
        "GPU memory",
        "memory",
        "CPU allocator",
        "any error",
        "no words",
        "known error",
        "fatal",
        "extension",
        "benign",
    ],
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
