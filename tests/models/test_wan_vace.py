"""Wan VACE against diffusers' own pipeline, called clip by clip, on real classes with random weights."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanVACEPipeline,
)
from peft import LoraConfig, get_peft_model_state_dict

from dev.tiny_model import SIZES, make_model
from tests.models.fixtures import change, whole_clip, with_scheduler
from tests.models.jobs import Model, run, same
from videojob.families import FAMILIES, Chunking, ComponentName, FamilyName, Memory, SamplerName, Shot, Unit, Video
from videojob.models.family import Conditioning, Step
from videojob.models.frames import to_uint8
from videojob.models.history import LATENTS
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.tensors import pack, unpack
from videojob.models.wan_vace import Conditioner, Decoder, Generator
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.settings import Adapter, Component, Sampling
from videojob.triton.wire import Settings

CPU = torch.device("cpu")
TEXT, AWAY = "a  cat &amp; a dog", "blurred"
SETTINGS = Settings(TEXT, seed=7, width=16, height=32, fps=16.0, guidance_scale=4.0, negative_prompt=AWAY)
FAMILY = FamilyName.WAN_VACE
CHUNKING = Chunking(first=1, later=2, sink=1, window=4)
"""Clips of 4 latents, 13 frames, of which 2 (5 frames) are those of the clip before."""
SHOTS = (Shot(17), Shot(5, Memory.KEEP), Shot(5, Memory.CLEAR), Shot(4, Memory.KEEP))
"""A clip, one that adds a latent; a whole one in the next shot; a short one, and one that goes on from all of it."""

pytestmark = pytest.mark.usefixtures("one_thread")


def units(*shots: Shot, steps: int = 2) -> Sequence[Unit]:
    return [*FAMILIES[FAMILY].plan(CHUNKING, Video(shots or SHOTS, 16, steps)).units]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("vace")
    for kind in ("wan-vace", "wan-vace-a14b"):
        make_model(parent / kind, SIZES["tiny"], kind)
    return {folder.name: folder for folder in parent.iterdir()}


def loaded(folder: Path, dtype: torch.dtype) -> Model:
    return Model.of(FAMILY, WanVACEPipeline, folder, dtype, TEXT, AWAY)


@pytest.fixture(
    scope="module",
    params=[("wan-vace", torch.float32), ("wan-vace", torch.bfloat16), ("wan-vace-a14b", torch.bfloat16)],
    ids=lambda param: f"{param[0]}-{str(param[1])[6:]}",
)
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Model:
    kind, dtype = request.param
    return loaded(folders[kind], dtype)


@pytest.fixture(scope="module")
def plain(folders: dict[str, Path]) -> Model:
    return loaded(folders["wan-vace"], torch.float32)


def clip_by_clip(
    pipeline: Any, plan: Sequence[Unit], settings: Settings
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Latents and frames, as the VAE gives them, of the pipeline's own calls: each from the last frames before it."""
    height, width = settings.height, settings.width
    frames = torch.empty(0)
    for unit in plan:
        count, given = (max(0, 4 * latents - 3) for latents in (len(unit.latents), unit.history))
        video = mask = None
        if given:
            video = np.full((1, count, height, width, 3), 0.5, dtype=np.float32)
            mask = np.ones((1, count, height, width, 3), dtype=np.float32)
            video[0, :given] = to_uint8(frames)[-given:].numpy().astype(np.float32) / 255
            mask[0, :given] = 0
        latents = pipeline(
            TEXT,
            negative_prompt=AWAY,
            video=video,
            mask=mask,
            height=height,
            width=width,
            num_frames=count,
            num_inference_steps=unit.steps,
            guidance_scale=settings.guidance_scale,
            latents=Noise(settings.seed, unit.shot, unit.index)((1, 16, len(unit.latents), height // 8, width // 8)),
            output_type="latent",
        ).frames
        frames = whole_clip(pipeline, latents)
        yield latents, frames[:, :, given:]


def require_the_pipelines(model: Model, plan: Sequence[Unit], settings: Settings) -> None:
    checkpoints = model.made(plan, settings)
    expected = clip_by_clip(model.pipeline, plan, settings)
    for unit, checkpoint, (latents, frames) in zip(plan, checkpoints, expected, strict=True):
        decoded = torch.cat([*model.decoder.run(checkpoint, model.decoder.start(unit, ()))], dim=2)
        assert checkpoint.keys() == {LATENTS}
        assert torch.equal(checkpoint[LATENTS], latents) and bool(torch.isfinite(latents).all())
        assert decoded.shape[2] == len(unit.frames)
        assert torch.equal(decoded, frames)


def test_latents_and_frames_are_the_pipelines(model: Model) -> None:
    """For the same noise: clips that begin, that go on, in their shot or in the next one, and short ones."""
    plan = units()
    assert [(unit.shot, len(unit.latents), unit.history) for unit in plan] == [
        (0, 4, 0), (0, 3, 2), (1, 4, 2), (2, 2, 0), (3, 3, 2)
    ]  # fmt: skip
    require_the_pipelines(model, plan, SETTINGS)


def test_latents_and_frames_are_the_pipelines_without_guidance(plain: Model) -> None:
    require_the_pipelines(plain, units(Shot(14)), replace(SETTINGS, guidance_scale=1.0, negative_prompt=""))


def test_the_vae_may_be_more_precise_than_the_transformer(folders: dict[str, Path]) -> None:
    """The generator's own, too, which decodes and encodes what a clip goes on from."""
    folder = folders["wan-vace"]
    parts = Parts(folder, CPU, torch.bfloat16, components=(Component(ComponentName.VAE, None, "float32"),))
    model = replace(loaded(folder, torch.bfloat16), generator=Generator(parts), decoder=Decoder(parts))
    model.pipeline.vae = AutoencoderKLWan.from_pretrained(folder / "vae", dtype=torch.float32)
    require_the_pipelines(model, units(Shot(14)), SETTINGS)


def test_a_unit_that_goes_on_from_any_of_its_steps_is_the_same(model: Model) -> None:
    """Also in another process, and while another unit is made."""
    plan = units(Shot(14), steps=2)
    past = model.made(plan[:1], SETTINGS)
    for unit in plan:
        made = list(model.steps(unit, SETTINGS, past))
        assert [step.done for step in made] == list(range(unit.steps + 1))
        other = model.steps(unit, replace(SETTINGS, guidance_scale=9.0), past)
        for step in made:
            resumed = Step(step.done, unpack(pack(step.tensors), "it"))
            rest = []
            for each in model.steps(unit, SETTINGS, past, resumed):
                rest.append(each)
                next(other, None)
            assert [pack(each.tensors) for each in rest] == [pack(each.tensors) for each in made[step.done :]]


def test_a_video_of_several_shots_goes_on_from_any_unit_as_if_never_interrupted(plain: Model) -> None:
    """Each shot under a prompt of its own."""
    plan = units(steps=1)
    whole = [*run(plain.server(), "job", plan, SETTINGS)]
    assert [len(frames) for _, frames in whole] == [len(unit.frames) for unit in plan]
    for first in range(1, len(plan)):
        assert same([*run(plain.server(), "job", plan, SETTINGS, whole[:first])], whole[first:])


def test_two_sequences_interleaved_give_what_each_gives_alone(plain: Model) -> None:
    plan, server = units(*SHOTS[:2], steps=1), plain.server()
    jobs = {"a": SETTINGS, "b": replace(SETTINGS, seed=8, width=32)}
    alone = [[*run(plain.server(), name, plan, settings)] for name, settings in jobs.items()]
    mixed = zip(*(run(server, name, plan, settings) for name, settings in jobs.items()), strict=True)
    assert all(same(*pair) for pair in zip(mixed, zip(*alone, strict=True), strict=True))


def test_a_model_may_be_sampled_otherwise_than_its_folder_says(folders: dict[str, Path], plain: Model) -> None:
    cases = {
        Sampling(SamplerName.UNIPC, 8.0): UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
        ),
        Sampling(SamplerName.FLOW_MATCH_EULER, 5.0): FlowMatchEulerDiscreteScheduler(shift=5.0),
    }
    for sampling, scheduler in cases.items():
        pipeline: Any = WanVACEPipeline(**plain.pipeline.components | {"scheduler": scheduler})
        pipeline.set_progress_bar_config(disable=True)
        generator = Generator(Parts(folders["wan-vace"], CPU, torch.float32, sampling=sampling))
        require_the_pipelines(replace(plain, pipeline=pipeline, generator=generator), units(Shot(5)), SETTINGS)


def test_latents_are_the_pipelines_with_adapters(folders: dict[str, Path], tmp_path: Path) -> None:
    """And of a job that names none those of a model without."""
    folder, plan = folders["wan-vace"], units(Shot(5))
    transformer = WanVACEPipeline.from_pretrained(folder, dtype=torch.float32).transformer
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    drawn = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(tensor.shape, generator=drawn)
        for name, tensor in get_peft_model_state_dict(transformer).items()
    }
    assert any("vace_blocks" in name for name in weights)
    WanVACEPipeline.save_lora_weights(tmp_path, transformer_lora_layers=weights)
    parts = Parts(folder, CPU, torch.float32, adapters=(Adapter("ink", str(tmp_path)),))
    model = replace(loaded(folder, torch.float32), generator=Generator(parts))
    require_the_pipelines(model, plan, SETTINGS)
    model.pipeline.load_lora_weights(tmp_path)
    require_the_pipelines(model, plan, replace(SETTINGS, adapters=("ink",)))


