"""The family Wan against diffusers' own pipeline, on real classes with random weights.

Wan 2.1 T2V, Wan 2.2 T2V A14B with two transformers, and TI2V-5B.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, WanPipeline

from dev.tiny_model import SIZES, make_model
from tests.models.fixtures import whole_clip, with_scheduler
from videojob.families import FAMILIES, Chunking, FamilyName, Shot, Unit, Video
from videojob.models.experts import Experts
from videojob.models.family import Conditioning, Step, family_module
from videojob.models.history import LATENTS
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import NEGATIVE, PROMPT
from videojob.models.tensors import Tensors, pack, unpack
from videojob.models.wan import Conditioner, Decoder, Generator
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import Settings

CPU = torch.device("cpu")
TEXT, AWAY = "a  cat &amp; a dog", "blurred"
SETTINGS = Settings(TEXT, seed=7, width=32, height=64, fps=16.0, guidance_scale=1.0)
WAN_TRANSFORMER = ["diffusers", "WanTransformer3DModel"]
CHUNKING = Chunking(first=1, later=3, sink=1, window=6)

pytestmark = pytest.mark.usefixtures("one_thread")


def units(*shots: int, steps: int = 4) -> list[Unit]:
    return [*FAMILIES[FamilyName.WAN].plan(CHUNKING, Video(tuple(map(Shot, shots)), 16, steps)).units]


@dataclass(frozen=True)
class Model:
    """A folder, and all that is loaded from it."""

    folder: Path
    pipeline: Any  # diffusers has no types
    conditioner: Conditioner
    generator: Generator
    decoder: Decoder

    def conditions(self, negative: str | None = None) -> Tensors:
        return self.conditioner.encode(Conditioning(TEXT, negative))

    def steps(self, unit: Unit, settings: Settings, conditions: Tensors, resume: Step | None = None) -> Iterator[Step]:
        self.generator.start(unit, settings, [])
        return self.generator.run(unit, settings, None, conditions, Noise(7, unit.shot, unit.index), resume)


def loaded(folder: Path, dtype: torch.dtype) -> Model:
    pipeline = WanPipeline.from_pretrained(folder, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    parts = family_module(FamilyName.WAN)
    assert (parts.Conditioner, parts.Generator, parts.Decoder) == (Conditioner, Generator, Decoder)
    return Model(
        folder,
        pipeline,
        Conditioner(Parts(folder, CPU, dtype)),
        Generator(Parts(folder, CPU, dtype)),
        Decoder(Parts(folder, CPU, dtype)),
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """2.1 with another scheduler too: few-step checkpoints come with it."""
    parent = tmp_path_factory.mktemp("wan")
    for kind in ("wan", "wan-a14b", "wan-ti2v"):
        make_model(parent / kind, SIZES["tiny"], kind)
    shutil.copytree(parent / "wan", parent / "wan-euler")
    with_scheduler(parent / "wan-euler", FlowMatchEulerDiscreteScheduler(shift=5.0))
    return {folder.name: folder for folder in parent.iterdir()}


@pytest.fixture(
    scope="module",
    params=[
        (kind, dtype)
        for kind in ("wan", "wan-a14b", "wan-ti2v", "wan-euler")
        for dtype in (torch.float32, torch.bfloat16)
    ],
    ids=lambda param: f"{param[0]}-{str(param[1])[6:]}",
)
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Model:
    kind, dtype = request.param
    return loaded(folders[kind], dtype)


@pytest.fixture(scope="module")
def plain(folders: dict[str, Path]) -> Model:
    return loaded(folders["wan"], torch.float32)


@pytest.mark.parametrize(("guidance_scale", "negative"), [(1.0, ""), (4.0, ""), (4.0, AWAY)])
def test_latents_and_frames_are_the_pipelines(model: Model, guidance_scale: float, negative: str) -> None:
    """For the same noise, in both precisions: every operation is the same."""
    (unit,) = units(9)
    settings = replace(SETTINGS, guidance_scale=guidance_scale, negative_prompt=negative)
    expected = model.pipeline(
        TEXT,
        negative_prompt=negative,
        height=settings.height,
        width=settings.width,
        num_frames=len(unit.frames),
        num_inference_steps=unit.steps,
        guidance_scale=guidance_scale,
        latents=Noise(7, 0, 0)(model.generator.latent_shape(unit, settings)),
        output_type="latent",
    ).frames

    conditions = model.conditions(negative if guidance_scale > 1 else None)
    *_, last = model.steps(unit, settings, conditions)
    frames = torch.cat(list(model.decoder.run(last.tensors, None)), dim=2)

    assert last.tensors.keys() == {LATENTS}
    assert torch.equal(last.tensors[LATENTS], expected)
    assert bool(torch.isfinite(expected).all())
    assert frames.shape == (1, 3, 9, settings.height, settings.width)
    assert torch.equal(frames, whole_clip(model.pipeline, expected))


@pytest.mark.parametrize(("guidance_scale", "second"), [(4.0, 2.5), (4.0, 1.0), (1.0, 2.5)])
def test_a_second_transformer_has_a_guidance_of_its_own(
    folders: dict[str, Path], guidance_scale: float, second: float
) -> None:
    """As the pipeline's `guidance_scale_2`, which makes both passes for a scale of 1, and none where the first is 1."""
    model, (unit,) = loaded(folders["wan-a14b"], torch.float32), units(9)
    settings = replace(SETTINGS, guidance_scale=guidance_scale, guidance_scale_2=second, negative_prompt=AWAY)
    assert settings.guided

    def piped(first: float) -> torch.Tensor:
        latents: torch.Tensor = model.pipeline(
            TEXT,
            negative_prompt=AWAY,
            height=settings.height,
            width=settings.width,
            num_frames=len(unit.frames),
            num_inference_steps=unit.steps,
            guidance_scale=first,
            guidance_scale_2=second,
            latents=Noise(7, 0, 0)(model.generator.latent_shape(unit, settings)),
            output_type="latent",
        ).frames
        return latents

    *_, last = model.steps(unit, settings, model.conditions(AWAY))
    if min(guidance_scale, second) > 1:
        assert torch.equal(last.tensors[LATENTS], piped(guidance_scale))
    else:
        # A scale just above 1 has the pipeline make both passes; what it adds is rounding.
        nearly = piped(max(guidance_scale, 1 + 1e-6))
        torch.testing.assert_close(last.tensors[LATENTS], nearly, rtol=0, atol=1e-3)


