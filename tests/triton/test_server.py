"""The ensemble on a real tritonserver: same bytes whatever happens beside, before or in the middle of a sequence."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc
from diffusers import AnyFlowFARPipeline
from safetensors.torch import load, save
from tritonclient.utils import InferenceServerException

from tests.models.fixtures import whole_clip
from tests.triton.conftest import MODEL, MODEL_REPO
from tests.triton.server import PLAN, SETTINGS, STEPS, Answer, Server, Stream
from videojob.models.frames import to_uint8
from videojob.models.history import LATENTS
from videojob.models.noise import Noise
from videojob.models.runtime import DTYPES
from videojob.triton.contract import (
    DECODE_REPORT,
    DENOISE_REPORT,
    TEXT_REPORT,
    ErrorCode,
    Mark,
    Precision,
    load_failure,
)
from videojob.triton.repository import SPARE_CANDIDATES, render
from videojob.triton.settings import ModelSettings, ReplicaSettings
from videojob.triton.wire import UnitRequest

Open = Callable[..., Stream]

ENDLESS = 1_000_000
"""Denoising steps that no test outlives."""


def past_of(made: Sequence[Answer], index: int) -> dict[int, bytes]:
    """The checkpoints that start a sequence at a unit."""
    unit = PLAN.units[index]
    return {earlier: made[earlier].checkpoint for earlier in sorted({*unit.needs, *unit.decode})}


def broken(past: dict[int, bytes], indexes: Iterable[int]) -> dict[int, bytes]:
    """With latents of these units that are not numbers."""
    nothing = {index: save({LATENTS: load(past[index])[LATENTS] * torch.nan}) for index in indexes}
    return {**past, **nothing}


def same(made: list[Answer], expected: list[Answer]) -> bool:
    return all(
        np.array_equal(one.frames, other.frames) and one.checkpoint == other.checkpoint
        for one, other in zip(made, expected, strict=True)
    )


@pytest.fixture(scope="module", params=get_args(Precision))
def precision(request: pytest.FixtureRequest) -> Precision:
    """Of the model: production runs in bfloat16."""
    found: Precision = request.param
    return found


@pytest.fixture(scope="module")
def served(server: Server, settings: ModelSettings, control_dir: Path, precision: Precision) -> str:
    """The tiny model in that precision."""
    if precision == settings.precision:
        return MODEL
    other = replace(settings, name=f"{MODEL}-{precision}", precision=precision)
    name = render(MODEL_REPO, server.repository, other, ReplicaSettings(str(control_dir)), "cpu")
    with grpc.InferenceServerClient(server.grpc) as client:
        client.load_model(name)
    return other.name


@pytest.fixture(scope="module")
def undisturbed(server: Server, served: str) -> list[Answer]:
    """18 units of one job, made without interruption: longer than memory and the VAE's look back."""
    stream = Stream(server, served, "undisturbed-1")
    made = stream.make(range(18))
    stream.end()
    stream.close()
    return made


@pytest.mark.usefixtures("one_thread")
def test_latents_are_the_pipelines_and_frames_those_of_the_whole_clip(
    undisturbed: list[Answer], tiny_model: Path, precision: Precision
) -> None:
    remembered = PLAN.units[:4]  # the first unit that forgets one is the fifth
    pipeline = AnyFlowFARPipeline.from_pretrained(tiny_model, dtype=DTYPES[precision])
    expected = pipeline(
        SETTINGS.prompt,
        height=SETTINGS.height,
        width=SETTINGS.width,
        num_frames=remembered[-1].frames.stop,
        num_inference_steps=STEPS,
        latents=torch.cat([Noise(7, 0, unit.index)((1, 16, len(unit.latents), 4, 6)) for unit in remembered], dim=2),
        chunk_partition=[len(unit.latents) for unit in remembered],
        output_type="latent",
    ).frames
    latents = torch.cat([load(answer.checkpoint)[LATENTS] for answer in undisturbed], dim=2)
    assert torch.equal(latents[:, :, : expected.shape[2]], expected)

    frames = np.concatenate([answer.frames for answer in undisturbed])
    assert np.array_equal(frames, to_uint8(whole_clip(pipeline, latents)).numpy())


def test_a_prompt_is_encoded_once_and_every_stage_reports_its_seconds(stream: Open) -> None:
    answers = stream(prompt="a prompt nobody used before").make(range(2))
    text = [answer.seconds(TEXT_REPORT) for answer in answers]
    assert text[0] > 0
    assert text[1] == 0
    assert all(answer.seconds(name) > 0 for answer in answers for name in (DENOISE_REPORT, DECODE_REPORT))


def test_two_jobs_interleaved_give_what_each_gives_alone(stream: Open, undisturbed: list[Answer]) -> None:
    other_job = {"seed": 8, "prompt": "a dog", "width": 32, "guidance_scale": 3.0}
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


@pytest.mark.parametrize("index", [1, 3, 15])
def test_a_resumed_sequence_gives_the_same_bytes(stream: Open, undisturbed: list[Answer], index: int) -> None:
    resumed = stream()
    resumed.send(index, start=True, past=past_of(undisturbed, index))
    resumed.send(index + 1)
    made = [resumed.answer(), resumed.answer(), *resumed.make([index + 2])]
    assert same(made, undisturbed[index : index + 3])


