"""The ensemble on a real tritonserver: same bytes whatever happens beside, before or in the middle of a sequence."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc
from diffusers import AnyFlowFARPipeline
from tritonclient.utils import InferenceServerException

from tests.triton.conftest import MODEL, MODEL_REPO
from tests.triton.server import JOB, Answer, Array, Server, Stream
from videojob.chunks import memory_chunks, tail_chunks
from videojob.models.anyflow_far import VideoDecoder
from videojob.models.noise import chunk_noise
from videojob.models.stages import to_uint8
from videojob.triton.contract import (
    DECODE_SECONDS,
    DENOISE_SECONDS,
    END_SEQUENCE,
    MEMORY,
    TAIL,
    TEXT_SECONDS,
    ErrorCode,
    load_failure,
)
from videojob.triton.repository import SPARE_CANDIDATES, render
from videojob.triton.settings import ModelSettings, ReplicaSettings

Open = Callable[..., Stream]

ENDLESS = 1_000_000
"""Denoising steps that no test outlives."""


def joined(latents: Sequence[Array]) -> Array:
    return np.concatenate(latents, axis=2)


def checkpoint(settings: ModelSettings, made: list[Answer], chunk: int) -> dict[str, Any]:
    """MEMORY and TAIL that start a sequence at `chunk`."""
    remembered = memory_chunks(chunk, settings.layout, settings.sink_latents, settings.window_latents)
    tail = tail_chunks(chunk, settings.layout, settings.traits.tail_latents)
    return {
        MEMORY: joined([made[index].latents for index in remembered]),
        TAIL: joined([made[index].latents for index in tail]),
    }


def same(made: list[Answer], expected: list[Answer]) -> bool:
    return all(
        np.array_equal(one.frames, other.frames) and np.array_equal(one.latents, other.latents)
        for one, other in zip(made, expected, strict=True)
    )


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> list[Answer]:
    """18 chunks of one job, made without interruption: longer than memory and the VAE's look back."""
    stream = Stream(server, MODEL, "undisturbed-1")
    made = stream.make(range(18))
    stream.end()
    stream.close()
    return made


@pytest.mark.usefixtures("one_thread")
def test_latents_are_the_pipelines_and_frames_those_of_the_whole_clip(
    undisturbed: list[Answer], settings: ModelSettings, tiny_model: Path
) -> None:
    layout, remembered = settings.layout, 4  # the first chunk that forgets one is the fifth
    pipeline = AnyFlowFARPipeline.from_pretrained(tiny_model, dtype=torch.float32)
    expected = pipeline(
        JOB["PROMPT"],
        height=JOB["HEIGHT"],
        width=JOB["WIDTH"],
        num_frames=layout.first_frame(remembered),
        num_inference_steps=JOB["STEPS"],
        latents=torch.cat(
            [chunk_noise(7, 0, chunk, (1, 16, layout.chunk_latents(chunk), 4, 6)) for chunk in range(remembered)], dim=2
        ),
        chunk_partition=[layout.chunk_latents(chunk) for chunk in range(remembered)],
        output_type="latent",
    ).frames
    latents = joined([answer.latents for answer in undisturbed])
    assert np.array_equal(latents[:, :, : expected.shape[2]], expected.numpy())

    decoder = VideoDecoder(tiny_model, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        normal = torch.from_numpy(latents) / decoder._inverse_std + decoder._mean
        whole_clip = to_uint8(decoder._vae.decode(normal).sample)
    frames = np.concatenate([answer.frames for answer in undisturbed])
    assert np.array_equal(frames, whole_clip.numpy())


def test_a_prompt_is_encoded_once_and_every_stage_reports_its_seconds(stream: Open) -> None:
    answers = stream(PROMPT="a prompt nobody used before").make(range(2))
    text = [answer.seconds(TEXT_SECONDS) for answer in answers]
    assert text[0] > 0
    assert text[1] == 0
    assert all(answer.seconds(name) > 0 for answer in answers for name in (DENOISE_SECONDS, DECODE_SECONDS))


def test_two_jobs_interleaved_give_what_each_gives_alone(stream: Open, undisturbed: list[Answer]) -> None:
    other_job = {"SEED": 8, "PROMPT": "a dog", "WIDTH": 32, "GUIDANCE_SCALE": 3.0}
    alone = stream("alone", **other_job).make(range(5))
    first, second = stream("first"), stream("second", **other_job)
    made: tuple[list[Answer], list[Answer]] = ([], [])
    for chunk in range(5):
        first.send(chunk)
        second.send(chunk)
        if chunk:
            made[0].append(first.answer())
            made[1].append(second.answer())
    assert same([*made[0], first.answer()], undisturbed[:5])
    assert same([*made[1], second.answer()], alone)


@pytest.mark.parametrize("chunk", [1, 3, 15])
def test_a_resumed_sequence_gives_the_same_bytes(
    stream: Open, undisturbed: list[Answer], settings: ModelSettings, chunk: int
) -> None:
    resumed = stream()
    resumed.send(chunk, start=True, **checkpoint(settings, undisturbed, chunk))
    resumed.send(chunk + 1)
    made = [resumed.answer(), resumed.answer(), *resumed.make([chunk + 2])]
    assert same(made, undisturbed[chunk : chunk + 3])


@pytest.mark.parametrize("broken", [MEMORY, TAIL], ids=["denoiser fails", "VAE fails"])
def test_after_a_failed_chunk_the_one_in_flight_is_refused_and_a_restart_gives_the_right_bytes(
    stream: Open, undisturbed: list[Answer], settings: ModelSettings, broken: str
) -> None:
    job = stream()
    inputs = checkpoint(settings, undisturbed, 2)
    job.send(2, start=True, **{**inputs, broken: np.full_like(inputs[broken], np.nan)})
    job.send(3)
    assert [job.answer().reason, job.answer().reason] == [ErrorCode.MODEL_FAILED, ErrorCode.OUT_OF_SEQUENCE]
    job.end()

    job.send(2, start=True, **inputs)
    job.send(3)
    assert same([job.answer(), job.answer()], undisturbed[2:4])


def test_a_prompt_beyond_the_limit_is_refused_with_both_counts(stream: Open) -> None:
    job = stream(PROMPT="x" * 600)
    job.send(0)
    job.send(1)
    first, second = job.answer(), job.answer()
    assert first.reason is ErrorCode.PROMPT_TOO_LONG
    assert "601 tokens" in first.message
    assert "at most 512" in first.message
    assert "Traceback" not in first.message
    assert second.reason in {ErrorCode.PROMPT_TOO_LONG, ErrorCode.OUT_OF_SEQUENCE}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"WIDTH": 40}, "multiples of 16"),
        ({"STEPS": 0}, "STEPS is 0"),
        ({"PROMPT": b"\xff\xfe"}, "PROMPT is not valid UTF-8"),
        ({"CHUNK": -2}, "CHUNK is -2"),
        ({MEMORY: np.zeros((1, 16, 1, 4, 6), np.float32)}, "MEMORY of shape"),
        ({TAIL: np.zeros((1, 16, 1, 4, 6), np.float32)}, "needs a TAIL of 0 to 0 latents, not 1"),
    ],
    ids=["size", "steps", "prompt", "chunk", "memory", "tail"],
)
def test_a_request_that_makes_no_sense_is_refused_with_a_sentence(
    stream: Open, inputs: dict[str, Any], words: str
) -> None:
    job = stream()
    job.send(0, **inputs)
    answer = job.answer()
    assert answer.reason is ErrorCode.INVALID_REQUEST
    assert words in answer.message