def test_one_transformer_has_one_guidance(plain: Model) -> None:
    (unit,) = units(5)
    with pytest.raises(ChunkError, match="a second transformer, which this model has not") as caught:
        next(plain.steps(unit, replace(SETTINGS, guidance_scale_2=2.0), plain.conditions(AWAY)))
    assert caught.value.reason is ErrorCode.INVALID_REQUEST


def test_a_unit_that_goes_on_from_any_of_its_steps_is_the_same(model: Model) -> None:
    """Also in another process, and while another unit is made: nothing is left in the scheduler."""
    (unit,), settings = units(5), replace(SETTINGS, guidance_scale=4.0)
    conditions = model.conditions(AWAY)
    made = list(model.steps(unit, settings, conditions))
    assert [step.done for step in made] == list(range(unit.steps + 1))
    other = model.steps(unit, replace(settings, guidance_scale=9.0), conditions)
    for step in made:
        resumed = Step(step.done, unpack(pack(step.tensors), "it"))
        rest = []
        for each in model.steps(unit, settings, conditions, resumed):
            rest.append(each)
            next(other, None)
        assert [each.done for each in rest] == list(range(step.done, unit.steps + 1))
        assert [pack(each.tensors) for each in rest] == [pack(each.tensors) for each in made[step.done :]]


def test_each_of_two_transformers_makes_the_steps_on_its_side_of_the_boundary(folders: dict[str, Path]) -> None:
    """Also where a unit goes on after the last step of the first one: the other is all that it then asks."""
    model = loaded(folders["wan-a14b"], torch.float32)
    (unit,) = units(5)
    seen: list[tuple[int, float]] = []
    for number, name in enumerate(("transformer", "transformer_2")):
        expert = model.generator._transformers._experts[number]
        assert torch.equal(expert.proj_out.weight, getattr(model.pipeline, name).proj_out.weight)
        expert.register_forward_pre_hook(
            lambda _, args, kwargs, number=number: seen.append((number, kwargs["timestep"].item())), with_kwargs=True
        )
    made = list(model.steps(unit, SETTINGS, model.conditions()))

    assert [number for number, _ in seen] == [0, 0, 1, 1]
    assert all((timestep < 875) == bool(number) for number, timestep in seen)
    seen.clear()
    list(model.steps(unit, SETTINGS, model.conditions(), made[2]))
    assert [number for number, _ in seen] == [1, 1]


