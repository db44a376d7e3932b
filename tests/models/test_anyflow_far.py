"""The family AnyFlow-FAR against diffusers' own pipeline, on real classes with random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnyFlowFARPipeline

from videojob.chunks import ChunkLayout, tail_chunks
from videojob.families import FAMILIES, FamilyName
from videojob.models.anyflow_far import Denoiser, TextEncoder, VideoDecoder
from videojob.models.noise import chunk_noise
from videojob.models.stages import to_uint8
from videojob.triton.contract import ChunkError, ErrorCode

CPU = torch.device("cpu")
LAYOUT = ChunkLayout(first_latents=1, latents=3, frames_per_latent=4)
HEIGHT, WIDTH = 64, 48
PROMPT = "a  cat &amp; a dog"

pytestmark = pytest.mark.usefixtures("one_thread")


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> Any:
    # diffusers has no types.
    pipeline = AnyFlowFARPipeline.from_pretrained(tiny_model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def text_encoder(tiny_model: Path) -> TextEncoder:
    return TextEncoder(tiny_model, CPU, torch.float32)


@pytest.fixture(scope="module")
def denoiser(tiny_model: Path) -> Denoiser:
    return Denoiser(tiny_model, CPU, torch.float32)


@pytest.fixture(scope="module")
def decoder(tiny_model: Path) -> VideoDecoder:
    return VideoDecoder(tiny_model, CPU, torch.float32)


def noise(denoiser: Denoiser, chunk: int) -> torch.Tensor:
    return chunk_noise(7, 0, chunk, denoiser.latent_shape(LAYOUT.chunk_latents(chunk), HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("guidance_scale", "steps"), [(1.0, 1), (1.0, 3), (4.0, 2)], ids=["one step", "three steps", "guided"]
)
def test_latents_equal_the_pipelines_while_every_chunk_is_remembered(
    pipeline: Any, text_encoder: TextEncoder, denoiser: Denoiser, guidance_scale: float, steps: int
) -> None:
    chunks = 5  # two more than the transformer keeps in full, so that compressed ones are among them
    expected = pipeline(
        PROMPT,
        height=HEIGHT,
        width=WIDTH,
        num_frames=LAYOUT.first_frame(chunks),
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        latents=torch.cat([noise(denoiser, chunk) for chunk in range(chunks)], dim=2),
        chunk_partition=[LAYOUT.chunk_latents(chunk) for chunk in range(chunks)],
        output_type="latent",
    ).frames

    texts = ["", PROMPT] if guidance_scale > 1 else [PROMPT]
    embeds = torch.cat([text_encoder.encode(text) for text in texts])
    made: list[torch.Tensor] = []
    for chunk in range(chunks):
        made.append(
            denoiser.denoise(
                embeds,
                made,
                noise(denoiser, chunk),
                steps=steps,
                guidance_scale=guidance_scale,
                cancelled=never,
            )
        )

    assert torch.equal(torch.cat(made, dim=2), expected)


@pytest.mark.parametrize("steps_before", [0, 1, 2])
def test_the_denoiser_stops_between_two_steps(
    text_encoder: TextEncoder, denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch, steps_before: int
) -> None:
    steps_made = 0
    step = denoiser._scheduler.step

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal steps_made
        steps_made += 1
        return step(*args, **kwargs)

    monkeypatch.setattr(denoiser._scheduler, "step", counted)
    with pytest.raises(ChunkError) as raised:
        denoiser.denoise(
            text_encoder.encode(PROMPT),
            [],
            noise(denoiser, 0),
            steps=8,
            guidance_scale=1.0,
            cancelled=lambda: steps_made >= steps_before,
        )
    assert raised.value.reason is ErrorCode.CANCELLED
    assert steps_made == steps_before


@pytest.mark.parametrize(("height", "width"), [(65, 64), (64, 40), (16, 64), (0, 0), (-16, 64)])
def test_a_size_the_model_cannot_make_is_refused(denoiser: Denoiser, height: int, width: int) -> None:
    with pytest.raises(ChunkError, match=f"not {width} x {height}") as raised:
        denoiser.latent_shape(3, height, width)
    assert raised.value.reason is ErrorCode.INVALID_REQUEST


def test_embeddings_equal_the_pipelines(pipeline: Any, text_encoder: TextEncoder) -> None:
    with torch.no_grad():  # as in the pipeline's call: recording gradients takes other kernels
        expected, _ = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False, max_sequence_length=512)
    assert torch.equal(text_encoder.encode(PROMPT), expected)


def test_a_prompt_at_the_token_limit_is_taken_and_one_beyond_is_refused_with_both_counts(
    text_encoder: TextEncoder,
) -> None:
    # The tiny tokenizer makes one token a byte and adds an end mark.
    assert text_encoder.encode("x" * 511).shape == (1, 512, 32)
    with pytest.raises(ChunkError, match=r"513 tokens.*at most 512") as raised:
        text_encoder.encode("x" * 512)
    assert raised.value.reason is ErrorCode.PROMPT_TOO_LONG


def random_latents(count: int, seed: int) -> torch.Tensor:
    return torch.randn(1, 16, count, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(seed))


def whole_clip(pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
    """Frames of the pipeline's own decoding, before they become images."""
    config = pipeline.vae.config
    mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)
    std = 1.0 / torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)
    with torch.no_grad():
        frames: torch.Tensor = pipeline.vae.decode(latents / std + mean).sample
    return frames


