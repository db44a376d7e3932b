"""The stages of serving: what a Triton model does with a request, apart from Triton.

Each stage runs in a process of its own and makes one unit at a time. Denoiser and decoder keep what a sequence needs
next; what they give depends only on the requests of that sequence. None knows what a family's tensors hold.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from videojob.families import Unit
from videojob.models.family import Conditioner, Conditioning, Decoder, Generator, ImageConditioner, Step
from videojob.models.frames import to_uint8
from videojob.models.noise import Noise
from videojob.models.stopwatch import BY_CLOCK, Stopwatch
from videojob.models.tensors import Tensors
from videojob.triton.contract import ChunkError, ErrorCode, Mark
from videojob.triton.sequences import Sequences
from videojob.triton.wire import UnitRequest

Asked = Callable[[], Mark | None]
"""Returns how to stop, if at all. Called between two steps of work."""


@dataclass(frozen=True)
class Turn:
    """Where a request stands in its sequence, and what came with it."""

    sequence: str
    start: bool
    end: bool
    past: Sequence[Tensors] = ()
    """The checkpoints of `UnitRequest.past`, in order; only where a sequence starts."""
    partial: Tensors | None = None
    """What came of the steps of `UnitRequest.resume`."""


@dataclass(frozen=True)
class Made:
    """What a stage made of a unit, and the seconds that it took."""

    tensors: Tensors
    seconds: float
    step: int | None = None
    """Steps of the unit that are made, where it has any: fewer than all where it was paused."""


@dataclass(frozen=True)
class Decoded:
    """The frames `[F, H, W, 3]` uint8 of a unit, on the CPU, and the seconds that they took."""

    frames: torch.Tensor
    seconds: float


class TextStage:
    """Conditions of a unit; those that come of the prompts of the last `limit` jobs are cached."""

    def __init__(self, conditioner: Conditioner, limit: int = 64, stopwatch: Stopwatch = BY_CLOCK) -> None:
        self._conditioner = conditioner
        self._limit = limit
        self._stopwatch = stopwatch
        self._cache: OrderedDict[Conditioning, Tensors] = OrderedDict()

    def encode(self, request: UnitRequest, images: Sequence[bytes] = ()) -> Made:
        """The conditions on the CPU, in 0 seconds where they were cached.

        `images` as IMAGES of the contract has them. Raises ChunkError: PromptTooLong, InvalidRequest.
        """
        seconds, settings = self._stopwatch(), request.settings
        conditioning = Conditioning(settings.prompt, settings.negative_prompt if settings.guided else None)
        cached = conditioning in self._cache
        if not cached:
            encoded = self._conditioner.encode(conditioning)
            self._cache[conditioning] = {name: tensor.cpu() for name, tensor in encoded.items()}
        self._cache.move_to_end(conditioning)
        while len(self._cache) > self._limit:
            self._cache.popitem(last=False)
        conditions = self._cache[conditioning]
        if images:
            conditions = {**conditions, **self._encode_images(request, images)}
        return Made(conditions, 0.0 if cached and not images else seconds())

    def _encode_images(self, request: UnitRequest, images: Sequence[bytes]) -> Tensors:
        settings, shape = request.settings, (request.settings.height, request.settings.width, 3)
        if not isinstance(self._conditioner, ImageConditioner):
            raise ChunkError(ErrorCode.INVALID_REQUEST, "Models of this family take no images.")
        if any(len(image) != math.prod(shape) for image in images):
            raise ChunkError(ErrorCode.INVALID_REQUEST, f"Each of IMAGES has to have {list(shape)} bytes.")
        frames = [torch.frombuffer(bytearray(image), dtype=torch.uint8).view(shape) for image in images]
        encoded = self._conditioner.encode_images(request.unit, settings, frames)
        return {name: tensor.cpu() for name, tensor in encoded.items()}


class DenoiseStage:
    """Makes the checkpoints of units and keeps what each sequence remembers."""

    def __init__(self, generator: Generator, sequences: Sequences[Any], stopwatch: Stopwatch = BY_CLOCK) -> None:
        self._generator = generator
        self._sequences = sequences
        self._stopwatch = stopwatch

    def end(self, sequence: str) -> None:
        """Forget a sequence, known or not."""
        self._sequences.drop(sequence)

    def make(self, turn: Turn, request: UnitRequest, conditions: Tensors | None, asked: Asked) -> Made:
        """The checkpoint of the unit, under these conditions: without them, under those of the unit before.

        Asked to pause once a step is made, it gives the checkpoint of the last one made: a partial one, if any is
        missing. Raises ChunkError: OutOfSequence, InvalidRequest, Cancelled, also for a pause before any step is made,
        or ModelFailed where it is not finite. After a pause and after any exception the sequence is unknown.
        """
        seconds, unit, settings = self._stopwatch(), request.unit, request.settings
        # Taken out first, whatever comes: an invalid request leaves no state behind either.
        if turn.start:
            self._sequences.drop(turn.sequence)
            state, before = self._generator.start(unit, settings, _past(turn, request, unit.needs)), None
        else:
            state, before = _next(self._sequences, turn, request)
        conditions = before if conditions is None else conditions
        if conditions is None:
            raise ChunkError(ErrorCode.INVALID_REQUEST, "CONDITIONS must come with the request that starts a sequence.")
        resume = _resumed(turn, request)
        _stop_if(asked)
        noise = Noise(settings.seed, unit.shot, unit.index)
        made, begun, paused = Step(0, {}), resume.done if resume else 0, False
        for made in self._generator.run(unit, settings, state, conditions, noise, resume):
            mark = asked()
            paused = mark is Mark.PAUSE and made.done > begun
            if paused:
                break
            if mark:
                raise _stopped()
        _require_finite(made.tensors.values(), f"The tensors of unit {unit.index}")
        if not turn.end and not paused:
            self._sequences.keep(turn.sequence, unit.index, (state, conditions))
        return Made(made.tensors, seconds(), made.done if paused else unit.steps)


class _Decoding:
    """A sequence in the decoder, and how far its unit is decoded."""

    def __init__(self, unit: Unit, state: Any, parts: Iterator[torch.Tensor]) -> None:
        self.state = state
        self.given = 0
        """Frames of the unit that were given."""
        self._unit = unit
        self._parts = parts
        self._rest: torch.Tensor | None = None
        """Frames that are decoded and not given yet."""

    def take(self, count: int, asked: Asked) -> torch.Tensor:
        """The next `count` frames of the unit, `[count, H, W, 3]` uint8 on the CPU."""
        frames = [] if self._rest is None else [self._rest]
        while (found := sum(map(len, frames))) < count:
            _stop_if(asked)
            if (part := next(self._parts, None)) is None:
                raise ChunkError(
                    ErrorCode.MODEL_FAILED,
                    f"{self.given + found} frames come out of unit {self._unit.index}, not {self.given + count}.",
                )
            _require_finite([part], f"The frames of unit {self._unit.index}")
            frames.append(to_uint8(part).cpu())
        made = torch.cat(frames)
        self.given += count
        self._rest = made[count:].clone() if len(made) > count else None
        return made[:count].contiguous()


class DecodeStage:
    """Makes the frames of units and keeps the decoder's state of each sequence."""

    def __init__(self, decoder: Decoder, sequences: Sequences[_Decoding], stopwatch: Stopwatch = BY_CLOCK) -> None:
        self._decoder = decoder
        self._sequences = sequences
        self._stopwatch = stopwatch

    def end(self, sequence: str) -> None:
        """Forget a sequence, known or not."""
        self._sequences.drop(sequence)

    def make(self, turn: Turn, request: UnitRequest, checkpoint: Tensors | None, asked: Asked) -> Decoded:
        """The frames of the unit that are wanted. Its checkpoint comes with the first of them.

        A sequence that starts after unit 0 decodes the checkpoints before the unit, for its state alone, and one that
        starts within a unit what comes before the wanted frames. Raises ChunkError: OutOfSequence, InvalidRequest,
        Cancelled, or ModelFailed where the frames are not finite. After any exception the sequence is unknown.
        """
        seconds, unit = self._stopwatch(), request.unit
        wanted = range(len(unit.frames)) if request.frames is None else request.frames
        if turn.start:
            self._sequences.drop(turn.sequence)
            decoding = self._begin(unit, self._rebuilt(turn, request, asked), checkpoint)
            if wanted.start:
                decoding.take(wanted.start, asked)
        elif wanted.start:
            decoding = _next(self._sequences, turn, request, begun=True)
        else:
            state = _next(self._sequences, turn, request).state
            decoding = self._begin(unit, self._decoder.start(unit, ()) if unit.begins_anew else state, checkpoint)
        if decoding.given != wanted.start:
            raise ChunkError(
                ErrorCode.OUT_OF_SEQUENCE,
                f"Frame {wanted.start} of unit {unit.index} cannot be made: the next one is {decoding.given}.",
            )
        frames = decoding.take(len(wanted), asked)
        if not turn.end:
            self._sequences.keep(turn.sequence, unit.index, decoding)
        return Decoded(frames, seconds())

    def _begin(self, unit: Unit, state: Any, checkpoint: Tensors | None) -> _Decoding:
        if checkpoint is None:
            raise ChunkError(ErrorCode.INVALID_REQUEST, "CHECKPOINT must come with the first frames of a unit.")
        return _Decoding(unit, state, self._decoder.run(checkpoint, state))

    def _rebuilt(self, turn: Turn, request: UnitRequest, asked: Asked) -> Any:
        """The decoder's state before the unit that a sequence starts with."""
        past = _past(turn, request, request.unit.decode)
        state = self._decoder.start(request.unit, past)
        for earlier in past:
            _stop_if(asked)
            for _ in self._decoder.run(earlier, state):
                _stop_if(asked)
        return state


