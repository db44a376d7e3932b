"""Clips of Wan that begin, or end as well, with an image, against diffusers' own pipeline, on real classes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

from dev.tiny_model import SIZES, make_model
from tests.models.fixtures import whole_clip
from tests.models.jobs import Model, images_of
from videojob.families import FAMILIES, Chunking, FamilyName, Shot, Unit, Video
from videojob.models.family import Step
from videojob.models.history import LATENTS
from videojob.models.images import IMAGE_LATENTS
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.stages import TextStage
from videojob.models.tensors import Tensors, pack, unpack
from videojob.models.wan import Conditioner, Generator
from videojob.models.wan_images import SEEN, taken
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.settings import Images
from videojob.triton.wire import Settings, UnitRequest

CPU = torch.device("cpu")
TEXT, AWAY = "a cat", "blurred"
SETTINGS = Settings(TEXT, seed=7, width=32, height=64, fps=16.0, guidance_scale=4.0, negative_prompt=AWAY)
TAKEN = {
    "wan": None,
    "wan-a14b": None,
    "wan-ti2v": Images("Optional"),
    "wan-i2v": Images("Required"),
    "wan-flf2v": Images("Required", "Required"),
    "wan-i2v-a14b": Images("Required", "Optional"),
}
"""What each kind of checkpoint takes."""
CASES = [("wan-ti2v", 1), ("wan-i2v", 1), ("wan-flf2v", 2), ("wan-i2v-a14b", 1), ("wan-i2v-a14b", 2)]
"""Kinds, and how many images come."""

pytestmark = pytest.mark.usefixtures("one_thread")


def unit_of(frames: int, steps: int = 4) -> Unit:
    video = Video((Shot(frames),), 16, steps)
    return FAMILIES[FamilyName.WAN].plan(Chunking(first=1, later=3, sink=1, window=6), video).units[0]


def steps(model: Model, unit: Unit, given: Tensors, resume: Step | None = None) -> Iterator[Step]:
    model.generator.start(unit, SETTINGS, [])
    return model.generator.run(unit, SETTINGS, None, given, Noise(7, 0, 0), resume)


def loaded(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Model:
    pipeline = WanImageToVideoPipeline
    return Model.of(FamilyName.WAN, pipeline, folder / kind, dtype, TEXT, AWAY, images=TAKEN[kind])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("wan-images")
    for kind in TAKEN:
        make_model(parent / kind, SIZES["tiny"], kind)
    return parent


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "count"), CASES)
def test_latents_and_frames_are_the_pipelines(folder: Path, kind: str, count: int, dtype: torch.dtype) -> None:
    """For the same noise and images, in both precisions: every operation is the same."""
    model, unit, images = loaded(folder, kind, dtype), unit_of(9), images_of(SETTINGS, count)
    first, *last = (Image.fromarray(image.numpy()) for image in images)
    assert isinstance(model.generator, Generator)
    noise = Noise(7, 0, 0)(model.generator.latent_shape(unit, SETTINGS))
    expected = model.pipeline(
        first,
        TEXT,
        negative_prompt=AWAY,
        last_image=next(iter(last), None),
        height=SETTINGS.height,
        width=SETTINGS.width,
        num_frames=len(unit.frames),
        num_inference_steps=unit.steps,
        guidance_scale=SETTINGS.guidance_scale,
        latents=noise,
        output_type="latent",
    ).frames

    *_, made = steps(model, unit, model.conditions(unit, SETTINGS, images))
    frames = torch.cat(list(model.decoder.run(made.tensors, None)), dim=2)

    assert torch.equal(made.tensors[LATENTS], expected)
    assert bool(torch.isfinite(expected).all())
    assert torch.equal(frames, whole_clip(model.pipeline, expected))


@pytest.mark.parametrize(("kind", "count"), CASES)
def test_a_clip_depends_on_each_of_its_images(folder: Path, kind: str, count: int) -> None:
    model, unit = loaded(folder, kind), unit_of(5, steps=2)
    images, others = images_of(SETTINGS, count), images_of(SETTINGS, count, seed=1)

    def clip(given: Sequence[torch.Tensor]) -> bytes:
        *_, last = steps(model, unit, model.conditions(unit, SETTINGS, given))
        return pack(last.tensors)

    changed = [[*images[:place], others[place], *images[place + 1 :]] for place in range(count)]
    assert len({clip(given) for given in (images, *changed)}) == 1 + count
    assert clip(images) == clip(images)


@pytest.mark.parametrize(("kind", "count"), CASES)
def test_a_clip_goes_on_from_any_of_its_steps(folder: Path, kind: str, count: int) -> None:
    model, unit = loaded(folder, kind), unit_of(5)
    given = unpack(pack(model.conditions(unit, SETTINGS, images_of(SETTINGS, count))), "it")
    made = list(steps(model, unit, given))
    for step in made:
        rest = list(steps(model, unit, given, Step(step.done, unpack(pack(step.tensors), "it"))))
        assert [pack(each.tensors) for each in rest] == [pack(each.tensors) for each in made[step.done :]]


def test_what_begins_with_an_image_keeps_its_latents(folder: Path) -> None:
    """Where tokens have timesteps of their own: those of the image are never noise."""
    model, unit = loaded(folder, "wan-ti2v"), unit_of(9)
    given = model.conditions(unit, SETTINGS, images_of(SETTINGS, 1))
    *_, last = steps(model, unit, given)
    assert torch.equal(last.tensors[LATENTS][:, :, :1], given[IMAGE_LATENTS])
    *_, free = steps(model, unit, {name: given[name] for name in given.keys() - {IMAGE_LATENTS}})
    assert not torch.equal(free.tensors[LATENTS][:, :, :1], given[IMAGE_LATENTS])


def test_only_models_with_an_image_encoder_see_images(folder: Path) -> None:
    for kind, count in CASES:
        given = loaded(folder, kind).conditions(unit_of(5), SETTINGS, images_of(SETTINGS, count))
        assert (SEEN in given) == (kind in {"wan-i2v", "wan-flf2v"})


@pytest.mark.parametrize("kind", TAKEN)
def test_a_folder_says_what_images_it_takes(folder: Path, kind: str) -> None:
    assert taken(folder / kind, json.loads((folder / kind / "model_index.json").read_text())) == TAKEN[kind]


@pytest.mark.parametrize(
    ("kind", "declared", "words"),
    [
        ("wan", Images("Required"), "takes no images: in the VideoModel, leave images out"),
        ("wan-ti2v", Images("Required", "Optional"), "images has to be {first: Optional}"),
        ("wan-i2v", None, "images has to be {first: Required}"),
        ("wan-i2v", Images("Optional"), "images has to be {first: Required}"),
        ("wan-i2v", Images("Required", "Optional"), "images has to be {first: Required}"),
        ("wan-flf2v", Images("Required", "Optional"), "images has to be {first: Required, last: Required}"),
        ("wan-i2v-a14b", Images("Optional", "Optional"), "images has to be {first: Required, last: Optional}"),
    ],
)
def test_a_model_that_is_declared_otherwise_is_not_loaded(
    folder: Path, kind: str, declared: Images | None, words: str
) -> None:
    """Neither by the stage that reads images nor by the one that denoises."""
    for part in (Conditioner, Generator):
        with pytest.raises(ValueError, match=words.replace("{", r"\{")):
            part(Parts(folder / kind, CPU, torch.float32, images=declared))


@pytest.mark.parametrize(
    ("kind", "declared"),
    [
        ("wan-ti2v", None),
        ("wan-ti2v", Images("Required")),
        ("wan-i2v-a14b", Images("Required")),
        ("wan-i2v-a14b", Images("Required", "Required")),
    ],
)
def test_a_model_may_be_declared_to_take_less(folder: Path, kind: str, declared: Images | None) -> None:
    for part in (Conditioner, Generator):
        part(Parts(folder / kind, CPU, torch.float32, images=declared))


def test_images_of_another_number_or_size_are_refused(folder: Path) -> None:
    model, unit = loaded(folder, "wan-i2v"), unit_of(5)
    stage, request = TextStage(model.conditioner), UnitRequest(unit, SETTINGS)
    image = bytes(images_of(SETTINGS, 1)[0].numpy())
    assert IMAGE_LATENTS in stage.encode(request, [image]).tensors
    for images, words in (([image[:-1]], r"\[64, 32, 3\] bytes"), ([image, image], "takes 1 to 1")):
        with pytest.raises(ChunkError, match=words) as refused:
            stage.encode(request, images)
        assert refused.value.reason is ErrorCode.INVALID_REQUEST
    with pytest.raises(ChunkError, match="IMAGES must come"):
        list(steps(model, unit, stage.encode(request).tensors))
    plain = TextStage(Conditioner(Parts(folder / "wan", CPU, torch.float32)))
    with pytest.raises(ChunkError, match="takes no images"):
        plain.encode(request, [image])


def test_prompts_are_cached_and_images_are_not(folder: Path) -> None:
    model, unit = loaded(folder, "wan-i2v"), unit_of(5)
    stage, request = TextStage(model.conditioner), UnitRequest(unit, SETTINGS)
    first, second = (bytes(image.numpy()) for image in images_of(SETTINGS, 2))
    made = [stage.encode(request, [image]) for image in (first, second, first)]
    assert pack(made[0].tensors) == pack(made[2].tensors) != pack(made[1].tensors)
    assert all(each.seconds > 0 for each in made)
    assert stage.encode(replace(request, settings=replace(SETTINGS, width=16)), ()).seconds == 0