def test_a_cancel_stops_denoising_and_the_id_is_free_again_after_end(
    stream: Open, undisturbed: list[Answer], control_dir: Path
) -> None:
    job = stream()
    # The chunk before is decoded while this one is denoised, which would never end by itself.
    job.send(0)
    job.send(1, STEPS=ENDLESS)
    job.send(2)
    assert same([job.answer()], undisturbed[:1])
    assert job.cancel()
    assert job.answer().reason is ErrorCode.CANCELLED
    assert job.answer().reason is ErrorCode.OUT_OF_SEQUENCE
    assert len(list(control_dir.glob("*.cancelled"))) == 1

    ended = job.end()
    assert ended.frames.size == ended.latents.size == 0
    assert not list(control_dir.glob("*.cancelled"))
    assert same(job.make(range(2)), undisturbed[:2])


def test_end_frees_the_sequence(stream: Open) -> None:
    job = stream()
    job.make([0])
    job.end()
    job.send(1)
    assert job.answer().reason is ErrorCode.OUT_OF_SEQUENCE


def test_sequences_that_were_ended_leave_no_place_taken(server: Server, undisturbed: list[Answer]) -> None:
    # More than there are places: if one leaked with each sequence, the last ones would wait for ever.
    for index in range(ReplicaSettings(control_dir="").max_sequences + SPARE_CANDIDATES + 3):
        job = Stream(server, MODEL, f"short-{index}-1", WIDTH=32, STEPS=1)
        job.send(0)
        assert job.answer().frames.shape == (1, 32, 32, 3)
        job.end()
        job.close()


def test_the_last_chunk_ends_its_sequence(stream: Open, undisturbed: list[Answer]) -> None:
    job = stream()
    job.send(0)
    job.send(1, end=True)
    assert same([job.answer(), job.answer()], undisturbed[:2])
    job.send(2)
    assert job.answer().reason is ErrorCode.OUT_OF_SEQUENCE


def test_an_end_needs_no_living_sequence(stream: Open) -> None:
    assert stream().end().reason is None


def test_an_end_without_start_works_on_a_living_sequence(stream: Open) -> None:
    job = stream()
    job.make([0])
    job.send(END_SEQUENCE, end=True)
    assert job.answer().frames.size == 0


def test_a_model_that_cannot_be_loaded_reports_why(server: Server, settings: ModelSettings, tmp_path: Path) -> None:
    broken = ModelSettings(**{**settings.__dict__, "name": "broken", "directory": str(tmp_path)})
    name = render(MODEL_REPO, server.repository, broken, ReplicaSettings(str(tmp_path / "control")), "cpu")
    with grpc.InferenceServerClient(server.grpc) as client, pytest.raises(InferenceServerException) as raised:
        client.load_model(name)
    assert load_failure(str(raised.value)) == f"{tmp_path} is no diffusers pipeline folder: it has no model_index.json."