def test_conditions_are_the_pipelines(plain: Model) -> None:
    with torch.no_grad():
        expected = plain.pipeline.encode_prompt(TEXT, AWAY, max_sequence_length=512)
    conditions = plain.conditioner.encode(Conditioning(TEXT, AWAY))
    assert all(torch.equal(*pair) for pair in zip(conditions.values(), expected, strict=True))


@pytest.mark.parametrize(
    ("size", "history", "message"),
    [
        ((24, 32), 2, r"multiples of 16, not 24 x 32\. Nearest: 16 x 32 and 32 x 32\."),
        ((32, 32), 2, "must have latents of shape"),
        ((16, 32), 5, "goes on from 5 latents; those before it have 4"),
    ],
    ids=["size", "another size", "too little"],
)
def test_what_does_not_fit_is_refused(plain: Model, size: tuple[int, int], history: int, message: str) -> None:
    checkpoint = {LATENTS: torch.zeros(1, 16, 4, 4, 2)}
    settings = replace(SETTINGS, width=size[0], height=size[1])
    with pytest.raises(ChunkError, match=message) as raised:
        next(plain.steps(replace(units()[1], history=history), settings, [checkpoint]))
    assert raised.value.reason is ErrorCode.INVALID_REQUEST


def without(component: str) -> Callable[[Path], None]:
    return lambda folder: change(folder / "model_index.json", **{component: [None, None]})


