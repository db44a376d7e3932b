"""When a job that is stopped leaves what its unit has come to, and who goes on from that."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.runner.builders import Stored
from tests.runner.fakes import Time
from videojob.api.reasons import Reason
from videojob.api.videojob import StageSeconds
from videojob.families import FAMILIES, Chunking, FamilyName, Plan, Shot, Video
from videojob.runner.partials import Partials, goes_on
from videojob.runner.recipe import MadeUnit
from videojob.runner.stop import StoppedError
from videojob.runner.triton import TritonGoneError
from videojob.store import JobStore, Partial, StoreError, UnitRecord
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import Settings

SETTINGS = Settings("a cat", seed=7, width=48, height=32, fps=16.0, guidance_scale=1.0)
WEIGHTS = "sha256:1"


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (StoppedError(Reason.SUSPENDED, lost=False), True),
        (StoppedError(Reason.DRAINED, lost=False), True),
        (StoppedError(Reason.QUEUE_STOPPED, lost=False), True),
        (StoppedError("Preempted", lost=False), True),  # A reason of a later version.
        (StoppedError(Reason.CANCELLED, lost=False), False),
        (StoppedError(Reason.DELETED, lost=False), False),
        (StoppedError(Reason.DEADLINE_EXCEEDED, lost=False), False),
        (StoppedError(Reason.SUSPENDED, lost=True), False),
        (ChunkError(ErrorCode.MODEL_FAILED, "It failed."), True),  # Another stage: the sequence starts again.
        (TritonGoneError("It is gone."), False),
    ],
    ids=lambda value: str(value) if isinstance(value, Exception) else "",
)
def test_a_unit_is_kept_where_its_job_goes_on_later(error: Exception, kept: bool) -> None:
    assert goes_on(error) == kept


def plan(steps: int = 12) -> Plan:
    return FAMILIES[FamilyName.ANYFLOW_FAR].plan(Chunking(1, 3, 1, 6), Video((Shot(40),), 16, steps))


class Job:
    """A job whose units 0 and 1 are committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = JobStore(Stored(folder).store, "team", "u-1")
        self.time = Time()
        self.units: list[UnitRecord] = []

    async def commit(self, count: int, variant: bytes = b"") -> None:
        for index in range(count):
            made = await self.files.commit_unit(
                index=index, attempt=1, checkpoint=b"%d" % index + variant, stage_seconds={}
            )
            self.units.append(made.record)

    def partials(self, attempt: int, settings: Settings = SETTINGS, images: bytes = b"") -> Partials:
        """As an attempt has them; `images` says which its shot has."""
        return Partials(self.files, attempt, self.time.hold(), (settings,), lambda _: images)

    async def pause(self, attempt: int, step: int, **changes: Any) -> None:
        """Leave unit 2 after that step."""
        paused = MadeUnit(2, b"after %d" % step, StageSeconds(), step)
        given: dict[str, Any] = {"plan": plan(), "made": self.units, "weights": WEIGHTS, **changes}
        await self.partials(attempt).keep(given["plan"], given["made"], given["weights"], paused)

    @property
    def left(self) -> list[str]:
        return sorted(path.name.rpartition("-")[0] for path in self.folder.glob("team/u-1/partial/2/*"))


@pytest.fixture
async def job(tmp_path: Path) -> Job:
    job = Job(tmp_path)
    await job.commit(2)
    return job


async def test_the_next_attempt_goes_on_where_the_one_before_was_paused(job: Job) -> None:
    await job.pause(1, 5)
    await job.pause(2, 7)
    found = await job.partials(3).find(plan(), job.units, WEIGHTS)
    assert found == Partial(7, b"after 7")


@pytest.mark.parametrize(
    "change",
    [
        lambda job: (plan(), job.units[:1], WEIGHTS),
        lambda job: (plan(13), job.units, WEIGHTS),
        lambda job: (plan(), job.units, "sha256:2"),
        lambda job: (plan(), [job.units[0], job.units[0]], WEIGHTS),
    ],
    ids=["another unit", "another plan", "other weights", "other checkpoints"],
)
async def test_nobody_goes_on_from_what_was_made_from_something_else(
    job: Job, change: Callable[[Job], tuple[Plan, list[UnitRecord], str]]
) -> None:
    await job.pause(1, 5)
    assert await job.partials(2).find(*change(job)) is None
    other = Settings("a dog", seed=7, width=48, height=32, fps=16.0, guidance_scale=1.0)
    assert await job.partials(2, other).find(plan(), job.units, WEIGHTS) is None
    assert await job.partials(2, images=b"a fox").find(plan(), job.units, WEIGHTS) is None
    assert await job.partials(2).find(plan(), job.units, WEIGHTS) is not None


async def test_one_that_the_model_cannot_go_on_from_is_tried_once(job: Job) -> None:
    await job.pause(1, 5)
    attempt = job.partials(2)
    assert await attempt.find(plan(), job.units, WEIGHTS) is not None
    assert await attempt.find(plan(), job.units, WEIGHTS) is None


async def test_an_attempt_goes_on_from_what_it_has_left_itself(job: Job) -> None:
    """Its sequence failed at the decoder, and starts again."""
    attempt = job.partials(1)
    assert await attempt.find(plan(), job.units, WEIGHTS) is None
    for step in (3, 5):
        await attempt.keep(plan(), job.units, WEIGHTS, MadeUnit(2, b"after %d" % step, StageSeconds(), step))
        assert await attempt.find(plan(), job.units, WEIGHTS) == Partial(step, b"after %d" % step)
        assert await attempt.find(plan(), job.units, WEIGHTS) is None
    await attempt.committed(2)
    assert job.left == []


async def test_a_video_whose_units_are_made_goes_on_from_nothing(job: Job) -> None:
    short = FAMILIES[FamilyName.ANYFLOW_FAR].plan(Chunking(1, 3, 1, 6), Video((Shot(13),), 16, 12))
    assert len(short.units) == len(job.units)
    assert await job.partials(2).find(short, job.units, WEIGHTS) is None


@pytest.mark.parametrize("seconds", [0, 60], ids=["fresh", "cut off"])
async def test_it_goes_with_the_commit_of_its_unit_unless_the_runner_is_cut_off(job: Job, seconds: float) -> None:
    await job.pause(1, 5)
    attempt = job.partials(2)
    await attempt.find(plan(), job.units, WEIGHTS)
    job.time.seconds += seconds
    await attempt.committed(1)
    assert job.left == ["1-5"]
    await attempt.committed(2)
    assert job.left == (["1-5"] if seconds else [])


async def test_a_store_that_fails_costs_the_steps_and_nothing_else(job: Job) -> None:
    async def fail(*_: object) -> None:
        raise StoreError("the store is full", retryable=True)

    files = SimpleNamespace(partials=SimpleNamespace(find=fail, put=fail, discard=fail))
    attempt = Partials(cast("Any", files), 2, job.time.hold(), (SETTINGS,), lambda _: b"")
    assert await attempt.find(plan(), job.units, WEIGHTS) is None
    await attempt.keep(plan(), job.units, WEIGHTS, MadeUnit(2, b"after 5", StageSeconds(), 5))
    await attempt.committed(2)
