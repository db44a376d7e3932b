"""LTX-Video against diffusers' own pipeline, on real classes with random weights."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTXPipeline, UniPCMultistepScheduler

from dev.tiny_model import SIZES, make_model
from tests.models.fixtures import change, with_scheduler
from tests.models.jobs import Model, run, same
from videojob.families import FAMILIES, Chunking, FamilyName, Shot, Unit, Video
from videojob.models.family import Conditioning, Step
from videojob.models.history import LATENTS
from videojob.models.ltx import (
    DECODE,
    DECODE_NOISE_SCALE,
    DECODE_TIMESTEP,
    NEGATIVE_MASK,
    PROMPT_MASK,
    Generator,
)
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import NEGATIVE, PROMPT
from videojob.models.tensors import Tensors, pack, unpack
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import Settings

CPU = torch.device("cpu")
TEXT, AWAY = "a  cat &amp; a dog", "blurred"
SETTINGS = Settings(TEXT, seed=7, width=64, height=96, fps=25.0, guidance_scale=1.0)
CHUNKING = Chunking(first=1, later=3, sink=1, window=6)

pytestmark = pytest.mark.usefixtures("one_thread")


def units(*shots: int, steps: int = 3) -> list[Unit]:
    return [*FAMILIES[FamilyName.LTX].plan(CHUNKING, Video(tuple(map(Shot, shots)), 25, steps)).units]


def frames_of(model: Model, checkpoint: Tensors) -> torch.Tensor:
    return torch.cat([*model.decoder.run(checkpoint, None)], dim=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("ltx")
    for kind in ("ltx", "ltx-timestep"):
        make_model(parent / kind, SIZES["tiny"], kind)
    return {folder.name: folder for folder in parent.iterdir()}


@pytest.fixture(
    scope="module",
    params=[(kind, dtype) for kind in ("ltx", "ltx-timestep") for dtype in (torch.float32, torch.bfloat16)],
    ids=lambda param: f"{param[0]}-{str(param[1])[6:]}",
)
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Model:
    kind, dtype = request.param
    return Model.of(FamilyName.LTX, LTXPipeline, folders[kind], dtype, TEXT, AWAY)


@pytest.mark.parametrize(("guidance_scale", "fps"), [(1.0, 25.0), (4.0, 24000 / 1001)])
def test_latents_and_frames_are_the_pipelines(
    monkeypatch: pytest.MonkeyPatch, model: Model, guidance_scale: float, fps: float
) -> None:
    """For the same noise, in both precisions, also the noise that the decoder starts from, where it has a timestep."""
    assert isinstance(model.generator, Generator)
    (unit,) = units(17)
    settings = replace(SETTINGS, guidance_scale=guidance_scale, fps=fps)
    noise, shape = Noise(7, 0, 0), model.generator.latent_shape(unit, settings)
    monkeypatch.setattr(
        "diffusers.pipelines.ltx.pipeline_ltx.randn_tensor",
        lambda shape, dtype, **_: noise(tuple(shape), DECODE).to(dtype),
    )
    decoded: list[torch.Tensor] = []
    decode = model.pipeline.vae.decode

    def seen_decoding(*arguments: Any, **options: Any) -> Any:
        (frames,) = decode(*arguments, **options)
        decoded.append(frames)
        return (frames,)

    monkeypatch.setattr(model.pipeline.vae, "decode", seen_decoding)
    steps: list[torch.Tensor] = []

    def seen(_pipeline: Any, _step: int, _t: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        steps.append(tensors["latents"])
        return tensors

    model.pipeline(
        TEXT,
        AWAY,
        height=settings.height,
        width=settings.width,
        num_frames=len(unit.frames),
        frame_rate=fps,
        num_inference_steps=unit.steps,
        guidance_scale=guidance_scale,
        latents=LTXPipeline._pack_latents(noise(shape)),
        decode_timestep=DECODE_TIMESTEP,
        decode_noise_scale=DECODE_NOISE_SCALE,
        output_type="np",
        callback_on_step_end=seen,
    )

    made = list(model.steps(unit, settings, ()))
    with_timestep = model.pipeline.vae.config.timestep_conditioning
    assert made[-1].tensors.keys() == {LATENTS, *([DECODE] if with_timestep else [])}
    assert all(
        torch.equal(LTXPipeline._pack_latents(step.tensors[LATENTS]), expected)
        for step, expected in zip(made[1:], steps, strict=True)
    )
    frames = frames_of(model, made[-1].tensors)
    assert frames.shape == (1, 3, 17, settings.height, settings.width)
    assert bool(torch.isfinite(frames).all())
    assert torch.equal(frames, decoded[0].clamp(-1, 1))


def test_a_unit_that_goes_on_from_any_of_its_steps_is_the_same(model: Model) -> None:
    """Also in another process, and while another unit is made: nothing is left in the scheduler."""
    (unit,), settings = units(9), replace(SETTINGS, guidance_scale=4.0)
    made = list(model.steps(unit, settings, ()))
    assert [step.done for step in made] == list(range(unit.steps + 1))
    other = model.steps(unit, replace(settings, guidance_scale=9.0), ())
    for step in made:
        resumed = Step(step.done, unpack(pack(step.tensors), "it"))
        rest = []
        for each in model.steps(unit, settings, (), resumed):
            rest.append(each)
            next(other, None)
        assert [each.done for each in rest] == list(range(step.done, unit.steps + 1))
        assert [pack(each.tensors) for each in rest] == [pack(each.tensors) for each in made[step.done :]]


def test_clips_are_made_and_decoded_each_by_itself(model: Model) -> None:
    made = [[*model.steps(unit, SETTINGS, ())][-1].tensors for unit in units(9, 2)]
    frames = [frames_of(model, checkpoint) for checkpoint in made]
    again = [frames_of(model, unpack(pack(checkpoint), "it")) for checkpoint in reversed(made)]
    assert [each.shape[2] for each in frames] == [9, 9], "the smallest 8k+1 that has the shot's frames"
    assert all(torch.equal(*pair) for pair in zip(frames, reversed(again), strict=True))
    assert not torch.equal(made[0][LATENTS], made[1][LATENTS]), "noise of its own"


def test_sequences_that_are_interleaved_or_go_on_elsewhere_give_what_each_gives_alone(model: Model) -> None:
    """Through the real stages, a clip a shot."""
    plan = units(9, 5, steps=2)
    jobs = {"a": replace(SETTINGS, guidance_scale=4.0), "b": replace(SETTINGS, seed=8, width=32, guidance_scale=4.0)}
    alone = [[*run(model.server(), name, plan, settings)] for name, settings in jobs.items()]
    server = model.server()
    mixed = zip(*(run(server, name, plan, settings) for name, settings in jobs.items()), strict=True)
    assert all(same(*pair) for pair in zip(mixed, zip(*alone, strict=True), strict=True))
    assert same([*run(model.server(), "a", plan, jobs["a"], alone[0][:1])], alone[0][1:])


def test_conditions_are_the_pipelines(model: Model) -> None:
    """Prompts are not cleaned, as there; the masks say what is padding."""
    names = (PROMPT, PROMPT_MASK, NEGATIVE, NEGATIVE_MASK)
    with torch.no_grad():
        expected = dict(zip(names, model.pipeline.encode_prompt(TEXT, AWAY), strict=True))
    guided, unguided = (model.conditioner.encode(Conditioning(TEXT, away)) for away in (AWAY, None))
    assert pack(guided) == pack(expected)
    assert unguided.keys() == {PROMPT, PROMPT_MASK}
    assert guided[PROMPT_MASK].sum() == len(TEXT) + 1


@pytest.mark.parametrize("name", ["prompt", "negative prompt"])
def test_a_text_of_too_many_tokens_is_refused_with_both_counts(model: Model, name: str) -> None:
    text = {"prompt": Conditioning("x" * 128, None), "negative prompt": Conditioning("x", "x" * 128)}
    with pytest.raises(ChunkError, match=f"The {name} has 129 tokens; this model takes at most 128") as raised:
        model.conditioner.encode(text[name])
    assert raised.value.reason is ErrorCode.PROMPT_TOO_LONG


def test_a_size_the_model_cannot_make_is_refused(model: Model) -> None:
    with pytest.raises(ChunkError, match=r"multiples of 32, not 64 x 80\. Nearest: 64 x 64 and 64 x 96\.") as raised:
        model.generator.start(units(9)[0], replace(SETTINGS, height=80), [])
    assert raised.value.reason is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: with_scheduler(folder, UniPCMultistepScheduler()),
            "samples with UniPCMultistepScheduler; the family LTX serves FlowMatchEulerDiscreteScheduler",
        ),
        (
            lambda folder: with_scheduler(folder, FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)),
            "without stochastic_sampling",
        ),
        (
            lambda folder: change(folder / "vae" / "config.json", decoder_inject_noise=[True, True, True, False]),
            "draws noise while it decodes",
        ),
        (
            lambda folder: change(folder / "vae" / "config.json", temporal_compression_ratio=4),
            "makes 4 frames of a latent; the family LTX plans 8",
        ),
        (
            lambda folder: change(folder / "model_index.json", _class_name="LTXLatentUpsamplePipeline"),
            "is a folder of LTXLatentUpsamplePipeline; the family LTX needs one of LTXPipeline or LTXImageToVideoPipe",
        ),
        (
            lambda folder: change(folder / "model_index.json", _class_name="LTXConditionPipeline"),
            "has a scheduler with use_dynamic_shifting, for which LTXConditionPipeline gives no shift",
        ),
    ],
    ids=["scheduler", "noise from a stream", "noise in the decoder", "other frames", "another pipeline", "no shift"],
)
def test_a_folder_of_another_kind_is_refused(
    folders: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(folders["ltx"], tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        Generator(Parts(tmp_path / "model", CPU, torch.float32))