@pytest.mark.parametrize(
    ("part", "spoil", "message"),
    [
        (Conditioner, without("text_encoder"), "no whole pipeline: its model_index.json names no text_encoder"),
        (Generator, without("transformer"), "no whole pipeline: its model_index.json names no transformer"),
        (Generator, without("vae"), "no whole pipeline: its model_index.json names no vae"),
        *(
            (
                part,
                lambda folder: change(folder / "model_index.json", _class_name="WanPipeline"),
                "is a folder of WanPipeline; the family WanVACE needs one of WanVACEPipeline",
            )
            for part in (Conditioner, Generator, Decoder)
        ),
        *(
            (
                part,
                lambda folder: change(folder / "model_index.json", boundary_ratio=0.875),
                "has a boundary_ratio, but not both transformers: the family WanVACE serves whole pipelines",
            )
            for part in (Conditioner, Generator, Decoder)
        ),
        (
            Generator,
            lambda folder: with_scheduler(folder, DPMSolverMultistepScheduler()),
            "samples with DPMSolverMultistepScheduler; the family WanVACE serves UniPCMultistepScheduler, ",
        ),
    ],
)
def test_a_folder_of_another_kind_is_refused(
    folders: dict[str, Path], tmp_path: Path, part: Any, spoil: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(folders["wan-vace"], tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        part(Parts(tmp_path / "model", CPU, torch.float32))


def test_every_second_layer_of_the_tiny_model_sees_what_is_given(folders: dict[str, Path]) -> None:
    config = json.loads((folders["wan-vace"] / "transformer" / "config.json").read_text())
    assert (config["num_layers"], config["vace_layers"], config["vace_in_channels"]) == (2, [0], 2 * 16 + 64)
