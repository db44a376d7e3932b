"""Videos of several shots through the real stages: the same from wherever they are taken up again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import AnyFlowFARPipeline

from tests.models.fixtures import whole_clip
from videojob.families import FAMILIES, Chunking, FamilyName, Memory, Shot, Unit, Video
from videojob.models.anyflow_far import Conditioner, Decoder, Generator
from videojob.models.history import LATENTS
from videojob.models.parts import Parts
from videojob.models.stages import DecodeStage, DenoiseStage, TextStage, Turn, to_uint8
from videojob.models.tensors import Tensors
from videojob.triton.sequences import Sequences
from videojob.triton.wire import Settings, UnitRequest

CPU = torch.device("cpu")
CHUNKING = Chunking(first=1, later=3, sink=1, window=3)
SHOTS = (
    Shot(25),
    Shot(24, Memory.KEEP),
    Shot(20, Memory.REFRESH),
    Shot(14, Memory.CLEAR),
    Shot(12, Memory.KEEP),
)
PLAN = FAMILIES[FamilyName.ANYFLOW_FAR].plan(CHUNKING, Video(SHOTS, 16, steps=1))
FIRST = Settings("a red fox", seed=7, width=32, height=32, fps=16, guidance_scale=1.0)
SETTINGS = [replace(FIRST, prompt=f"{FIRST.prompt} and {number} owls") for number in range(len(SHOTS))]

pytestmark = pytest.mark.usefixtures("one_thread")


Made = tuple[list[Tensors], list[torch.Tensor]]
"""Checkpoints and frames of units."""


@dataclass(frozen=True)
class Stages:
    """All three, as one replica has them."""

    text: TextStage
    denoiser: DenoiseStage
    decoder: DecodeStage

    @classmethod
    def of(cls, folder: Path) -> "Stages":
        parts = Parts(folder, CPU, torch.float32)
        return cls(
            TextStage(Conditioner(parts)),
            DenoiseStage(Generator(parts), Sequences(4, idle_seconds=60, clock=lambda: 0.0)),
            DecodeStage(Decoder(parts), Sequences(4, idle_seconds=60, clock=lambda: 0.0)),
        )

    def make(self, first: int, checkpoints: Sequence[Tensors], sequence: str) -> Made:
        """The checkpoints and frames of the units from `first` on, as one sequence that starts there."""
        made: list[Tensors] = []
        frames: list[torch.Tensor] = []
        for unit in PLAN.units[first:]:
            start = unit.index == first
            request = UnitRequest(unit, SETTINGS[unit.shot])
            changed = start or unit.shot != PLAN.units[unit.index - 1].shot
            conditions = self.text.encode(request.settings).tensors if changed else None
            turn, wanted = self._turn(unit, request, unit.needs, checkpoints, sequence, start=start)
            made.append(self.denoiser.make(turn, wanted, conditions, lambda: None).tensors)
            turn, wanted = self._turn(unit, request, unit.decode, checkpoints, sequence, start=start)
            frames.append(self.decoder.make(turn, wanted, made[-1], lambda: None).frames)
        return made, frames

    def _turn(
        self,
        unit: Unit,
        request: UnitRequest,
        past: tuple[int, ...],
        checkpoints: Sequence[Tensors],
        sequence: str,
        *,
        start: bool,
    ) -> tuple[Turn, UnitRequest]:
        named = past if start else ()
        end = unit.index == len(PLAN.units) - 1
        return Turn(sequence, start, end, [checkpoints[each] for each in named]), replace(request, past=named)


@pytest.fixture(scope="module")
def stages(tiny_model: Path) -> Stages:
    return Stages.of(tiny_model)


@pytest.fixture(scope="module")
def unbroken(stages: Stages) -> Made:
    return stages.make(0, [], "unbroken")


@pytest.mark.parametrize("first", range(1, len(PLAN.units)))
def test_a_video_of_several_shots_is_the_same_from_any_unit_on(stages: Stages, unbroken: Made, first: int) -> None:
    checkpoints, frames = unbroken
    made, shown = stages.make(first, checkpoints, f"from-{first}")
    assert all(torch.equal(one[LATENTS], other[LATENTS]) for one, other in zip(made, checkpoints[first:], strict=True))
    assert all(torch.equal(one, other) for one, other in zip(shown, frames[first:], strict=True))


def test_each_stream_is_decoded_as_the_pipeline_decodes_it_whole(tiny_model: Path, unbroken: Made) -> None:
    pipeline = AnyFlowFARPipeline.from_pretrained(tiny_model, dtype=torch.float32)
    checkpoints, frames = unbroken
    begins = [unit.index for unit in PLAN.units if unit.begins_anew] + [len(PLAN.units)]
    assert len(begins) == 3
    for start, stop in pairwise(begins):
        latents = torch.cat([checkpoint[LATENTS] for checkpoint in checkpoints[start:stop]], dim=2)
        assert torch.equal(torch.cat(frames[start:stop]), to_uint8(whole_clip(pipeline, latents)))
