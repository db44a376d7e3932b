import pytest

from videojob.triton.contract import (
    ChunkError,
    ErrorCode,
    StageGoneError,
    chunk_error,
    load_failure,
    model_name,
    reason_of,
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "in ensemble 'tiny.video_chunk', PromptTooLong: The prompt has 601 tokens; this model takes at most 512.",
            (ErrorCode.PROMPT_TOO_LONG, "The prompt has 601 tokens; this model takes at most 512."),
        ),
        (
            "[StatusCode.INTERNAL] in ensemble 'm', ModelFailed: The denoiser failed: KeyError: 'a'\n",
            (ErrorCode.MODEL_FAILED, "The denoiser failed: KeyError: 'a'"),
        ),
        (
            "in ensemble 'm', inference request for sequence a-1 to model 'm.denoiser' must specify the START flag on "
            "the first request of the sequence",
            (ErrorCode.OUT_OF_SEQUENCE, "The server does not know this sequence; start it again from the last commit."),
        ),
        ("failed to connect to all addresses", None),
        ("NotCancelled: no", None),
        ("", None),
    ],
    ids=["ensemble", "colon in the sentence", "sequence unknown to Triton", "no server", "no reason", "empty"],
)
def test_reason_of(message: str, expected: tuple[ErrorCode, str] | None) -> None:
    assert reason_of(message) == expected


@pytest.mark.parametrize("reason", ErrorCode)
def test_every_reason_survives_the_wire(reason: ErrorCode) -> None:
    assert reason_of(f"in ensemble 'm', {ChunkError(reason, 'A sentence.')}") == (reason, "A sentence.")


@pytest.mark.parametrize(
    "message",
    [
        "in ensemble 'tiny.v1.video_chunk', Stub process 'tiny.v1.denoiser_0_0' is not healthy.",
        "Failed to process the request(s) for model instance 'tiny.v1.denoiser_0_0', message: Stub process "
        "'tiny.v1.denoiser_0_0' is not healthy.",
    ],
)
def test_a_stage_without_a_process_is_named(message: str) -> None:
    error = chunk_error(message, "tiny.denoiser")
    assert isinstance(error, StageGoneError)
    assert (error.reason, error.model) == (ErrorCode.STAGE_GONE, "tiny.v1.denoiser")


def test_a_stage_that_ends_because_of_its_accelerator_is_named() -> None:
    error = chunk_error("AcceleratorFailed: An illegal memory access was encountered.", "tiny.denoiser")
    assert isinstance(error, StageGoneError)
    assert (error.reason, error.model) == (ErrorCode.ACCELERATOR_FAILED, "tiny.denoiser")
    assert error.sentence == "An illegal memory access was encountered."


def test_any_other_error_is_the_models() -> None:
    assert chunk_error("in ensemble 'm', Cancelled: Stop.", "m.denoiser").reason is ErrorCode.CANCELLED
    assert str(chunk_error("shapes differ", "m.denoiser")) == "ModelFailed: shapes differ"


def test_model_names() -> None:
    assert model_name("tiny", "video_chunk") == "tiny.video_chunk"


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "load failed for model 'm.video_chunk': version 1 is at UNAVAILABLE state: Internal: FileNotFoundError: "
            "The folder is empty.\nAt:\n  model.py(39): initialize\n;",
            "The folder is empty.",
        ),
        ("failed to load 'm', no such model\n", "failed to load 'm', no such model"),
    ],
    ids=["python backend", "Triton itself"],
)
def test_a_load_failure_is_a_sentence_without_a_stack(message: str, sentence: str) -> None:
    assert load_failure(message) == sentence
