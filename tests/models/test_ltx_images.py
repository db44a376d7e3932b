"""Clips of LTX-Video that begin, or end as well, with an image, against diffusers' own pipelines, on real classes."""

import inspect
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LTXConditionPipeline, LTXImageToVideoPipeline, LTXPipeline
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from PIL import Image

from dev.tiny_model import SIZES, make_model
from tests.models.fixtures import change
from tests.models.jobs import Model, images_of, run, same
from videojob.families import FAMILIES, Chunking, FamilyName, Shot, Unit, Video
from videojob.models.family import Conditioning, Step
from videojob.models.history import LATENTS
from videojob.models.images import IMAGE_LATENTS
from videojob.models.ltx import DECODE, DECODE_NOISE_SCALE, DECODE_TIMESTEP, Conditioner, Decoder, Generator
from videojob.models.ltx_images import ENCODED, taken
from videojob.models.ltx_steps import IMAGE_NOISE, IMAGE_NOISE_SCALE
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.stages import TextStage
from videojob.models.tensors import pack, unpack
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.settings import Images
from videojob.triton.wire import Settings, UnitRequest

CPU = torch.device("cpu")
TEXT, AWAY = "a cat", "blurred"
SETTINGS = Settings(TEXT, seed=7, width=64, height=96, fps=24.0, guidance_scale=4.0, negative_prompt=AWAY)
TAKEN = {
    "ltx": Images("Optional"),
    "ltx-timestep": Images("Optional"),
    "ltx-i2v": Images("Optional"),
    "ltx-condition": Images("Optional", "Optional"),
}
"""What each kind of checkpoint takes."""
CASES = [("ltx", 1), ("ltx-timestep", 1), ("ltx-condition", 0), ("ltx-condition", 1), ("ltx-condition", 2)]
"""Kinds, and how many images come."""

pytestmark = pytest.mark.usefixtures("one_thread")


def units(*shots: int, steps: int = 3) -> list[Unit]:
    chunking = Chunking(first=1, later=3, sink=1, window=6)
    return [*FAMILIES[FamilyName.LTX].plan(chunking, Video(tuple(map(Shot, shots)), 24, steps)).units]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("ltx-images")
    for kind in TAKEN:
        make_model(parent / kind, SIZES["tiny"], kind)
    return parent


