"""Videos of several shots through the real stages: the same from wherever they are taken up again."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import AnyFlowFARPipeline

from tests.models.fixtures import whole_clip
from tests.models.jobs import Made, Model, run, same
from videojob.families import FAMILIES, Chunking, FamilyName, Memory, Shot, Video
from videojob.models.frames import to_uint8
from videojob.models.history import LATENTS
from videojob.triton.wire import Settings

SHOTS = (
    Shot(25),
    Shot(24, Memory.KEEP),
    Shot(20, Memory.REFRESH),
    Shot(14, Memory.CLEAR),
    Shot(12, Memory.KEEP),
)
PLAN = [*FAMILIES[FamilyName.ANYFLOW_FAR].plan(Chunking(1, 3, sink=1, window=3), Video(SHOTS, 16, steps=1)).units]
SETTINGS = Settings("a red fox", seed=7, width=32, height=32, fps=16, guidance_scale=1.0)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return Model.of(FamilyName.ANYFLOW_FAR, AnyFlowFARPipeline, tiny_model, torch.float32, "a red fox", "")


@pytest.fixture(scope="module")
def unbroken(model: Model) -> list[Made]:
    return [*run(model.server(), "unbroken", PLAN, SETTINGS)]


@pytest.mark.parametrize("first", range(1, len(PLAN)))
def test_a_video_of_several_shots_is_the_same_from_any_unit_on(model: Model, unbroken: list[Made], first: int) -> None:
    assert same([*run(model.server(), "resumed", PLAN, SETTINGS, unbroken[:first])], unbroken[first:])


def test_each_stream_is_decoded_as_the_pipeline_decodes_it_whole(model: Model, unbroken: list[Made]) -> None:
    begins = [unit.index for unit in PLAN if unit.begins_anew] + [len(PLAN)]
    assert len(begins) == 3
    for start, stop in pairwise(begins):
        latents = torch.cat([checkpoint[LATENTS] for checkpoint, _ in unbroken[start:stop]], dim=2)
        frames = torch.cat([frames for _, frames in unbroken[start:stop]])
        assert torch.equal(frames, to_uint8(whole_clip(model.pipeline, latents)))
