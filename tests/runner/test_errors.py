"""What each error means for the job, and after which of them a sequence is run again."""

import pytest

from videojob.api.reasons import Reason
from videojob.media import DiskError, MediaError
from videojob.runner.drifting import DriftedError
from videojob.runner.errors import End, HandBackError, Outcome, outcome, restartable
from videojob.runner.images import ImageRefusedError
from videojob.runner.triton import TritonGoneError, TritonRefusedError
from videojob.store import CorruptObject, StoreError
from videojob.triton.contract import ChunkError, ErrorCode, StageGoneError

R, F, X = End.RETURNED, End.FAILED, End.FINAL


@pytest.mark.parametrize(
    ("error", "end", "reason", "message", "again"),
    [
        (HandBackError(Reason.WEIGHTS_CHANGED, "Others."), R, Reason.WEIGHTS_CHANGED, "Others.", False),
        (TritonGoneError("It is gone."), R, Reason.TRITON_UNAVAILABLE, "Replica r: It is gone.", True),
        (TritonRefusedError("No."), R, Reason.TRITON_UNAVAILABLE, "Replica r: No.", True),
        (StageGoneError("m.denoiser"), R, Reason.TRITON_UNAVAILABLE, None, True),
        (ChunkError(ErrorCode.SUPERSEDED, "Another."), R, Reason.TRITON_UNAVAILABLE, "Another.", False),
        (ChunkError(ErrorCode.ACCELERATOR_FAILED, "ECC."), R, Reason.ACCELERATOR_FAILED, "ECC.", True),
        (ChunkError(ErrorCode.MODEL_FAILED, "NaN."), F, Reason.CHUNK_FAILED, "NaN.", True),
        (ChunkError(ErrorCode.OUT_OF_MEMORY, "Too large."), F, Reason.OUT_OF_MEMORY, "Too large.", True),
        (ChunkError(ErrorCode.PROMPT_TOO_LONG, "Long."), X, Reason.PROMPT_TOO_LONG, "Long.", False),
        (ChunkError(ErrorCode.INVALID_REQUEST, "Odd."), X, Reason.INVALID_REQUEST, "Odd.", False),
        (StoreError("It is full.", retryable=True), R, Reason.STORE_UNAVAILABLE, "It is full.", False),
        (CorruptObject("It is torn."), F, Reason.STORE_CORRUPT, "It is torn.", False),
        (DiskError("It is full."), R, Reason.DISK_UNAVAILABLE, "Replica r: It is full.", False),
        (ImageRefusedError(Reason.IMAGE_INVALID, "No PNG."), X, Reason.IMAGE_INVALID, "No PNG.", False),
        (ImageRefusedError(Reason.IMAGE_NOT_FOUND, "Gone."), X, Reason.IMAGE_NOT_FOUND, "Gone.", False),
        (DriftedError("Too far."), X, Reason.DRIFTED_TOO_FAR, "Too far.", False),
        (MediaError("No frames."), F, Reason.RUNNER_ERROR, "No frames.", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_an_error_means(error: Exception, end: End, reason: Reason, message: str | None, again: bool) -> None:
    found = outcome(error, "r")

    assert found is not None
    assert found == Outcome(end, reason, found.message if message is None else message)
    assert restartable(error) is again


def test_an_error_that_nobody_has_thought_of_is_known_as_that() -> None:
    assert outcome(KeyError("shape"), "r") is None
    assert not restartable(KeyError("shape"))


def test_every_code_of_a_stage_means_something() -> None:
    assert all(outcome(ChunkError(code, "Why."), "r") is not None for code in ErrorCode)