def loaded(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Model:
    pipeline = LTXConditionPipeline if kind == "ltx-condition" else LTXImageToVideoPipeline
    return Model.of(FamilyName.LTX, pipeline, folder / kind, dtype, TEXT, AWAY, images=TAKEN[kind])


def conditioned(images: Sequence[Image.Image], unit: Unit) -> dict[str, Any]:
    """How `LTXConditionPipeline` is given the first and the last image."""
    places = (0, len(unit.frames) - 1)
    conditions = [LTXVideoCondition(image=image, frame_index=place) for image, place in zip(images, places)]  # noqa: B905
    return {"conditions": conditions} if conditions else {}


def drawn_by(model: Model, unit: Unit, shape: tuple[int, ...], images: int) -> Iterator[torch.Tensor]:
    """What the pipeline draws while it makes the clip, in order; what nothing comes of is not a number."""
    noise, (_, channels, _, *size) = Noise(SETTINGS.seed, 0, 0), shape
    condition = isinstance(model.pipeline, LTXConditionPipeline)
    yield noise(shape)
    if condition and images > 1:
        yield torch.zeros(1, channels, 1, *size)  # a last image of strength 1 has none of it
    tokens = LTXPipeline._pack_latents(noise(shape)).shape[1]
    of_image = size[0] * size[1]
    for step in range(1, unit.steps + 1) if condition and images else ():
        added = noise((1, images * of_image, channels), IMAGE_NOISE, step)
        nothing = torch.full((1, tokens - of_image, channels), torch.nan)
        yield torch.cat([added, nothing], dim=1)
    if model.pipeline.vae.config.timestep_conditioning:
        yield noise(shape, DECODE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize(("kind", "count"), CASES)
def test_latents_and_frames_are_the_pipelines(
    monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str, count: int, guidance_scale: float, dtype: torch.dtype
) -> None:
    """After every step, for the same noise and images, in both precisions."""
    model, (unit,), images = loaded(folder, kind, dtype), units(17), images_of(SETTINGS, count)
    settings = replace(SETTINGS, guidance_scale=guidance_scale, fps=24000 / 1001)
    assert isinstance(model.generator, Generator)
    shape = model.generator.latent_shape(unit, settings)
    draws = iter([*drawn_by(model, unit, shape, count)])
    channels, (*_, height, width) = model.pipeline.vae.config.latent_channels, shape
    encoded = iter([Noise(7, 0, 0)((1, channels, 1, height, width), ENCODED, place) for place in range(count)])

    def drawn(wanted: tuple[int, ...], dtype: torch.dtype, **_: Any) -> torch.Tensor:
        made = next(draws)
        assert made.shape == wanted
        return made.to(dtype)

    monkeypatch.setattr(f"{type(model.pipeline).__module__}.randn_tensor", drawn)
    monkeypatch.setattr(
        "diffusers.models.autoencoders.vae.randn_tensor", lambda _shape, dtype, **_: next(encoded).to(dtype)
    )
    monkeypatch.setattr(torch, "randn", drawn)
    decode, decoded = model.pipeline.vae.decode, []
    expected: list[torch.Tensor] = []

    def seen_decoding(*arguments: Any, **options: Any) -> Any:
        decoded.append(decode(*arguments, **options)[0])
        return (decoded[-1],)

    def seen(_pipeline: Any, _step: int, _t: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        expected.append(tensors["latents"])
        return tensors

    monkeypatch.setattr(model.pipeline.vae, "decode", seen_decoding)
    pictures = [Image.fromarray(image.numpy()) for image in images]
    given = conditioned(pictures, unit) if kind == "ltx-condition" else {"image": pictures[0]}
    model.pipeline(
        prompt=TEXT,
        negative_prompt=AWAY,
        height=settings.height,
        width=settings.width,
        num_frames=len(unit.frames),
        frame_rate=settings.fps,
        num_inference_steps=unit.steps,
        guidance_scale=guidance_scale,
        decode_timestep=DECODE_TIMESTEP,
        decode_noise_scale=DECODE_NOISE_SCALE,
        output_type="np",
        callback_on_step_end=seen,
        **given,
    )
    monkeypatch.undo()
    assert [*draws, *encoded] == [], "all that is named is drawn"

    made = list(model.steps(unit, settings, (), images=images))
    frames = torch.cat([*model.decoder.run(made[-1].tensors, None)], dim=2)
    tokens = [LTXPipeline._pack_latents(step.tensors[LATENTS]) for step in made]
    assert all(
        torch.equal(mine, theirs[:, -mine.shape[1] :]) for mine, theirs in zip(tokens[1:], expected, strict=True)
    )
    assert bool(torch.isfinite(frames).all())
    assert torch.equal(frames, decoded[0].clamp(-1, 1))


def test_the_noise_on_images_is_the_pipelines_default() -> None:
    default = inspect.signature(LTXConditionPipeline.__call__).parameters["image_cond_noise_scale"].default
    assert default == IMAGE_NOISE_SCALE


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize(("kind", "count"), [("ltx", 0), *CASES])
def test_a_clip_goes_on_from_any_of_its_steps(folder: Path, kind: str, count: int, guidance_scale: float) -> None:
    """Also where the images are encoded again, in another process."""
    model, (unit,), images = loaded(folder, kind, torch.bfloat16), units(17), images_of(SETTINGS, count)
    settings = replace(SETTINGS, guidance_scale=guidance_scale)
    made = list(model.steps(unit, settings, (), images=images))
    for step in made:
        resumed = Step(step.done, unpack(pack(step.tensors), "it"))
        rest = list(model.steps(unit, settings, (), resumed, images))
        assert [pack(each.tensors) for each in rest] == [pack(each.tensors) for each in made[step.done :]]


@pytest.mark.parametrize(("kind", "count"), [case for case in CASES if case[1]])
def test_a_clip_depends_on_each_of_its_images(folder: Path, kind: str, count: int) -> None:
    model, (unit,) = loaded(folder, kind), units(9, steps=2)
    images, others = images_of(SETTINGS, count), images_of(SETTINGS, count, seed=1)
    changed = [[*images[:place], others[place], *images[place + 1 :]] for place in range(count)]
    clips = {pack(model.made([unit], SETTINGS, given)[0]) for given in ([], images, *changed)}
    assert len(clips) == 2 + count


def test_what_begins_with_an_image_keeps_its_latents(folder: Path) -> None:
    """But for some noise, where the folder is of the pipeline that adds it."""
    (unit,), images = units(9), images_of(SETTINGS)
    for kind, kept in (("ltx", True), ("ltx-condition", False)):
        model = loaded(folder, kind)
        image = model.conditions(unit, SETTINGS, images)[IMAGE_LATENTS]
        assert torch.equal(model.made([unit], SETTINGS, images)[0][LATENTS][:, :, :1], image) == kept


def test_a_folder_of_either_pipeline_gives_the_same(folder: Path) -> None:
    """With an image and without: the weights are those of both."""
    (unit,) = units(9, steps=2)
    models = [loaded(folder, kind) for kind in ("ltx", "ltx-i2v")]
    for images in (images_of(SETTINGS), []):
        assert len({pack(model.made([unit], SETTINGS, images)[0]) for model in models}) == 1


def test_clips_with_images_go_on_elsewhere_as_if_never_interrupted(folder: Path) -> None:
    """Through the real stages: each shot has images, or none."""
    model, plan = loaded(folder, "ltx-condition"), units(9, 9, 9, steps=2)
    images = {0: images_of(SETTINGS, 2), 2: images_of(SETTINGS)}
    whole = [*run(model.server(), "job", plan, SETTINGS, images=images)]
    for first in (1, 2):
        assert same([*run(model.server(), "job", plan, SETTINGS, whole[:first], images)], whole[first:])


@pytest.mark.parametrize("kind", TAKEN)
def test_a_folder_says_what_images_it_takes(folder: Path, kind: str) -> None:
    assert taken(json.loads((folder / kind / "model_index.json").read_text())) == TAKEN[kind]


def test_a_model_that_is_declared_to_take_more_is_not_loaded(folder: Path) -> None:
    for kind in ("ltx", "ltx-i2v"):
        for part in (Conditioner, Generator, Decoder):
            with pytest.raises(ValueError, match=r"images has to be \{first: Optional\}"):
                part(Parts(folder / kind, CPU, torch.float32, images=Images("Optional", "Optional")))


def test_images_that_do_not_fit_are_refused(folder: Path) -> None:
    model, (unit, frame) = loaded(folder, "ltx-condition"), units(9, 1)
    image = bytes(images_of(SETTINGS)[0].numpy())
    low = replace(SETTINGS, height=16, width=64)
    narrow = bytes(images_of(low)[0].numpy())
    for request, images, words in (
        (UnitRequest(unit, SETTINGS), [image] * 3, "IMAGES holds 3; the model takes 1 to 2"),
        (UnitRequest(frame, SETTINGS), [image] * 2, "A clip of one frame cannot begin and end with an image"),
        (UnitRequest(unit, low), [narrow], "multiples of 32, not 64 x 16"),
    ):
        with pytest.raises(ChunkError, match=words) as refused:
            TextStage(model.conditioner).encode(request, images)
        assert refused.value.reason is ErrorCode.INVALID_REQUEST
    without = Conditioner(Parts(folder / "ltx", CPU, torch.float32))
    with pytest.raises(ChunkError, match="This model takes no images"):
        without.encode_images(unit, SETTINGS, images_of(SETTINGS))


def test_a_prompt_has_as_many_tokens_as_the_pipeline_reads(folder: Path, tmp_path: Path) -> None:
    """And no more than the folder's tokenizer says."""
    model = loaded(folder, "ltx-condition")
    conditions = model.conditioner.encode(Conditioning("x" * 255, None))
    with torch.no_grad():
        expected, mask, *_ = model.pipeline.encode_prompt("x" * 255, do_classifier_free_guidance=False)
    assert next(iter(conditions.values())).shape[1] == 256
    assert all(torch.equal(*pair) for pair in zip(conditions.values(), (expected, mask), strict=True))
    with pytest.raises(ChunkError, match="at most 256"):
        model.conditioner.encode(Conditioning("x" * 256, None))
    shutil.copytree(folder / "ltx-condition", tmp_path / "model")
    change(tmp_path / "model" / "tokenizer" / "tokenizer_config.json", model_max_length=128)
    with pytest.raises(ChunkError, match="at most 128"):
        Conditioner(Parts(tmp_path / "model", CPU, torch.float32)).encode(Conditioning("x" * 128, None))