def _past(turn: Turn, request: UnitRequest, needed: Sequence[int]) -> list[Tensors]:
    """The checkpoints of these units, in order."""
    index = request.unit.index
    if len(turn.past) != len(request.past):
        raise ChunkError(
            ErrorCode.INVALID_REQUEST,
            f"PAST holds {len(turn.past)} checkpoints; REQUEST names {len(request.past)} units in past.",
        )
    given = dict(zip(request.past, turn.past, strict=True))
    if missing := [each for each in needed if each not in given]:
        raise ChunkError(
            ErrorCode.INVALID_REQUEST,
            f"A sequence that starts at unit {index} needs the checkpoints of the units {list(needed)}; "
            f"PAST lacks those of {missing}.",
        )
    return [given[each] for each in needed]


def _next(sequences: Sequences[Any], turn: Turn, request: UnitRequest, *, begun: bool = False) -> Any:
    """The state of a sequence that goes on, with the next unit or within one that is begun."""
    state = sequences.take(turn.sequence, request.unit.index, begun=begun)
    if turn.past:
        raise ChunkError(ErrorCode.INVALID_REQUEST, "PAST may only come with the request that starts a sequence.")
    return state


def _resumed(turn: Turn, request: UnitRequest) -> Step | None:
    """The step that the unit goes on from, where it goes on from one."""
    unit, done = request.unit, request.resume
    if done is None and turn.partial is None:
        return None
    if done is None or turn.partial is None or not turn.start:
        raise ChunkError(
            ErrorCode.INVALID_REQUEST,
            "PARTIAL and resume of REQUEST come together, with the request that starts a sequence.",
        )
    if not 0 < done < unit.steps:
        raise ChunkError(
            ErrorCode.INVALID_REQUEST,
            f"Unit {unit.index} has {unit.steps} steps: it cannot go on after step {done}.",
        )
    return Step(done, turn.partial)


def _stop_if(asked: Asked) -> None:
    if asked():
        raise _stopped()


def _stopped() -> ChunkError:
    return ChunkError(ErrorCode.CANCELLED, "The sequence was stopped.")


def _require_finite(tensors: Iterable[torch.Tensor], what: str) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise ChunkError(
            ErrorCode.MODEL_FAILED,
            f"{what} hold values that are not numbers. The weights, the precision or the memory given is broken.",
        )
