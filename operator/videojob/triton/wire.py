"""REQUEST and the reports: what goes to and comes from the models of any family, as JSON in a BYTES tensor.

A family's tensors travel beside them, opaque: CONDITIONS and checkpoints, each the bytes of a safetensors file.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from videojob.families import Unit
from videojob.families.plan import Span
from videojob.triton.contract import ChunkError, ErrorCode

VERSION: Literal[2] = 2
"""Of REQUEST. A server refuses another one: runner and models come from one image or one release."""


@dataclass(frozen=True)
class Settings:
    """What the units of a job are made with."""

    prompt: str
    seed: int
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    fps: float
    """Frames per second that the video is shown with: some models are told."""
    guidance_scale: float
    """Above 1 the model runs with classifier-free guidance."""
    guidance_scale_2: float | None = None
    """Of the second transformer's steps, where the model has two; that above where it is None."""
    adapters: tuple[str, ...] = ()
    """The names of those of the model's adapters that are added, in this order."""
    negative_prompt: str = ""
    """What guidance goes away from; empty where the job names nothing."""

    @property
    def guided(self) -> bool:
        """Whether any step is made with classifier-free guidance."""
        return max(self.guidance_scale, self.guidance_scale_2 or 0.0) > 1.0


@dataclass(frozen=True)
class UnitRequest:
    """One unit to make."""

    unit: Unit
    settings: Settings
    past: tuple[int, ...] = ()
    """The units whose checkpoints PAST holds, in its order. They come with the request that starts a sequence."""
    frames: Span | None = None
    """Which of the frames that come out of the unit the decoder is to give, counted from 0; all where it is None."""
    resume: int | None = None
    """The steps of the unit that are made: PARTIAL brings what came of them. Only where a sequence starts."""
    version: Literal[2] = VERSION

    def to_json(self) -> bytes:
        """As REQUEST holds it."""
        return _REQUEST.dump_json(self)


@dataclass(frozen=True)
class End:
    """Nothing to make: the sequence ends, whatever state each model is in."""

    end: Literal[True] = True
    version: Literal[2] = VERSION

    def to_json(self) -> bytes:
        """As REQUEST holds it."""
        return _REQUEST.dump_json(self)


@dataclass(frozen=True)
class Report:
    """What a stage used for a unit, and how far it has come."""

    seconds: float
    """Of computing, queueing excluded."""
    step: int | None = None
    """Steps of the unit that are made; only the denoiser has any."""
    steps: int | None = None
    """Of all that it has."""

    @property
    def partial(self) -> bool:
        """Whether the unit was paused: its CHECKPOINT is what the next step needs."""
        return self.step != self.steps

    def to_json(self) -> bytes:
        """As a report tensor holds it."""
        return _REPORT.dump_json(self)


def _kind(value: Any) -> str:
    return "end" if isinstance(value, End) or (isinstance(value, dict) and "end" in value) else "unit"


_REQUEST: TypeAdapter[UnitRequest | End] = TypeAdapter(
    Annotated[Annotated[UnitRequest, Tag("unit")] | Annotated[End, Tag("end")], Discriminator(_kind)]
)
_REPORT: TypeAdapter[Report] = TypeAdapter(Report)


def read_request(text: bytes) -> UnitRequest | End:
    """What REQUEST holds. Raises ChunkError (InvalidRequest) that says what is wrong with it."""
    try:
        return _REQUEST.validate_json(text)
    except ValidationError as error:
        # The first part of a place is the kind of request.
        wrong = [
            ": ".join([*filter(None, [".".join(map(str, each["loc"][1:]))]), each["msg"]]) for each in error.errors()
        ]
        sentence = f"REQUEST is no request of version {VERSION}: {'; '.join(wrong)}."
        raise ChunkError(ErrorCode.INVALID_REQUEST, sentence) from error


def read_report(text: bytes) -> Report:
    """What a report tensor holds. Raises ValueError."""
    return _REPORT.validate_json(text)
