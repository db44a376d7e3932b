"""Videos of SkyReels-V2 that begin with an image, against diffusers' own pipeline, on real classes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingImageToVideoPipeline
from PIL import Image

from dev.tiny_model import SIZES, make_model
from tests.models.fixtures import whole_clip
from tests.models.jobs import Model, images_of, run, same
from tests.models.skyreels import AWAY, FAMILY, FRAMES, TEXT, units, whole_video
from videojob.families import Memory, Shot
from videojob.models.family import Step
from videojob.models.history import LATENTS
from videojob.models.images import IMAGE_LATENTS
from videojob.models.parts import Parts
from videojob.models.skyreels_v2 import Conditioner, Decoder, Generator
from videojob.models.stages import TextStage
from videojob.models.tensors import pack, unpack
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.settings import Images
from videojob.triton.wire import Settings, UnitRequest

CPU = torch.device("cpu")
KINDS = ("skyreels-v2-df", "skyreels-v2-df-i2v")
SETTINGS = Settings(TEXT, seed=7, width=32, height=48, fps=24.0, guidance_scale=4.0)
TAKEN = Images("Optional")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("skyreels-images")
    for kind in KINDS:
        make_model(parent / kind, SIZES["tiny"], kind)
    return parent


def loaded(folder: Path, kind: str, dtype: torch.dtype) -> Model:
    pipeline = SkyReelsV2DiffusionForcingImageToVideoPipeline
    return Model.of(FAMILY, pipeline, folder / kind, dtype, TEXT, AWAY, images=TAKEN)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, folder: Path) -> Model:
    return loaded(folder, "skyreels-v2-df", request.param)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Model:
    return loaded(folder, "skyreels-v2-df-i2v", torch.float32)


@pytest.fixture
def picture() -> torch.Tensor:
    (image,) = images_of(SETTINGS)
    return image


def _own_length(matrix: Callable[..., Any], latents: int, timesteps: Any, _whole: int, *others: Any) -> Any:
    return matrix(latents, timesteps, latents, *others)


@pytest.mark.parametrize(("frames", "guidance_scale"), [(41, 4.0), (17, 1.0), (9, 4.0), (FRAMES, 1.0)])
def test_latents_and_frames_are_the_pipelines(
    monkeypatch: pytest.MonkeyPatch, model: Model, picture: torch.Tensor, frames: int, guidance_scale: float
) -> None:
    """For the same noise and image, in both precisions: one window or several, the last of which may be shorter.

    There this pipeline stops with an IndexError, and gets what the other one gives itself: the window's own length.
    """
    settings = replace(SETTINGS, guidance_scale=guidance_scale)
    if frames == FRAMES:
        own_length = partial(_own_length, model.pipeline.generate_timestep_matrix)
        monkeypatch.setattr(model.pipeline, "generate_timestep_matrix", own_length)
    expected = whole_video(monkeypatch, model, settings, frames, image=Image.fromarray(picture.numpy()))

    plan = units(Shot(frames))
    made = model.made(plan, settings, [picture])
    state = model.decoder.start(plan[0], ())
    decoded = [torch.cat([*model.decoder.run(checkpoint, state)], dim=2) for checkpoint in made]

    assert all(checkpoint.keys() == {LATENTS} for checkpoint in made)
    assert torch.equal(torch.cat([checkpoint[LATENTS] for checkpoint in made], dim=2), expected)
    assert bool(torch.isfinite(expected).all())
    assert torch.equal(torch.cat(decoded, dim=2), whole_clip(model.pipeline, expected))


def test_the_first_latent_is_that_of_the_image(plain: Model, picture: torch.Tensor) -> None:
    (first, *_) = units()
    (other,) = images_of(SETTINGS, seed=1)
    given = plain.conditions(first, SETTINGS, [picture])
    made, free, changed = (plain.made([first], SETTINGS, images)[0][LATENTS] for images in ([picture], [], [other]))
    assert torch.equal(made[:, :, :1], given[IMAGE_LATENTS])
    assert not torch.equal(made[:, :, 1:], free[:, :, 1:])
    assert not torch.equal(made[:, :, 1:], changed[:, :, 1:])


def test_a_folder_of_either_pipeline_gives_the_same(folder: Path, plain: Model, picture: torch.Tensor) -> None:
    """With an image and without: the weights are those of both."""
    other, (first, *_) = loaded(folder, "skyreels-v2-df", torch.float32), units()
    for images in ([picture], []):
        assert pack(plain.made([first], SETTINGS, images)[0]) == pack(other.made([first], SETTINGS, images)[0])


def test_a_video_of_one_frame_is_the_image(plain: Model, picture: torch.Tensor) -> None:
    (first,) = units(Shot(1))
    *_, last = plain.steps(first, SETTINGS, (), images=[picture])
    assert last.done == first.steps
    assert torch.equal(last.tensors[LATENTS], plain.conditions(first, SETTINGS, [picture])[IMAGE_LATENTS])


def test_a_unit_that_goes_on_from_any_of_its_steps_is_the_same(model: Model, picture: torch.Tensor) -> None:
    plan = units()
    past = model.made(plan[:2], SETTINGS, [picture])
    for unit in plan[:2]:
        made = list(model.steps(unit, SETTINGS, past, images=[picture]))
        for step in made:
            resumed = Step(step.done, unpack(pack(step.tensors), "it"))
            rest = list(model.steps(unit, SETTINGS, past, resumed, [picture]))
            assert [pack(each.tensors) for each in rest] == [pack(each.tensors) for each in made[step.done :]]


def test_a_video_goes_on_from_any_unit_as_if_never_interrupted(plain: Model, picture: torch.Tensor) -> None:
    """Of several shots, which begin with an image where they keep nothing."""
    shots = (Shot(21), Shot(15, Memory.KEEP), Shot(6, Memory.CLEAR), Shot(17, Memory.CLEAR))
    (other,) = images_of(SETTINGS, seed=1)
    plan, images = units(*shots, steps=2), {0: [picture], 3: [other]}
    whole = [*run(plain.server(), "job", plan, SETTINGS, images=images)]

    assert [unit.shot for unit in plan] == [0, 0, 1, 1, 2, 3]
    for first in range(1, len(plan)):
        assert same([*run(plain.server(), "job", plan, SETTINGS, whole[:first], images)], whole[first:])


def test_only_units_that_begin_anew_are_conditioned_on_an_image(plain: Model, picture: torch.Tensor) -> None:
    conditions: Sequence[bool] = [
        IMAGE_LATENTS in plain.conditions(unit, SETTINGS, [picture]) for unit in units(Shot(21), Shot(9, Memory.CLEAR))
    ]
    assert conditions == [True, False, True]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("declared", [Images("Optional", "Optional"), Images("Required", "Required")])
def test_a_model_that_is_declared_to_take_a_last_image_is_not_loaded(folder: Path, kind: str, declared: Images) -> None:
    for part in (Conditioner, Generator, Decoder):
        with pytest.raises(ValueError, match=r"images has to be \{first: Optional\}"):
            part(Parts(folder / kind, CPU, torch.float32, images=declared))


def test_images_that_do_not_fit_the_model_are_refused(folder: Path, plain: Model, picture: torch.Tensor) -> None:
    first, *_ = units()
    request, image = UnitRequest(first, SETTINGS), bytes(picture.numpy())
    without = Conditioner(Parts(folder / KINDS[0], CPU, torch.float32))
    for conditioner, images, words in (
        (plain.conditioner, [image, image], "IMAGES holds 2; the model takes 1 to 1"),
        (without, [image], "This model takes no images"),
    ):
        with pytest.raises(ChunkError, match=words) as refused:
            TextStage(conditioner).encode(request, images)
        assert refused.value.reason is ErrorCode.INVALID_REQUEST


def test_a_model_that_needs_an_image_makes_no_video_without(folder: Path) -> None:
    generator = Generator(Parts(folder / KINDS[0], CPU, torch.float32, images=Images("Required")))
    first, *_ = units()
    with pytest.raises(ChunkError, match="IMAGES must come"):
        next(generator.run(first, SETTINGS, generator.start(first, SETTINGS, ()), {}, None))  # type: ignore[arg-type]
