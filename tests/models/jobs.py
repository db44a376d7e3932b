"""Models beside their pipelines, and videos of several shots through the real stages, from any of their units on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from videojob.families import FamilyName, Unit
from videojob.models.family import Conditioner, Conditioning, Decoder, Generator, ImageConditioner, Step, family_module
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.stages import DecodeStage, DenoiseStage, Turn
from videojob.models.tensors import Tensors, pack
from videojob.triton.sequences import Sequences
from videojob.triton.settings import Images
from videojob.triton.wire import Settings, UnitRequest

Made = tuple[Tensors, torch.Tensor]
"""Checkpoint and frames of a unit."""


@dataclass(frozen=True)
class Server:
    """A model whose stages have just started."""

    conditioner: Conditioner
    denoise: DenoiseStage
    decode: DecodeStage

    @classmethod
    def of(cls, conditioner: Conditioner, generator: Generator, decoder: Decoder) -> "Server":
        """With sequences of none of the jobs."""
        return cls(
            conditioner,
            DenoiseStage(generator, Sequences(4, 60.0, lambda: 0.0)),
            DecodeStage(decoder, Sequences(4, 60.0, lambda: 0.0)),
        )


@dataclass(frozen=True)
class Model:
    """A family's classes over a folder, beside the pipeline's own."""

    pipeline: Any  # diffusers has no types
    conditioner: Conditioner
    generator: Generator
    decoder: Decoder
    prompt: str
    negative_prompt: str

    @classmethod
    def of(
        cls,
        family: FamilyName,
        pipeline: Any,
        folder: Path,
        dtype: torch.dtype,
        *prompts: str,
        images: Images | None = None,
    ) -> "Model":
        """Loaded from the folder on the CPU; the prompts are what is wanted and what is not."""
        loaded = pipeline.from_pretrained(folder, dtype=dtype)
        loaded.set_progress_bar_config(disable=True)
        module, parts = family_module(family), Parts(folder, torch.device("cpu"), dtype, images=images)
        return cls(loaded, module.Conditioner(parts), module.Generator(parts), module.Decoder(parts), *prompts)

    def conditions(self, unit: Unit, settings: Settings, images: Sequence[torch.Tensor] = ()) -> Tensors:
        """What the generator gets for the unit."""
        guided = settings.guidance_scale > 1
        conditions = self.conditioner.encode(Conditioning(self.prompt, self.negative_prompt if guided else None))
        return {**conditions, **_encoded(self.conditioner, unit, settings, images)}

    def steps(
        self,
        unit: Unit,
        settings: Settings,
        past: Sequence[Tensors],
        resume: Step | None = None,
        images: Sequence[torch.Tensor] = (),
    ) -> Iterator[Step]:
        """Of a sequence that starts with the unit; `past` has the checkpoint of every unit before it."""
        conditions = self.conditions(unit, settings, images)
        state = self.generator.start(unit, settings, [past[index] for index in unit.needs])
        noise = Noise(settings.seed, unit.shot, unit.index)
        return self.generator.run(unit, settings, state, conditions, noise, resume)

    def server(self) -> Server:
        """The stages over it."""
        return Server.of(self.conditioner, self.generator, self.decoder)

    def made(self, plan: Sequence[Unit], settings: Settings, images: Sequence[torch.Tensor] = ()) -> list[Tensors]:
        """The checkpoints of all units, of one shot that begins and ends with the images."""
        made: list[Tensors] = []
        for unit in plan:
            *_, last = self.steps(unit, settings, made, images=images)
            made.append(last.tensors)
        return made


def images_of(settings: Settings, count: int = 1, seed: int = 0) -> list[torch.Tensor]:
    """Uint8 `[H, W, 3]`, at random."""
    generator = torch.Generator().manual_seed(seed)
    shape = (settings.height, settings.width, 3)
    return [torch.randint(256, shape, generator=generator, dtype=torch.uint8) for _ in range(count)]


def _encoded(conditioner: Conditioner, unit: Unit, settings: Settings, images: Sequence[torch.Tensor]) -> Tensors:
    if not images:
        return {}
    assert isinstance(conditioner, ImageConditioner)
    return conditioner.encode_images(unit, settings, images)


def run(
    server: Server,
    sequence: str,
    plan: Sequence[Unit],
    settings: Settings,
    past: Sequence[Made] = (),
    images: Mapping[int, Sequence[torch.Tensor]] = MappingProxyType({}),
) -> Iterator[Made]:
    """The units that follow those in `past`, each with a prompt of its shot, and the images of that."""
    known, start = [checkpoint for checkpoint, _ in past], True
    for unit in plan[len(past) :]:
        wanted = replace(settings, prompt=f"{settings.prompt} {unit.shot}")
        conditions = None
        if start or unit.shot != plan[unit.index - 1].shot:  # As a runner does it.
            away = wanted.negative_prompt if wanted.guidance_scale > 1 else None
            encoded = _encoded(server.conditioner, unit, wanted, images.get(unit.shot, ()))
            conditions = {**server.conditioner.encode(Conditioning(wanted.prompt, away)), **encoded}
        needs, tail = (unit.needs, unit.decode) if start else ((), ())
        brought, rebuilt = ([known[index] for index in needed] for needed in (needs, tail))
        made = server.denoise.make(
            Turn(sequence, start, end=False, past=brought), UnitRequest(unit, wanted, needs), conditions, lambda: None
        ).tensors
        frames = server.decode.make(
            Turn(sequence, start, end=False, past=rebuilt), UnitRequest(unit, wanted, tail), made, lambda: None
        ).frames
        known.append(made)
        start = False
        yield made, frames


def same(made: Sequence[Made], expected: Sequence[Made]) -> bool:
    """Whether checkpoints and frames are the same bytes."""
    return all(
        pack(one[0]) == pack(other[0]) and torch.equal(one[1], other[1])
        for one, other in zip(made, expected, strict=True)
    )