@pytest.mark.parametrize("sizes", [[1, 3, 3, 3], [4, 1, 5], [10]], ids=str)
def test_streaming_decode_equals_the_whole_clip_with_two_videos_interleaved(
    pipeline: Any, decoder: VideoDecoder, sizes: list[int]
) -> None:
    videos = [random_latents(sum(sizes), seed) for seed in (1, 2)]
    caches = [decoder.new_cache() for _ in videos]
    made: list[list[torch.Tensor]] = [[] for _ in videos]
    for pieces in zip(*(torch.split(video, sizes, dim=2) for video in videos), strict=True):
        for piece, cache, frames in zip(pieces, caches, made, strict=True):
            frames.append(decoder.decode(piece, cache, never))
    for video, frames in zip(videos, made, strict=True):
        assert torch.equal(torch.cat(frames, dim=2), whole_clip(pipeline, video))


@pytest.mark.parametrize("chunk", [1, 5, 15, 16])
def test_the_feature_cache_is_rebuilt_exactly_from_the_tail(decoder: VideoDecoder, chunk: int) -> None:
    latents = random_latents(LAYOUT.first_latent(chunk + 2), seed=3)
    first = LAYOUT.first_latent(chunk)
    tail_latents = FAMILIES[FamilyName.ANYFLOW_FAR].tail_latents
    tail_first = LAYOUT.first_latent(tail_chunks(chunk, LAYOUT, tail_latents)[0])

    unbroken = decoder.new_cache()
    decoder.decode(latents[:, :, :first], unbroken, never)
    rebuilt = decoder.new_cache()
    decoder.decode(latents[:, :, tail_first:first], rebuilt, never)

    expected = decoder.decode(latents[:, :, first:], unbroken, never)
    assert torch.equal(decoder.decode(latents[:, :, first:], rebuilt, never), expected)


def test_the_familys_tail_is_as_long_as_the_decoder_looks_back(decoder: VideoDecoder) -> None:
    assert decoder.look_back == FAMILIES[FamilyName.ANYFLOW_FAR].tail_latents


def test_the_decoder_stops_between_two_latents(decoder: VideoDecoder) -> None:
    asked = iter([False, False, True])
    with pytest.raises(ChunkError) as raised:
        decoder.decode(random_latents(5, seed=1), decoder.new_cache(), lambda: next(asked))
    assert raised.value.reason is ErrorCode.CANCELLED


def test_pixels_are_those_diffusers_makes(pipeline: Any) -> None:
    frames = torch.linspace(-1.3, 1.3, 3 * 2 * 16 * 16).view(1, 3, 2, 16, 16)
    images = pipeline.video_processor.postprocess_video(frames, output_type="np")[0]
    assert torch.equal(to_uint8(frames), torch.from_numpy((images * 255).round().astype("uint8")))


def test_the_same_folder_serves_in_bfloat16(tiny_model: Path, text_encoder: TextEncoder) -> None:
    denoiser = Denoiser(tiny_model, CPU, torch.bfloat16)
    latents = denoiser.denoise(
        text_encoder.encode(PROMPT), [], noise(denoiser, 0), steps=2, guidance_scale=1.0, cancelled=never
    )
    decoder = VideoDecoder(tiny_model, CPU, torch.bfloat16)
    frames = decoder.decode(latents, decoder.new_cache(), never)
    assert latents.dtype == frames.dtype == torch.bfloat16
    assert bool(torch.isfinite(frames).all())


@pytest.mark.parametrize(
    ("index", "message"),
    [(None, "no model_index.json"), ({"_class_name": "WanPipeline"}, "holds a WanPipeline")],
    ids=["no pipeline folder", "another pipeline"],
)
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, index: dict[str, str] | None, message: str) -> None:
    if index is not None:
        (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        Denoiser(tmp_path, CPU, torch.float32)
