"""Helios against diffusers' own pipeline, on real classes with random weights."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, HeliosPipeline, HeliosScheduler

from dev.tiny_model import SIZES, make_model
from tests.models.fixtures import change, whole_clip, with_scheduler
from tests.models.jobs import Model, run, same
from videojob.families import FAMILIES, Chunking, FamilyName, Memory, Shot, Unit, Video
from videojob.models.family import Conditioning, Step
from videojob.models.helios import Generator
from videojob.models.history import LATENTS
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.tensors import pack, unpack
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import Settings

CPU = torch.device("cpu")
TEXT, AWAY = "a  cat &amp; a dog", "blurred"
SETTINGS = Settings(TEXT, seed=7, width=32, height=32, fps=24.0, guidance_scale=1.0)
CHUNKING = Chunking(first=1, later=3, sink=1, window=6)
CHUNK = 33
"""Frames."""

pytestmark = pytest.mark.usefixtures("one_thread")


def units(*shots: Shot, steps: int = 3) -> Sequence[Unit]:
    return FAMILIES[FamilyName.HELIOS].plan(CHUNKING, Video(shots, 24, steps)).units


def loaded(folder: Path, dtype: torch.dtype) -> Model:
    return Model.of(FamilyName.HELIOS, HeliosPipeline, folder, dtype, TEXT, AWAY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("helios") / "model"
    make_model(directory, SIZES["tiny"], "helios")
    return directory


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, folder: Path) -> Model:
    return loaded(folder, request.param)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Model:
    return loaded(folder, torch.float32)


def pipelines_latents(
    monkeypatch: pytest.MonkeyPatch, model: Model, settings: Settings, plan: Sequence[Unit], **arguments: Any
) -> torch.Tensor:
    """Of the pipeline's own loop, with the noise that the family draws for these units.

    It decodes each chunk in between, also where only latents are asked for: that takes most of the time, so it is left
    out.
    """
    noises = iter([Noise(settings.seed, unit.shot, unit.index) for unit in plan])
    monkeypatch.setattr(
        "diffusers.pipelines.helios.pipeline_helios.randn_tensor", lambda shape, **_: next(noises)(shape)
    )
    monkeypatch.setattr(model.pipeline.vae, "decode", lambda latents, **_: (torch.zeros(1, 3, CHUNK, 1, 1),))
    latents: torch.Tensor = model.pipeline(
        TEXT,
        AWAY,
        height=settings.height,
        width=settings.width,
        num_frames=CHUNK * len(plan),
        num_inference_steps=plan[0].steps,
        guidance_scale=settings.guidance_scale,
        output_type="latent",
        **arguments,
    ).frames
    monkeypatch.undo()
    assert next(noises, None) is None, "a noise for each chunk"
    return latents


@pytest.mark.parametrize(("chunks", "guidance_scale"), [(1, 1.0), (4, 4.0)])
def test_latents_and_frames_are_the_pipelines(
    monkeypatch: pytest.MonkeyPatch, model: Model, chunks: int, guidance_scale: float
) -> None:
    """For the same noise, in both precisions; four chunks, so that the history is full and loses its beginning."""
    settings, plan = replace(SETTINGS, guidance_scale=guidance_scale), units(Shot(CHUNK * chunks))
    expected = pipelines_latents(monkeypatch, model, settings, plan)
    made = model.made(plan, settings)

    assert all(checkpoint.keys() == {LATENTS} for checkpoint in made)
    assert torch.equal(torch.cat([checkpoint[LATENTS] for checkpoint in made], dim=2), expected)
    assert bool(torch.isfinite(expected).all())
    last = [*model.decoder.run(made[-1], None)]
    assert [len(plan[-1].frames)] == [sum(part.shape[2] for part in last)]
    assert torch.equal(torch.cat(last, dim=2), whole_clip(model.pipeline, expected[:, :, -9:]))


def test_a_refreshed_shot_begins_as_the_pipeline_does_from_a_latent_alone(
    monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    settings, plan = replace(SETTINGS, guidance_scale=4.0), units(Shot(CHUNK), Shot(2 * CHUNK, Memory.REFRESH), steps=2)
    made = model.made(plan, settings)
    expected = pipelines_latents(
        monkeypatch,
        model,
        settings,
        plan[1:],
        image_latents=made[0][LATENTS][:, :, :1],
        add_noise_to_image_latents=False,
    )
    assert torch.equal(torch.cat([checkpoint[LATENTS] for checkpoint in made[1:]], dim=2), expected)


def test_a_unit_that_goes_on_from_any_of_its_steps_is_the_same(model: Model) -> None:
    """Also in another process, and while another unit is made: nothing is left in the scheduler."""
    settings, plan = replace(SETTINGS, guidance_scale=4.0), units(Shot(2 * CHUNK), steps=4)
    past = model.made(plan[:1], settings)
    unit = plan[1]
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


SHOTS = (Shot(CHUNK), Shot(CHUNK, Memory.KEEP), Shot(CHUNK, Memory.REFRESH), Shot(CHUNK, Memory.CLEAR))


def test_a_video_of_several_shots_goes_on_from_any_unit_as_if_never_interrupted(plain: Model) -> None:
    """Under a new prompt: with the history, with the first latent alone, or with nothing."""
    plan, settings = units(*SHOTS, steps=2), replace(SETTINGS, guidance_scale=4.0)
    whole = [*run(plain.server(), "job", plan, settings)]

    assert [(unit.needs, unit.history) for unit in plan] == [((), 0), ((0,), 9), ((0,), 0), ((), 0)]
    for first in range(1, len(plan)):
        assert same([*run(plain.server(), "job", plan, settings, whole[:first])], whole[first:])


def test_two_sequences_interleaved_give_what_each_gives_alone(plain: Model) -> None:
    plan, server = units(*SHOTS[:2], steps=2), plain.server()
    jobs = {"a": replace(SETTINGS, guidance_scale=4.0), "b": replace(SETTINGS, seed=8, width=48, guidance_scale=4.0)}
    alone = [[*run(plain.server(), name, plan, settings)] for name, settings in jobs.items()]
    mixed = zip(*(run(server, name, plan, settings) for name, settings in jobs.items()), strict=True)
    assert all(same(*pair) for pair in zip(mixed, zip(*alone, strict=True), strict=True))


def test_the_sampler_may_be_eulers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which gives latents in the model's dtype."""
    shutil.copytree(folder, tmp_path / "model")
    with_scheduler(tmp_path / "model", HeliosScheduler(stages=1, scheduler_type="euler", shift=3.0))
    model, plan = loaded(tmp_path / "model", torch.bfloat16), units(Shot(CHUNK))
    (made,) = model.made(plan, SETTINGS)
    assert torch.equal(made[LATENTS], pipelines_latents(monkeypatch, model, SETTINGS, plan))
    steps = list(model.steps(plan[0], SETTINGS, []))
    *_, last = model.steps(plan[0], SETTINGS, [], steps[2])
    assert pack(last.tensors) == pack(made)


