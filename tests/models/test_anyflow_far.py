"""The family AnyFlow-FAR against diffusers' own pipeline, on real classes with random weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnyFlowFARPipeline

from tests.models.fixtures import whole_clip
from videojob.families import FAMILIES, Chunking, FamilyName, Shot, Unit, Video
from videojob.models.anyflow_far import EMBEDS, Conditioner, Decoder, Generator
from videojob.models.family import Conditioning, Step
from videojob.models.frames import to_uint8
from videojob.models.history import LATENTS
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.tensors import pack, unpack
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import Settings

CPU = torch.device("cpu")
HEIGHT, WIDTH = 64, 48
PROMPT = "a  cat &amp; a dog"
SETTINGS = Settings(PROMPT, seed=7, width=WIDTH, height=HEIGHT, fps=16.0, guidance_scale=1.0)

pytestmark = pytest.mark.usefixtures("one_thread")


def units(steps: int = 2) -> list[Unit]:
    """Of a video that remembers all of its past."""
    family, chunking = FAMILIES[FamilyName.ANYFLOW_FAR], Chunking(1, 3, sink=0, window=100)
    return [*family.plan(chunking, Video((Shot(210),), 16, steps)).units]


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> Any:
    # diffusers has no types.
    pipeline = AnyFlowFARPipeline.from_pretrained(tiny_model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def conditioner(tiny_model: Path) -> Conditioner:
    return Conditioner(Parts(tiny_model, CPU, torch.float32))


@pytest.fixture(scope="module")
def generator(tiny_model: Path) -> Generator:
    return Generator(Parts(tiny_model, CPU, torch.float32))


@pytest.fixture(scope="module")
def decoder(tiny_model: Path) -> Decoder:
    return Decoder(Parts(tiny_model, CPU, torch.float32))


@pytest.mark.parametrize(
    ("guidance_scale", "steps"), [(1.0, 1), (1.0, 3), (4.0, 2)], ids=["one step", "three steps", "guided"]
)
def test_latents_equal_the_pipelines_while_every_chunk_is_remembered(
    pipeline: Any, conditioner: Conditioner, generator: Generator, guidance_scale: float, steps: int
) -> None:
    plan = units(steps)[:5]  # two more than the transformer keeps in full, so that compressed ones are among them
    settings = replace(SETTINGS, guidance_scale=guidance_scale)
    expected = pipeline(
        PROMPT,
        height=HEIGHT,
        width=WIDTH,
        num_frames=plan[-1].frames.stop,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        latents=torch.cat([Noise(7, 0, unit.index)(generator.latent_shape(unit, settings)) for unit in plan], dim=2),
        chunk_partition=[len(unit.latents) for unit in plan],
        output_type="latent",
    ).frames

    conditions = conditioner.encode(Conditioning(PROMPT, "" if guidance_scale > 1 else None))
    state = generator.start(plan[0], settings, [])
    made = []
    for unit in plan:
        *_, last = generator.run(unit, settings, state, conditions, Noise(7, 0, unit.index))
        made.append(last.tensors[LATENTS])

    assert torch.equal(torch.cat(made, dim=2), expected)


def test_what_comes_after_a_step_is_what_the_next_one_starts_from(
    conditioner: Conditioner, generator: Generator
) -> None:
    """One more than there are steps: the first are the noise, the last the checkpoint."""
    unit = units(steps=3)[0]
    conditions = conditioner.encode(Conditioning(PROMPT, None))

    steps = list(generator.run(unit, SETTINGS, generator.start(unit, SETTINGS, []), conditions, Noise(7, 0, 0)))

    latents = [step.tensors[LATENTS] for step in steps]
    assert [step.done for step in steps] == list(range(unit.steps + 1))
    assert torch.equal(latents[0], Noise(7, 0, 0)(generator.latent_shape(unit, SETTINGS)))
    assert len({each.sum().item() for each in latents}) == len(latents)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_unit_that_goes_on_from_any_of_its_steps_is_the_same(
    tiny_model: Path, conditioner: Conditioner, dtype: torch.dtype
) -> None:
    generator, settings = Generator(Parts(tiny_model, CPU, dtype)), replace(SETTINGS, guidance_scale=4.0)
    unit = units(steps=3)[1]
    conditions = conditioner.encode(Conditioning(PROMPT, ""))
    past = [{LATENTS: random_latents(1, seed=3).to(dtype)}]
    made = list(generator.run(unit, settings, generator.start(unit, settings, past), conditions, Noise(7, 0, 1)))
    for step in made:
        state = generator.start(unit, settings, past)
        resumed = Step(step.done, unpack(pack(step.tensors), "it"))
        rest = list(generator.run(unit, settings, state, conditions, Noise(7, 0, 1), resumed))
        assert [each.done for each in rest] == list(range(step.done, 4))
        assert [pack(each.tensors) for each in rest] == [pack(each.tensors) for each in made[step.done :]]
        assert torch.equal(state[unit.index], made[-1].tensors[LATENTS])


@pytest.mark.parametrize(("height", "width"), [(65, 64), (64, 40), (16, 64), (0, 0), (-16, 64)])
def test_a_size_the_model_cannot_make_is_refused(generator: Generator, height: int, width: int) -> None:
    with pytest.raises(ChunkError, match=f"not {width} x {height}") as raised:
        generator.start(units()[0], replace(SETTINGS, height=height, width=width), [])
    assert raised.value.reason is ErrorCode.INVALID_REQUEST


def test_embeddings_equal_the_pipelines(pipeline: Any, conditioner: Conditioner) -> None:
    with torch.no_grad():  # as in the pipeline's call: recording gradients takes other kernels
        expected, _ = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False, max_sequence_length=512)
    assert torch.equal(conditioner.encode(Conditioning(PROMPT, None))[EMBEDS], expected)


@pytest.mark.parametrize("negative", ["", "blurred"])
def test_guidance_adds_the_negative_prompt_before_the_prompt(conditioner: Conditioner, negative: str) -> None:
    first, second = (conditioner.encode(Conditioning(text, None))[EMBEDS] for text in (negative, PROMPT))
    guided = conditioner.encode(Conditioning(PROMPT, negative))[EMBEDS]
    assert torch.equal(guided, torch.cat([first, second]))


def test_a_prompt_at_the_token_limit_is_taken_and_one_beyond_is_refused_with_both_counts(
    conditioner: Conditioner,
) -> None:
    # The tiny tokenizer makes one token a byte and adds an end mark.
    assert conditioner.encode(Conditioning("x" * 511, None))[EMBEDS].shape == (1, 512, 32)
    for name, conditioning in (
        ("prompt", Conditioning("x" * 512, None)),
        ("negative prompt", Conditioning("x", "x" * 512)),
    ):
        with pytest.raises(ChunkError, match=rf"The {name} has 513 tokens.*at most 512.*the {name}\.") as raised:
            conditioner.encode(conditioning)
        assert raised.value.reason is ErrorCode.PROMPT_TOO_LONG


def random_latents(count: int, seed: int) -> torch.Tensor:
    return torch.randn(1, 16, count, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(seed))


def decoded(decoder: Decoder, latents: torch.Tensor, state: Any) -> list[torch.Tensor]:
    return list(decoder.run({LATENTS: latents}, state))


@pytest.mark.parametrize("sizes", [[1, 3, 3, 3], [4, 1, 5], [10]], ids=str)
def test_streaming_decode_equals_the_whole_clip_with_two_videos_interleaved(
    pipeline: Any, decoder: Decoder, sizes: list[int]
) -> None:
    videos = [random_latents(sum(sizes), seed) for seed in (1, 2)]
    states = [decoder.start(units()[0], []) for _ in videos]
    made: list[list[torch.Tensor]] = [[] for _ in videos]
    for pieces in zip(*(torch.split(video, sizes, dim=2) for video in videos), strict=True):
        for piece, state, frames in zip(pieces, states, made, strict=True):
            frames.extend(decoded(decoder, piece, state))
    for video, frames in zip(videos, made, strict=True):
        assert torch.equal(torch.cat(frames, dim=2), whole_clip(pipeline, video))


@pytest.mark.parametrize("index", [1, 5, 15, 16])
def test_the_decoders_state_is_rebuilt_exactly_from_what_the_plan_names(decoder: Decoder, index: int) -> None:
    plan = units()
    unit = plan[index]
    latents = random_latents(plan[index + 1].latents.stop, seed=3)
    past = [
        {LATENTS: latents[:, :, plan[earlier].latents.start : plan[earlier].latents.stop]} for earlier in unit.decode
    ]

    unbroken = decoder.start(plan[0], [])
    decoded(decoder, latents[:, :, : unit.latents.start], unbroken)
    rebuilt = decoder.start(unit, past)
    for checkpoint in past:
        decoded(decoder, checkpoint[LATENTS], rebuilt)

    following = latents[:, :, unit.latents.start :]
    expected = torch.cat(decoded(decoder, following, unbroken), dim=2)
    assert torch.equal(torch.cat(decoded(decoder, following, rebuilt), dim=2), expected)


def test_the_plan_reaches_as_far_back_as_the_decoder_looks(decoder: Decoder) -> None:
    plan = FAMILIES[FamilyName.ANYFLOW_FAR].plan(Chunking(1, 1, sink=0, window=1), Video((Shot(400),), 16, 1))
    assert len(plan.units[-1].decode) == decoder.look_back


@pytest.mark.parametrize(
    ("unit", "latents"),
    [(0, 1), (2, 3), (1, 2), (20, 37)],
    ids=["too long", "too short", "longer than all", "look back"],
)
def test_a_past_from_which_the_frames_would_come_out_wrong_is_refused(
    decoder: Decoder, unit: int, latents: int
) -> None:
    with pytest.raises(ChunkError, match=f"latents for the decoder, not {latents}") as raised:
        decoder.start(units()[unit] if unit < len(units()) else units()[-1], [{LATENTS: random_latents(latents, 1)}])
    assert raised.value.reason is ErrorCode.INVALID_REQUEST


def test_pixels_are_those_diffusers_makes(pipeline: Any) -> None:
    frames = torch.linspace(-1.3, 1.3, 3 * 2 * 16 * 16).view(1, 3, 2, 16, 16)
    images = pipeline.video_processor.postprocess_video(frames, output_type="np")[0]
    assert torch.equal(to_uint8(frames), torch.from_numpy((images * 255).round().astype("uint8")))


def test_the_same_folder_serves_in_bfloat16(tiny_model: Path, conditioner: Conditioner) -> None:
    unit, generator = units()[0], Generator(Parts(tiny_model, CPU, torch.bfloat16))
    conditions = conditioner.encode(Conditioning(PROMPT, None))
    *_, last = generator.run(unit, SETTINGS, generator.start(unit, SETTINGS, []), conditions, Noise(7, 0, 0))
    decoder = Decoder(Parts(tiny_model, CPU, torch.bfloat16))
    (frames,) = decoder.run(last.tensors, decoder.start(unit, []))
    assert last.tensors[LATENTS].dtype == frames.dtype == torch.bfloat16
    assert bool(torch.isfinite(frames).all())


@pytest.mark.parametrize(
    ("checkpoint", "found"),
    [
        ({LATENTS: torch.zeros(1, 16, 1, 4, 6)}, r"\[1, 16, 1, 4, 6\]"),
        ({LATENTS: torch.zeros(1, 8, 1, 8, 6)}, r"\[1, 8, 1, 8, 6\]"),
        ({"others": torch.zeros(1)}, r"\[\]"),
    ],
    ids=["another size", "other channels", "another family's"],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    generator: Generator, checkpoint: dict[str, torch.Tensor], found: str
) -> None:
    with pytest.raises(ChunkError, match=rf"unit 0 must have .* \[1, 16, 'T', 8, 6\], not {found}") as raised:
        generator.start(units()[1], SETTINGS, [checkpoint])
    assert raised.value.reason is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("index", "message"),
    [(None, "no model_index.json"), ({"_class_name": "WanPipeline"}, "is a folder of WanPipeline; the family")],
    ids=["no pipeline folder", "another pipeline"],
)
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, index: dict[str, str] | None, message: str) -> None:
    if index is not None:
        (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        Generator(Parts(tmp_path, CPU, torch.float32))
