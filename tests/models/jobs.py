"""Videos of several shots that go through the real stages, from any of their units on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from videojob.families import Unit
from videojob.models.family import Conditioner, Conditioning, Decoder, Generator
from videojob.models.stages import DecodeStage, DenoiseStage, Turn
from videojob.models.tensors import Tensors, pack
from videojob.triton.sequences import Sequences
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


def run(
    server: Server, sequence: str, plan: Sequence[Unit], settings: Settings, past: Sequence[Made] = ()
) -> Iterator[Made]:
    """The units that follow those in `past`, each with a prompt of its shot."""
    known, start = [checkpoint for checkpoint, _ in past], True
    for unit in plan[len(past) :]:
        wanted = replace(settings, prompt=f"{settings.prompt} {unit.shot}")
        conditions = server.conditioner.encode(Conditioning(wanted.prompt, wanted.negative_prompt))
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