class Moved:
    """A module that knows where it is."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def to(self, device: torch.device) -> "Moved":
        self.device = device
        return self


def test_a_transformer_that_does_not_work_rests_in_host_memory() -> None:
    """On a device that is no CPU; one whose own device is the CPU works there."""
    meta = torch.device("meta")
    for devices in ((meta, meta), (meta, CPU), (CPU, CPU)):
        modules = [Moved("meta"), Moved("cpu")]
        experts = Experts(modules, devices)
        for wanted in (0, 1, 1, 0):
            assert experts[wanted] is modules[wanted]
            assert modules[wanted].device == devices[wanted]
            assert modules[1 - wanted].device == CPU


def test_clips_are_made_and_decoded_each_by_itself(model: Model) -> None:
    """In one sequence, while another one's is half decoded."""
    plan, conditions = units(9, 5), model.conditions()
    made = [[*model.steps(unit, SETTINGS, conditions)][-1].tensors for unit in plan]
    alone = [torch.cat([*model.decoder.run(checkpoint, None)], dim=2) for checkpoint in reversed(made)][::-1]
    other, frames = model.decoder.run(made[0], None), []
    for checkpoint in made:
        for part in model.decoder.run(checkpoint, None):
            frames.append(part)
            next(other, None)
    assert torch.equal(torch.cat(frames, dim=2), torch.cat(alone, dim=2))
    assert [each.shape[2] for each in alone] == [9, 5]
    assert not torch.equal(made[0][LATENTS][:, :, :2], made[1][LATENTS]), "noise of its own"


def test_conditions_are_the_pipelines(plain: Model) -> None:
    with torch.no_grad():
        prompt, negative = plain.pipeline.encode_prompt(TEXT, AWAY, max_sequence_length=512)
    guided, unguided = plain.conditions(AWAY), plain.conditions()
    assert torch.equal(guided[PROMPT], prompt) and torch.equal(guided[NEGATIVE], negative)
    assert unguided.keys() == {PROMPT} and torch.equal(unguided[PROMPT], prompt)


@pytest.mark.parametrize("name", ["prompt", "negative prompt"])
def test_a_text_of_too_many_tokens_is_refused_with_both_counts(plain: Model, name: str) -> None:
    text = {"prompt": Conditioning("x" * 512, None), "negative prompt": Conditioning("x", "x" * 512)}
    with pytest.raises(ChunkError, match=f"The {name} has 513 tokens; this model takes at most 512") as raised:
        plain.conditioner.encode(text[name])
    assert raised.value.reason is ErrorCode.PROMPT_TOO_LONG


@pytest.mark.parametrize(
    ("kind", "height", "width", "multiple"),
    [("wan", 72, 64, 16), ("wan", 64, 8, 16), ("wan", 0, 64, 16), ("wan-ti2v", 64, 48, 32), ("wan-ti2v", 80, 64, 32)],
)
def test_a_size_the_model_cannot_make_is_refused(
    folders: dict[str, Path], kind: str, height: int, width: int, multiple: int
) -> None:
    """`WanPipeline` would round it, with a warning."""
    generator = Generator(Parts(folders[kind], CPU, torch.float32))
    with pytest.raises(ChunkError, match=f"multiples of {multiple}, not {width} x {height}") as raised:
        generator.start(units(5)[0], replace(SETTINGS, height=height, width=width), [])
    assert raised.value.reason is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "no model_index.json"),
        ({"_class_name": "AnyFlowFARPipeline"}, "the family Wan needs one of WanPipeline"),
        (
            {"_class_name": "WanPipeline", "boundary_ratio": 0.875, "transformer": WAN_TRANSFORMER},
            "has a boundary_ratio, but not both transformers",
        ),
        (
            {"_class_name": "WanPipeline", "boundary_ratio": 0.9, "transformer_2": WAN_TRANSFORMER},
            "has a boundary_ratio, but not both transformers",
        ),
        (
            {"_class_name": "WanPipeline", "transformer": WAN_TRANSFORMER, "transformer_2": WAN_TRANSFORMER},
            "has a transformer_2, but its model_index.json has no boundary_ratio",
        ),
    ],
    ids=["no pipeline folder", "another pipeline", "only the first steps", "only the last steps", "no boundary"],
)
@pytest.mark.parametrize("part", [Conditioner, Generator, Decoder])
def test_a_folder_of_another_kind_is_refused(
    tmp_path: Path, part: Any, index: dict[str, Any] | None, message: str
) -> None:
    if index is not None:
        (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        part(Parts(tmp_path, CPU, torch.float32))


@pytest.mark.parametrize(
    "scheduler",
    [FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), DPMSolverMultistepScheduler()],
    ids=["noise from a stream", "unknown memory"],
)
def test_a_scheduler_whose_steps_could_not_be_taken_up_again_is_refused(
    folders: dict[str, Path], tmp_path: Path, scheduler: Any
) -> None:
    shutil.copytree(folders["wan"], tmp_path / "model")
    with_scheduler(tmp_path / "model", scheduler)
    with pytest.raises(
        ValueError, match=r"UniPCMultistepScheduler, FlowMatchEuler.* or FlowMatchLCMScheduler, without"
    ):
        Generator(Parts(tmp_path / "model", CPU, torch.float32))
