"""What an attempt leaves behind where the replica fails whatever it gets, and where the job may be the cause."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.runner.builders import SMALL, assigned_job
from tests.runner.test_attempt import World
from videojob.runner import attempt as attempt_module
from videojob.runner import video as video_module
from videojob.runner.video import RESTARTS, Video
from videojob.triton.contract import ErrorCode, chunk_error


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, assigned_job())


class Loaded:
    """A `Serving` that has the model, and keeps what it is to repair."""

    def __init__(self) -> None:
        self.repaired: list[str] = []

    async def take(self, *_: Any) -> Any:
        weights = "sha256:" + "0" * 64
        return SimpleNamespace(model=SimpleNamespace(metadata=SimpleNamespace(uid=SMALL.model_uid)), digest=weights)

    def give_back(self, served: Any) -> None:
        """It is there anyway."""

    def repair(self, name: str, stage: str) -> None:
        self.repaired.append(stage)


@pytest.mark.parametrize(
    ("code", "sequences", "left"),
    [
        (ErrorCode.ACCELERATOR_FAILED, 3, ("AcceleratorFailed", 1, 0)),
        (ErrorCode.STAGE_GONE, RESTARTS + 1, ("TritonUnavailable", 1, 0)),
        (ErrorCode.MODEL_FAILED, RESTARTS + 1, ("ChunkFailed", 0, 1)),
    ],
)
async def test_what_a_job_is_left_with_whose_every_sequence_fails(
    world: World, monkeypatch: pytest.MonkeyPatch, code: ErrorCode, sequences: int, left: tuple[str, int, int]
) -> None:
    """Only what the job may have caused counts against it; a broken accelerator is left after three sequences."""
    tried = 0

    class Fails(Video):
        async def _settle_weights(self, served: Any) -> None:
            """They are the right ones."""

        async def _run_sequence_on(self, served: Any) -> None:
            nonlocal tried
            tried += 1
            world.time.seconds += 0.1
            raise chunk_error(f"{code}: It is broken.", "tiny.denoiser")

    monkeypatch.setattr(attempt_module, "Video", Fails)
    monkeypatch.setattr(video_module, "FIRST_PAUSE", 0.01)
    world.serving = loaded = Loaded()

    await world.run()

    assert tried == sequences
    status = world.api.status
    assert (status["reason"], status["handBacks"], status["failures"]) == left
    assert loaded.repaired == ["tiny.denoiser"] * (3 if code is ErrorCode.ACCELERATOR_FAILED else 0)


async def test_a_job_is_handed_back_that_fails_where_others_have_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails two jobs is none of their fault: the second one has no failure."""

    class Fails(Video):
        async def _settle_weights(self, served: Any) -> None:
            for _ in range(RESTARTS):
                world.time.seconds += 1
                world.judge.failed("another", chunk_error("ModelFailed: It is broken.", ""), world.time.seconds - 0.5)
            world.time.seconds += 1
            self._spent.sequence_began = world.time.seconds - 0.5

        async def _run_sequence_on(self, served: Any) -> None:
            raise chunk_error("ModelFailed: It is broken.", "tiny.denoiser")

    monkeypatch.setattr(attempt_module, "Video", Fails)
    world.serving = Loaded()

    await world.run()

    status = world.api.status
    assert (status["reason"], status["failures"]) == ("AcceleratorFailed", 0)
    assert status["failedOn"] == {"pool": "p", "replica": "r"}