@pytest.mark.parametrize(
    ("index", "units"), [(2, [0, 1]), (15, range(2, 10))], ids=["denoiser fails", "the decoder alone fails"]
)
def test_after_a_failed_unit_the_one_in_flight_is_refused_and_a_restart_gives_the_right_bytes(
    stream: Open, undisturbed: list[Answer], index: int, units: Sequence[int]
) -> None:
    job = stream()
    past = past_of(undisturbed, index)
    job.send(index, start=True, past=broken(past, units))
    job.send(index + 1)
    failed, refused = job.answer(), job.answer()
    assert (failed.reason, refused.reason) == (ErrorCode.MODEL_FAILED, ErrorCode.OUT_OF_SEQUENCE), failed.message
    job.end()

    job.send(index, start=True, past=past)
    job.send(index + 1)
    assert same([job.answer(), job.answer()], undisturbed[index : index + 2])


def test_a_prompt_beyond_the_limit_is_refused_with_both_counts(stream: Open) -> None:
    job = stream(prompt="x" * 600)
    job.send(0)
    job.send(1)
    first, second = job.answer(), job.answer()
    assert first.reason is ErrorCode.PROMPT_TOO_LONG
    assert "601 tokens" in first.message
    assert "at most 512" in first.message
    assert "Traceback" not in first.message
    assert second.reason in {ErrorCode.PROMPT_TOO_LONG, ErrorCode.OUT_OF_SEQUENCE}


@pytest.mark.parametrize(
    ("request_", "past", "words"),
    [
        (UnitRequest(PLAN.units[0], replace(SETTINGS, width=40)).to_json(), [], "multiples of 16"),
        (b'{"unit": {}}', [], "REQUEST is no request of version 2: unit.index: Field required"),
        (UnitRequest(PLAN.units[3], SETTINGS).to_json(), [], r"needs the checkpoints of the units [0, 1, 2]"),
        (UnitRequest(PLAN.units[1], SETTINGS, (0,)).to_json(), [b"text"], "PAST is no safetensors file"),
    ],
    ids=["size", "no request", "no past", "past"],
)
def test_a_request_that_makes_no_sense_is_refused_with_a_sentence(
    stream: Open, request_: bytes, past: list[bytes], words: str
) -> None:
    job = stream()
    job.send_raw(request_, 0, start=True, end=False, past=past)
    answer = job.answer()
    assert answer.reason is ErrorCode.INVALID_REQUEST
    assert words in answer.message


@pytest.mark.parametrize("mark", [(), (Mark.CANCEL,), (Mark.PAUSE,)], ids=["no kind", *Mark])
def test_a_mark_stops_denoising_and_the_id_is_free_again_after_end(
    stream: Open, undisturbed: list[Answer], control_dir: Path, mark: tuple[Mark, ...]
) -> None:
    """Through the ensemble a pause is a cancel: nothing is decoded of what was paused."""
    others = set(control_dir.glob("*.mark"))
    job = stream()
    # The unit before is decoded while this one is denoised, which would never end by itself.
    job.send(0)
    job.send(1, steps=ENDLESS)
    job.send(2)
    assert same([job.answer()], undisturbed[:1])
    assert job.mark(*mark)
    assert job.answer().reason is ErrorCode.CANCELLED
    assert job.answer().reason is ErrorCode.OUT_OF_SEQUENCE
    assert len(set(control_dir.glob("*.mark")) - others) == 1

    ended = job.end()
    assert (ended.frames.size, ended.checkpoint) == (0, b"")
    assert not set(control_dir.glob("*.mark")) - others
    assert same(job.make(range(2)), undisturbed[:2])


def test_a_mark_of_an_unknown_kind_is_refused(stream: Open) -> None:
    with pytest.raises(InferenceServerException, match="InvalidRequest: MARK must be cancel or pause, not 'stop'"):
        stream().mark("stop")


def test_a_partial_checkpoint_comes_with_the_number_of_its_steps(stream: Open) -> None:
    job = stream()
    wanted = UnitRequest(PLAN.units[0], SETTINGS).to_json()
    job.send_raw(wanted, 0, start=True, end=False, partial=[save({LATENTS: torch.zeros(1, 16, 1, 4, 6)})])
    answer = job.answer()
    assert answer.reason is ErrorCode.INVALID_REQUEST
    assert "PARTIAL and resume of REQUEST come together" in answer.message


def test_end_frees_the_sequence(stream: Open) -> None:
    job = stream()
    job.make([0])
    job.end()
    job.send(1)
    assert job.answer().reason is ErrorCode.OUT_OF_SEQUENCE


def test_sequences_that_were_ended_leave_no_place_taken(server: Server, served: str) -> None:
    # More than there are places: if one leaked with each sequence, the last ones would wait for ever.
    for index in range(ReplicaSettings(control_dir="").max_sequences + SPARE_CANDIDATES + 3):
        job = Stream(server, served, f"short-{index}-1", width=32)
        job.send(0, steps=1)
        assert job.answer().frames.shape == (1, 32, 32, 3)
        job.end()
        job.close()


def test_the_last_unit_ends_its_sequence(stream: Open, undisturbed: list[Answer]) -> None:
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
    assert job.end(start=False).frames.size == 0


def test_a_model_that_cannot_be_loaded_reports_why(server: Server, settings: ModelSettings, tmp_path: Path) -> None:
    broken = replace(settings, name="broken", directory=str(tmp_path))
    name = render(MODEL_REPO, server.repository, broken, ReplicaSettings(str(tmp_path / "control")), "cpu")
    with grpc.InferenceServerClient(server.grpc) as client, pytest.raises(InferenceServerException) as raised:
        client.load_model(name)
    assert load_failure(str(raised.value)) == f"{tmp_path} is no diffusers pipeline folder: it has no model_index.json."
