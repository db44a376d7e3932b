"""What a model family has to do, and where its implementation is found.

To add a family: a module with three classes like those of `anyflow_far`, a line in `_MODULES`, and its arithmetic in
`videojob.families`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast, runtime_checkable

import torch

from videojob.families import FamilyName, Unit
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.tensors import Tensors
from videojob.triton.wire import Settings


@dataclass(frozen=True)
class Conditioning:
    """What a job wants its video to be like, as far as the denoiser is concerned. Equal ones are encoded once."""

    prompt: str
    negative_prompt: str | None
    """What to go away from; None where the denoiser runs without classifier-free guidance."""


@dataclass(frozen=True)
class Step:
    """A step of a unit that was made."""

    done: int
    """Steps of the sampler so far."""
    tensors: Tensors
    """All that the next step starts from. After the last step it is the unit's checkpoint: all that later units and the
    decoder need of it."""


class Conditioner(Protocol):
    """Turns prompts into what the generator conditions on."""

    def __init__(self, parts: Parts) -> None: ...

    def encode(self, conditioning: Conditioning) -> Tensors:
        """Conditions, under names that the family's generator knows.

        Raises ChunkError (PromptTooLong) with both counts where a text has more tokens than the model takes.
        """
        ...


@runtime_checkable
class ImageConditioner(Conditioner, Protocol):
    """One whose models may take images."""

    def encode_images(self, unit: Unit, settings: Settings, images: Sequence[torch.Tensor]) -> Tensors:
        """Further conditions of a unit that begins with the first of these, uint8 `[H, W, 3]`, and ends with the other.

        Raises ChunkError (InvalidRequest) where the model cannot make that size, or takes other images.
        """
        ...


class Generator(Protocol):
    """Makes units, each as a pure function of its arguments and of the checkpoints that it needs."""

    def __init__(self, parts: Parts) -> None: ...

    def start(self, unit: Unit, settings: Settings, past: Sequence[Tensors]) -> Any:
        """The state of a sequence that starts with `unit`.

        `past` are the checkpoints of `unit.needs`, in order. Raises ChunkError (InvalidRequest) where they do not fit,
        or the model cannot make that size.
        """
        ...

    def run(
        self,
        unit: Unit,
        settings: Settings,
        state: Any,
        conditions: Tensors,
        noise: Noise,
        resume: Step | None = None,
    ) -> Iterator[Step]:
        """Make the unit, step by step: one before the first step of the sampler, and one after each.

        With `resume`, a step that an equal call gave, start there: it comes first again, and those after it are the
        same, bit for bit. After the last, `state` is that of a sequence whose next unit follows this one.
        Whoever stops in between must not use it again. Raises ChunkError (InvalidRequest).
        """
        ...


class Decoder(Protocol):
    """Decodes checkpoints to frames, exactly as the whole clip would be decoded at once."""

    def __init__(self, parts: Parts) -> None: ...

    def start(self, unit: Unit, past: Sequence[Tensors]) -> Any:
        """The state of a sequence that starts with `unit`, once the checkpoints in `past` are run through it.

        Also of one that goes on, where the unit begins anew. `past` is that of `unit.decode`, in order. Raises
        ChunkError (InvalidRequest) where it is too little to make the state equal to that of an unbroken decode.
        """
        ...

    def run(self, checkpoint: Tensors, state: Any) -> Iterator[torch.Tensor]:
        """Frames `[1, 3, F, H, W]` in -1..1 of the next unit, in parts. Changes `state`."""
        ...


class _FamilyModule(Protocol):
    Conditioner: type[Conditioner]
    Generator: type[Generator]
    Decoder: type[Decoder]


_MODULES = {
    FamilyName.ANYFLOW_FAR: "videojob.models.anyflow_far",
    FamilyName.HELIOS: "videojob.models.helios",
    FamilyName.LTX: "videojob.models.ltx",
    FamilyName.SKYREELS_V2_DIFFUSION_FORCING: "videojob.models.skyreels_v2",
    FamilyName.WAN: "videojob.models.wan",
    FamilyName.WAN_VACE: "videojob.models.wan_vace",
}


def family_module(name: FamilyName) -> _FamilyModule:
    """The classes `Conditioner`, `Generator` and `Decoder` of a family."""
    return cast("_FamilyModule", import_module(_MODULES[name]))