def test_conditions_are_the_pipelines(model: Model) -> None:
    with torch.no_grad():
        expected = model.pipeline.encode_prompt(TEXT, AWAY, max_sequence_length=512)
    conditions = model.conditioner.encode(Conditioning(TEXT, AWAY))
    assert all(torch.equal(*pair) for pair in zip(conditions.values(), expected, strict=True))


def test_a_size_the_model_cannot_make_is_refused(model: Model) -> None:
    with pytest.raises(ChunkError, match=r"multiples of 16, not 40 x 56\. Nearest: 32 x 48 and 48 x 64\.") as raised:
        model.generator.start(units(Shot(1))[0], replace(SETTINGS, width=40, height=56), [])
    assert raised.value.reason is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: with_scheduler(folder, FlowMatchEulerDiscreteScheduler()),
            "samples with FlowMatchEulerDiscreteScheduler; the family Helios serves HeliosScheduler",
        ),
        (
            lambda folder: with_scheduler(folder, HeliosScheduler(stages=3)),
            "samples with unipc in 3 stages; the family Helios serves unipc or euler in 1",
        ),
        (
            lambda folder: change(folder / "model_index.json", _class_name="HeliosPyramidPipeline"),
            "is a folder of HeliosPyramidPipeline; the family Helios needs one of HeliosPipeline",
        ),
    ],
    ids=["scheduler", "stages", "another pipeline"],
)
def test_a_folder_of_another_kind_is_refused(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        Generator(Parts(tmp_path / "model", CPU, torch.float32))
