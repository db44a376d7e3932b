"""Models that are sampled otherwise than their folders say, such as few-step ones; real classes, random weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline

from dev.tiny_model import SIZES, make_model
from videojob.families import FAMILIES, Chunking, FamilyName, SamplerName, Shot, Unit, Video
from videojob.models.family import Conditioning, Step
from videojob.models.history import LATENTS
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import PROMPT
from videojob.models.schedulers import sampler
from videojob.models.tensors import Tensors, pack, unpack
from videojob.models.wan import Conditioner, Generator
from videojob.models.wan_transformers import RENOISED
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.settings import Sampling
from videojob.triton.wire import Settings

CPU = torch.device("cpu")
TEXT = "a cat"
SETTINGS = Settings(TEXT, seed=7, width=64, height=48, fps=16, guidance_scale=1.0)
UNIPC, EULER, LCM = SamplerName
DMD = Sampling(LCM, 8.0, (1000.0, 757.0, 522.0))
"""As FastWan 2.1 1.3B."""

pytestmark = pytest.mark.usefixtures("one_thread")


def unit(steps: int) -> Unit:
    plan = FAMILIES[FamilyName.WAN].plan(Chunking(1, 3, 1, 6), Video((Shot(5),), 16, steps))
    return plan.units[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "wan"
    make_model(folder, SIZES["tiny"], "wan")
    return folder


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    pipeline = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def conditions(folder: Path) -> Tensors:
    return Conditioner(Parts(folder, CPU, torch.float32)).encode(Conditioning(TEXT, None))


def generator(folder: Path, sampling: Sampling, dtype: torch.dtype = torch.float32) -> Generator:
    return Generator(Parts(folder, CPU, dtype, sampling=sampling))


@pytest.mark.parametrize(
    ("name", "ladder"),
    [
        pytest.param(UNIPC, [999, 937, 833, 625], id="UniPC: that of Lightning's training"),
        pytest.param(EULER, [1000.0, 909.7, 717.3, 24.4], id="Euler: down to the least sigma, shifted twice"),
    ],
)
def test_the_same_shift_and_steps_are_another_ladder_with_another_scheduler(
    name: SamplerName, ladder: list[float]
) -> None:
    scheduler = sampler(Sampling(name, 5.0))
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == pytest.approx(ladder, abs=0.6)


@pytest.mark.parametrize(
    ("sampling", "scheduler"),
    [
        (
            Sampling(UNIPC, 8.0),
            UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0),
        ),
        (Sampling(EULER, 5.0), FlowMatchEulerDiscreteScheduler(shift=5.0)),
    ],
    ids=["UniPC", "FlowMatchEuler"],
)
def test_latents_are_the_pipelines_with_that_scheduler(
    folder: Path, pipeline: Any, conditions: Tensors, sampling: Sampling, scheduler: Any
) -> None:
    """Whatever the folder has."""
    made, wanted = generator(folder, sampling), unit(4)
    pipeline.scheduler = scheduler
    expected = pipeline(
        TEXT,
        height=SETTINGS.height,
        width=SETTINGS.width,
        num_frames=5,
        num_inference_steps=4,
        guidance_scale=1.0,
        latents=Noise(7, 0, 0)(made.latent_shape(wanted, SETTINGS)),
        output_type="latent",
    ).frames
    *_, last = made.run(wanted, SETTINGS, None, conditions, Noise(7, 0, 0))
    assert torch.equal(last.tensors[LATENTS], expected)


def test_a_dmd_student_goes_down_its_own_ladder_with_new_noise_between_the_steps(
    folder: Path, pipeline: Any, conditions: Tensors
) -> None:
    """x0 = x - t / 1000 v, and x = (1 - t / 1000) x0 + t / 1000 noise at the next t."""
    made, wanted, noise = generator(folder, DMD), unit(3), Noise(7, 0, 0)
    shape = made.latent_shape(wanted, SETTINGS)
    latents = noise(shape)
    for number, (t, following) in enumerate(zip(DMD.timesteps, (*DMD.timesteps[1:], 0.0), strict=True), 1):
        with torch.no_grad():
            (velocity,) = pipeline.transformer(latents, torch.tensor([t]), conditions[PROMPT], return_dict=False)
        clean = latents - t / 1000 * velocity
        latents = (1 - following / 1000) * clean + following / 1000 * noise(shape, RENOISED, number)
    *_, last = made.run(wanted, SETTINGS, None, conditions, noise)
    torch.testing.assert_close(last.tensors[LATENTS], latents, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampling", [DMD, Sampling(LCM, 8.0), Sampling(UNIPC, 8.0)], ids=["DMD", "LCM", "UniPC"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_unit_that_goes_on_from_any_of_its_steps_is_the_same(
    folder: Path, conditions: Tensors, sampling: Sampling, dtype: torch.dtype
) -> None:
    made, wanted, noise = generator(folder, sampling, dtype), unit(3), Noise(7, 0, 0)
    steps = list(made.run(wanted, SETTINGS, None, conditions, noise))
    for one in steps:
        resumed = Step(one.done, unpack(pack(one.tensors), "it"))
        rest = list(made.run(wanted, SETTINGS, None, conditions, noise, resumed))
        assert [pack(each.tensors) for each in rest] == [pack(each.tensors) for each in steps[one.done :]]


def test_another_number_of_steps_than_a_student_has_is_refused(folder: Path, conditions: Tensors) -> None:
    made = generator(folder, DMD)
    with pytest.raises(ChunkError, match="The model has 3 timesteps, so it makes no 4 steps") as raised:
        next(made.run(unit(4), SETTINGS, None, conditions, Noise(7, 0, 0)))
    assert raised.value.reason is ErrorCode.INVALID_REQUEST


def test_where_nothing_is_said_the_folder_decides(folder: Path, conditions: Tensors) -> None:
    wanted, noise = unit(4), Noise(7, 0, 0)
    plain = Generator(Parts(folder, CPU, torch.float32))
    *_, usual = plain.run(wanted, SETTINGS, None, conditions, noise)
    *_, other = generator(folder, Sampling(UNIPC, 12.0)).run(wanted, SETTINGS, None, conditions, noise)
    *_, seeded = plain.run(wanted, replace(SETTINGS, seed=7), None, conditions, noise)
    assert torch.equal(usual.tensors[LATENTS], seeded.tensors[LATENTS])
    assert not torch.equal(usual.tensors[LATENTS], other.tensors[LATENTS])
