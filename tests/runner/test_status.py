"""When a status is written, by whom, and what becomes of a write that fails."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.runner.builders import OWNER, assigned_job, wire
from tests.runner.fakes import FORBIDDEN, INVALID, SILENT, Api, Time
from videojob.api import transitions
from videojob.api.videojob import VideoJobStatus
from videojob.kube.client import KubeError
from videojob.runner import status as status_module
from videojob.runner.hold import Hold
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.status import Generation, JobLostError, StatusWriter, Throttle

NEVER = 3600.0


@pytest.mark.parametrize(
    ("writes", "now", "wait"),
    [
        pytest.param([], 5.0, 0.0, id="the first one at once"),
        pytest.param([5.0], 5.0, 1.0, id="the next one a second later"),
        pytest.param([5.0], 5.75, 0.25, id="less what has passed"),
        pytest.param([5.0], 7.0, 0.0, id="at once after a pause"),
        pytest.param([5.0, 7.0], 7.5, 0.5, id="the last write counts"),
    ],
)
def test_throttle(writes: list[float], now: float, wait: float) -> None:
    throttle = Throttle(1.0)
    for time in writes:
        throttle.wrote(time)

    assert throttle.wait(now) == wait


class Writing:
    """A writer, its clock, its hold on the Lease and its API server."""

    def __init__(self) -> None:
        self.time = Time()
        self.hold: Hold = self.time.hold()
        job = assigned_job()
        self.api = Api(wire(job))
        self.generation = Generation(1)
        self.lost: list[str] = []
        metrics = RunnerMetrics(CollectorRegistry(), "p", "r")
        self.writer = StatusWriter(
            self.api.client, self.time.clock, metrics, job, OWNER, self.hold, self.generation, self.lost.append
        )
        self.writer.status = running(job.status)

    def cut_off_and_back(self) -> None:
        """A minute without a renewal, and then one."""
        self.time.seconds += 60
        self.hold.renew(self.time.seconds)


def running(status: VideoJobStatus) -> VideoJobStatus:
    return transitions.running(status, now=Time().start, generation=1)


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Writing:
    """One that tries again without pauses."""
    monkeypatch.setattr(status_module, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(status_module, "LONGEST_PAUSE", 0.0)
    return Writing()


async def test_a_fresh_runner_writes_without_a_question(writing: Writing) -> None:
    await writing.writer.write()

    assert writing.api.requests == ["PATCH"]
    assert writing.api.status["phase"] == "Running"


async def test_one_that_is_cut_off_asks_for_nothing_until_it_is_back_and_then_reads_first(writing: Writing) -> None:
    writing.time.seconds += 60
    waiting = asyncio.create_task(writing.writer.write())
    for _ in range(10):
        await asyncio.sleep(0)
    assert writing.api.requests == []

    writing.hold.renew(writing.time.seconds)
    await asyncio.wait_for(waiting, 5)
    assert writing.api.requests == ["GET", "PATCH"]

    writing.writer.status = writing.writer.status.model_copy(update={"failures": 1})
    await writing.writer.write()
    assert writing.api.requests == ["GET", "PATCH", "PATCH"], "it reads once for each gap"


def _reassign(job: dict[str, Any]) -> None:
    job["status"] |= {"attempts": 2, "assignment": {"pool": "p", "replica": "other"}}


def _take_back(job: dict[str, Any]) -> None:
    del job["status"]["assignment"]


def _remake(job: dict[str, Any]) -> None:
    job["metadata"]["uid"] = "u-2"


@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param(_reassign, id="another replica has it"),
        pytest.param(_take_back, id="nobody has it"),
        pytest.param(_remake, id="it is another job of that name"),
        pytest.param(lambda job: job.clear(), id="it was deleted"),
    ],
)
async def test_what_was_lost_during_the_cut_is_not_written_to(
    writing: Writing, meanwhile: Callable[[dict[str, Any]], None]
) -> None:
    writing.cut_off_and_back()
    meanwhile(writing.api.job)

    with pytest.raises(JobLostError):
        await writing.writer.write()
    assert writing.api.requests == ["GET"]


async def test_one_that_is_cut_off_for_too_long_has_lost_the_job(writing: Writing) -> None:
    writing.time.seconds += NEVER

    with pytest.raises(JobLostError, match="1800 s"):
        await writing.writer.write()
    with pytest.raises(JobLostError, match="1800 s"):
        writing.writer.check()
    assert writing.api.requests == []


async def test_a_job_of_a_newer_schema_is_still_ours(writing: Writing) -> None:
    writing.api.job["status"]["phase"] = "Paused"
    writing.cut_off_and_back()

    await writing.writer.write()

    assert writing.api.status["phase"] == "Running"


async def test_a_patch_whose_answer_was_lost_is_no_conflict(writing: Writing) -> None:
    """It removes a field that is gone by then, which reads like a fence that does not hold."""
    estimated = writing.writer.status.model_copy(update={"estimated_completion_time": Time().start})
    writing.writer.status = estimated
    await writing.writer.write()
    writing.api.lose_answers = 1
    writing.writer.status = estimated.model_copy(update={"estimated_completion_time": None, "failures": 1})

    await writing.writer.write()

    assert "estimatedCompletionTime" not in writing.api.status
    assert writing.api.status["failures"] == 1
    assert writing.lost == []


async def test_a_release_that_was_asked_for_meanwhile_is_not_written_over(writing: Writing) -> None:
    writing.cut_off_and_back()
    writing.api.status["assignment"]["release"] = "Cancelled"

    await writing.writer.write()

    assert writing.api.status["assignment"] == {"pool": "p", "replica": "r", "release": "Cancelled"}


async def test_every_condition_carries_the_newest_generation_that_the_watch_has_shown(writing: Writing) -> None:
    writing.generation.see(7)
    writing.generation.see(6)

    await writing.writer.write()

    assert writing.api.status["observedGeneration"] == 7
    assert {condition["observedGeneration"] for condition in writing.api.status["conditions"]} == {7}


async def test_a_new_generation_alone_is_written_soon(writing: Writing) -> None:
    await writing.writer.write()
    writing.time.seconds += 5
    run = asyncio.create_task(writing.writer.run())
    await asyncio.sleep(0)
    writing.generation.see(2)

    async with asyncio.timeout(5):
        while writing.api.status["observedGeneration"] != 2:  # noqa: ASYNC110 - another task writes it
            await asyncio.sleep(0.001)
    run.cancel()


async def test_silence_is_waited_out_and_no_answer_counts_as_refusal(writing: Writing) -> None:
    writing.api.answers.extend([SILENT] * 100)

    await writing.writer.write()

    assert writing.api.status["phase"] == "Running"


async def test_rights_that_come_back_in_time(writing: Writing) -> None:
    writing.api.answers.extend([FORBIDDEN] * 20)

    await writing.writer.write(forbidden_too=True)

    assert writing.api.status["phase"] == "Running"


@pytest.mark.parametrize(
    ("error", "forbidden_too", "tries"),
    [
        pytest.param(FORBIDDEN, False, 1, id="progress that is forbidden is made up for by the next one"),
        pytest.param(INVALID, True, 1, id="what is invalid stays invalid"),
        pytest.param(FORBIDDEN, True, 9, id="rights that do not come back"),
        pytest.param(KubeError(500, "a webhook is down"), True, 9, id="an error for an answer each time"),
    ],
)
async def test_what_is_refused_for_good_ends(
    writing: Writing, error: KubeError, forbidden_too: bool, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try takes five seconds here, and the Lease is renewed meanwhile."""
    writing.api.always = error
    patch = writing.api.json_patch

    async def slow(*arguments: Any) -> Any:
        writing.time.seconds += 5
        writing.hold.renew(writing.time.seconds)
        return await patch(*arguments)

    monkeypatch.setattr(status_module, "REFUSED_SECONDS", 40.0)
    monkeypatch.setattr(writing.api, "json_patch", slow)

    with pytest.raises(KubeError):
        await writing.writer.write(forbidden_too=forbidden_too)
    assert writing.api.requests.count("PATCH") == tries


async def test_nobody_owns_a_job_that_was_given_away(writing: Writing) -> None:
    assert await writing.writer.owned()
    _reassign(writing.api.job)
    assert not await writing.writer.owned()

    writing.hold.lose("another runner has taken it")
    with pytest.raises(JobLostError, match="another runner"):
        await writing.writer.owned()
