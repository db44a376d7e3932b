"""SkyReels-V2 with diffusion forcing against diffusers' own pipeline, on real classes with random weights."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SkyReelsV2DiffusionForcingPipeline

from dev.tiny_model import SIZES, make_model
from tests.models.fixtures import change, whole_clip, with_scheduler
from tests.models.jobs import Model, run, same
from tests.models.skyreels import AWAY, FAMILY, FRAMES, TEXT, units, whole_video
from videojob.families import Memory, Shot
from videojob.models.family import Conditioning, Step
from videojob.models.history import LATENTS
from videojob.models.parts import Parts
from videojob.models.skyreels_v2 import Generator
from videojob.models.tensors import pack, unpack
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import Settings

CPU = torch.device("cpu")
SETTINGS = Settings(TEXT, seed=7, width=32, height=32, fps=24.0, guidance_scale=1.0)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("skyreels") / "model"
    make_model(directory, SIZES["tiny"], "skyreels-v2-df")
    return directory


def loaded(folder: Path, dtype: torch.dtype) -> Model:
    return Model.of(FAMILY, SkyReelsV2DiffusionForcingPipeline, folder, dtype, TEXT, AWAY)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, folder: Path) -> Model:
    return loaded(folder, request.param)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Model:
    return loaded(folder, torch.float32)


@pytest.mark.parametrize(
    ("frames", "guidance_scale", "fps"),
    [(FRAMES, 4.0, 24.0), (21, 1.0, 16.0), (17, 1.0, 24.0), (9, 4.0, 24.0)],
)
def test_latents_and_frames_are_the_pipelines(
    monkeypatch: pytest.MonkeyPatch, model: Model, frames: int, guidance_scale: float, fps: float
) -> None:
    """For the same noise, in both precisions: one window or several, the last of which may be shorter."""
    settings = replace(SETTINGS, guidance_scale=guidance_scale, fps=fps)
    expected = whole_video(monkeypatch, model, settings, frames)

    plan = units(Shot(frames))
    made = model.made(plan, settings)
    state = model.decoder.start(plan[0], ())
    decoded = [torch.cat([*model.decoder.run(checkpoint, state)], dim=2) for checkpoint in made]

    assert all(checkpoint.keys() == {LATENTS} for checkpoint in made)
    assert torch.equal(torch.cat([checkpoint[LATENTS] for checkpoint in made], dim=2), expected)
    assert bool(torch.isfinite(expected).all())
    assert [part.shape[2] for part in decoded] == [len(unit.frames) for unit in plan]
    assert torch.equal(torch.cat(decoded, dim=2), whole_clip(model.pipeline, expected))


def test_what_a_model_is_told_of_fps_makes_a_difference(plain: Model) -> None:
    (first, *_) = units()
    at = {fps: pack(plain.made([first], replace(SETTINGS, fps=fps))[0]) for fps in (16.0, 24.0, 60.0)}
    assert at[16.0] != at[24.0] == at[60.0]


def test_a_unit_that_goes_on_from_any_of_its_steps_is_the_same(model: Model) -> None:
    """Also in another process, and while another unit is made: every latent has a scheduler of its own."""
    settings = replace(SETTINGS, guidance_scale=4.0)
    plan = units()
    past = model.made(plan[:2], settings)
    for unit in plan[:2]:
        made = list(model.steps(unit, settings, past))
        assert [step.done for step in made] == list(range(unit.steps + 1))
        other = model.steps(unit, replace(settings, guidance_scale=9.0), past)
        for step in made:
            resumed = Step(step.done, unpack(pack(step.tensors), "it"))
            rest = []
            for each in model.steps(unit, settings, past, resumed):
                rest.append(each)
                next(other, None)
            assert [pack(each.tensors) for each in rest] == [pack(each.tensors) for each in made[step.done :]]


SHOTS = (Shot(21), Shot(15, Memory.KEEP), Shot(6, Memory.CLEAR), Shot(8, Memory.KEEP))


def test_a_video_of_several_shots_goes_on_from_any_unit_as_if_never_interrupted(plain: Model) -> None:
    """Under a new prompt with the old overlap where the shot keeps it, without where it does not."""
    plan, settings = units(*SHOTS, steps=2), replace(SETTINGS, guidance_scale=4.0)
    whole = [*run(plain.server(), "job", plan, settings)]

    assert [unit.shot for unit in plan] == [0, 0, 1, 1, 2, 3]
    assert [unit.history for unit in plan] == [0, 2, 2, 2, 0, 2]
    for first in range(1, len(plan)):
        assert same([*run(plain.server(), "job", plan, settings, whole[:first])], whole[first:])


def test_two_sequences_interleaved_give_what_each_gives_alone(plain: Model) -> None:
    plan, server = units(*SHOTS, steps=2), plain.server()
    jobs = {"a": replace(SETTINGS, guidance_scale=4.0), "b": replace(SETTINGS, seed=8, width=48, guidance_scale=4.0)}
    alone = [[*run(plain.server(), name, plan, settings)] for name, settings in jobs.items()]
    mixed = zip(*(run(server, name, plan, settings) for name, settings in jobs.items()), strict=True)
    assert all(same(*pair) for pair in zip(mixed, zip(*alone, strict=True), strict=True))


def test_conditions_are_the_pipelines(plain: Model) -> None:
    with torch.no_grad():
        expected = plain.pipeline.encode_prompt(TEXT, AWAY, max_sequence_length=512)
    conditions = plain.conditioner.encode(Conditioning(TEXT, AWAY))
    assert all(torch.equal(*pair) for pair in zip(conditions.values(), expected, strict=True))


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [
        ((40, 32), 2, r"multiples of 16, not 40 x 32\. Nearest: 32 x 32 and 48 x 32\."),
        ((32, 48), 2, "must have latents of shape"),
        ((32, 32), 9, "goes on from 9 latents; those before it have 5"),
    ],
    ids=["size", "another size", "too little"],
)
def test_what_does_not_fit_is_refused(plain: Model, size: tuple[int, int], overlap: int, message: str) -> None:
    plan = units()
    checkpoint = {LATENTS: torch.zeros(1, 16, 5, 4, 4)}
    settings = replace(SETTINGS, width=size[0], height=size[1])
    with pytest.raises(ChunkError, match=message) as raised:
        next(plain.steps(replace(plan[1], history=overlap), settings, [checkpoint]))
    assert raised.value.reason is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: with_scheduler(folder, FlowMatchEulerDiscreteScheduler(shift=5.0)),
            "samples with FlowMatchEulerDiscreteScheduler; the family .* serves UniPCMultistepSch",
        ),
        (
            lambda folder: change(folder / "transformer" / "config.json", num_frame_per_block=5),
            "attention in causal blocks of 5 latents",
        ),
        (
            lambda folder: change(folder / "model_index.json", _class_name="SkyReelsV2Pipeline"),
            "is a folder of SkyReelsV2Pipeline; the family SkyReelsV2DiffusionForcing needs one of",
        ),
    ],
    ids=["scheduler", "causal blocks", "another pipeline"],
)
def test_a_folder_of_another_kind_is_refused(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        Generator(Parts(tmp_path / "model", CPU, torch.float32))
