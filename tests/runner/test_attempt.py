"""What an attempt leaves behind, whatever the API server, the store and the clock do to its end."""

import asyncio
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from tests.runner.builders import OWNER, SMALL, NoModel, Stored, assigned_job, commit, made, wire
from tests.runner.fakes import FORBIDDEN, INVALID, Api, Time
from videojob.api.videojob import VideoJob
from videojob.runner import attempt as attempt_module
from videojob.runner import status as status_module
from videojob.runner import video as video_module
from videojob.runner.accounting import Checkpoints
from videojob.runner.attempt import Attempt
from videojob.runner.judge import Judge
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.status import Generation
from videojob.runner.stop import Stop
from videojob.runner.triton import TritonGoneError, TritonRefusedError
from videojob.runner.video import RESTARTS, Video
from videojob.store import JobStore

PATIENCE = 30.0


class World:
    """One attempt, with an API server, a store and a clock of the test's own."""

    def __init__(self, folder: Path, job: VideoJob) -> None:
        self.folder = folder
        self.time = Time()
        self.job = job
        self.hold = self.time.hold()
        self.api = Api(wire(job))
        self.store = Stored(folder)
        self.serving: Any = NoModel()
        self.stop = Stop()
        self.generation = Generation(1)
        self.registry = CollectorRegistry()
        self.slot_free = asyncio.Event()

    def free_slot(self) -> None:
        self.slot_free.set()

    @property
    def files(self) -> JobStore:
        return JobStore(self.store.store, "team", "u-1")

    async def chunks_are_made(self) -> None:
        """All that is missing is the video."""
        for index in range(SMALL.chunks):
            await commit(self.files, made(index))

    def begin(self) -> asyncio.Task[None]:
        """Begin the attempt."""
        metrics = RunnerMetrics(self.registry, "p", "r")
        self.judge = Judge(self.time.clock.monotonic, metrics)
        services = SimpleNamespace(
            kube=self.api.client,
            clock=self.time.clock,
            metrics=metrics,
            judge=self.judge,
            triton=None,
            serving=self.serving,
            buffers=None,
            store=self.store,
            checkpoints=Checkpoints(),
            accelerators=1,
            ready_seconds=1.0,
            permission=self.hold,
        )
        attempt = Attempt(cast("Any", services), self.job, SMALL, OWNER, self.stop, self.generation, self.free_slot)
        return asyncio.create_task(attempt.run())

    async def run(self) -> None:
        """The whole attempt."""
        await asyncio.wait_for(self.begin(), PATIENCE)

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():  # noqa: ASYNC110 - other tasks make it so
                await asyncio.sleep(0.001)

    async def kept_chunks(self) -> int:
        return len((await self.files.committed()).pieces)

    def unreported(self) -> float | None:
        return self.registry.get_sample_value(
            "videojob_runner_unreported_attempts_total", {"pool": "p", "replica": "r"}
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(status_module, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(status_module, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(attempt_module, "DEADLINE_POLL_SECONDS", 0.001)
    monkeypatch.setattr(attempt_module, "LONGEST_SLEEP", 0.001)
    return World(tmp_path, assigned_job())


async def test_chunks_go_once_the_end_is_written(world: World) -> None:
    await world.chunks_are_made()

    await world.run()

    assert world.api.status["phase"] == "Succeeded"
    assert await world.kept_chunks() == 0


async def test_the_slot_is_free_before_the_video_is_in_the_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accelerator has nothing more to do for the job."""
    await world.chunks_are_made()
    commit_output, before = JobStore.commit_output, list[bool]()

    async def slow(self: JobStore, **output: Any) -> object:
        before.append(world.slot_free.is_set())
        return await commit_output(self, **output)

    monkeypatch.setattr(JobStore, "commit_output", slow)
    await world.run()

    assert before == [True]
    assert world.api.status["phase"] == "Succeeded"


async def test_an_attempt_that_made_no_frames_keeps_its_slot(world: World) -> None:
    await world.run()

    assert world.api.status["phase"] == "Pending"
    assert not world.slot_free.is_set()


async def test_chunks_stay_where_the_end_was_refused(world: World) -> None:
    """A successor that finds neither chunks nor the end would make the video again, or fail."""
    await world.chunks_are_made()
    world.api.always = INVALID

    await world.run()

    assert await world.kept_chunks() == SMALL.chunks


async def test_a_full_disk_is_not_the_jobs_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job goes to another replica, from the chunks that are committed."""
    await world.chunks_are_made()
    monkeypatch.setattr(tempfile, "tempdir", str(world.folder / "missing"))

    await world.run()

    status = world.api.status
    assert (status["phase"], status["reason"]) == ("Pending", "DiskUnavailable")
    assert (status.get("failures", 0), status["handBacks"], status["failedOn"]["replica"]) == (0, 1, "r")
    assert await world.kept_chunks() == SMALL.chunks


async def test_a_zombie_leaves_a_finished_video_and_every_chunk_to_its_successor(world: World) -> None:
    """It finishes while it is cut off, and its job is somebody else's when it is back."""
    await world.chunks_are_made()
    world.time.seconds += 60
    running = world.begin()
    await world.until((world.folder / "team/u-1/output.json").exists)
    world.api.status["attempts"] = 2
    world.api.status["assignment"]["replica"] = "other"
    before = dict(world.api.status)
    world.hold.renew(world.time.seconds)
    await asyncio.wait_for(running, PATIENCE)

    assert world.api.status == before
    assert await world.kept_chunks() == SMALL.chunks


async def test_a_video_that_is_finished_needs_no_chunk(world: World) -> None:
    """As after a crash between the end on status and the last of the chunks."""
    await world.chunks_are_made()
    await world.run()
    assert await world.kept_chunks() == 0
    again = World(world.folder, assigned_job())

    await again.run()

    assert again.api.status["phase"] == "Succeeded"
    assert again.api.status["output"] == world.api.status["output"]


async def test_what_ends_while_cut_off_is_written_when_it_is_back(world: World) -> None:
    await world.chunks_are_made()
    world.time.seconds += 60
    running = world.begin()
    await world.until((world.folder / "team/u-1/output.json").exists)
    assert world.api.requests == [] and world.api.events == []
    assert await world.kept_chunks() == SMALL.chunks

    world.hold.renew(world.time.seconds)
    await asyncio.wait_for(running, PATIENCE)

    assert world.api.requests[0] == "GET"
    assert world.api.status["phase"] == "Succeeded"
    assert await world.kept_chunks() == 0


async def test_a_closed_folder_ends_the_attempt_without_a_word(world: World) -> None:
    await world.chunks_are_made()
    before = dict(world.api.status)
    await world.files.close(1)

    await world.run()

    assert world.api.status == before
    assert await world.files.output() is None


async def test_a_last_status_without_rights_is_written_when_they_are_back(world: World) -> None:
    await world.chunks_are_made()
    world.api.answers.extend([FORBIDDEN] * 30)

    await world.run()

    assert world.api.status["phase"] == "Succeeded"


async def test_a_last_status_that_is_invalid_becomes_one_that_is_not(world: World) -> None:
    await world.chunks_are_made()
    world.api.answers.extend([INVALID])

    await world.run()

    assert (world.api.status["reason"], world.api.status["failures"]) == ("RunnerError", 1)
    assert "Unsupported value" in world.api.status["conditions"][0]["message"]
    assert "assignment" not in world.api.status


async def test_a_last_status_that_nobody_takes_ends_the_attempt_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task ends, so the job leaves the replica's report, and the operator takes it back."""
    monkeypatch.setattr(status_module, "REFUSED_SECONDS", 0.0)
    world.api.always = FORBIDDEN

    await world.run()

    assert world.unreported() == 1
    assert "assignment" in world.api.status


async def test_an_error_that_nobody_knows_becomes_the_jobs_status(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(world.store, "job", broken)

    await world.run()

    assert world.api.status["reason"] == "RunnerError"
    assert "ZeroDivisionError" in world.api.status["conditions"][0]["message"]


async def test_the_end_carries_the_generation_that_came_while_it_ran(world: World) -> None:
    """`kubectl wait --for=condition=Complete` takes a condition of an older generation for none."""
    await world.chunks_are_made()
    world.generation.see(3)

    await world.run()

    complete = next(each for each in world.api.status["conditions"] if each["type"] == "Complete")
    assert (complete["observedGeneration"], world.api.status["observedGeneration"]) == (3, 3)


@pytest.mark.parametrize("finished", [True, False], ids=["the video is there", "it is not"])
async def test_a_deadline_that_passes_while_cut_off(world: World, finished: bool) -> None:
    world.job = assigned_job(active_deadline_seconds=2000)
    world.api.job = wire(world.job)
    world.serving = stuck = Stuck()
    running = world.begin()
    await asyncio.wait_for(stuck.asked.wait(), PATIENCE)
    if finished:  # As by a request of its own whose answer was lost.
        other = World(world.folder, assigned_job())
        await other.chunks_are_made()
        await other.run()
    world.time.seconds += 1100  # More than 2000 s since the assignment.
    await world.until(world.stop.is_set)
    assert world.api.requests == []
    world.hold.renew(world.time.seconds)
    await asyncio.wait_for(running, PATIENCE)

    assert world.api.requests[0] == "GET"
    expected = ("Succeeded", "Succeeded") if finished else ("Failed", "DeadlineExceeded")
    assert (world.api.status["phase"], world.api.status["reason"]) == expected


class Stuck:
    """A `Serving` that does not get the model for a long time."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def take(self, *_: Any) -> None:
        self.asked.set()
        await asyncio.Event().wait()


async def test_a_deadline_is_the_operators_while_it_is_there(world: World) -> None:
    world.job = assigned_job(active_deadline_seconds=1)
    world.api.job = wire(world.job)
    await world.chunks_are_made()
    assert world.job.status.start_time is not None
    assert world.time.clock.now() > world.job.status.start_time + timedelta(seconds=1)

    await world.run()

    assert world.api.status["phase"] == "Succeeded"


async def test_hand_backs_for_store_or_triton_are_counted_in_a_row(world: World) -> None:
    world.job = world.job.model_copy(update={"status": world.job.status.model_copy(update={"hand_backs": 2})})
    world.api.job = wire(world.job)
    world.store.refuses = "The store does not answer."

    await world.run()

    assert (world.api.status["reason"], world.api.status["handBacks"]) == ("StoreUnavailable", 3)
    assert world.api.status["failures"] == 0


async def test_a_hand_back_of_a_model_that_does_not_come(world: World) -> None:
    await world.run()

    assert (world.api.status["reason"], world.api.status["handBacks"]) == ("TritonUnavailable", 1)


@pytest.mark.parametrize("error", [TritonGoneError, TritonRefusedError], ids=["ends", "answers with an error"])
async def test_a_triton_that_fails_every_sequence_counts_for_no_failure(
    world: World, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Finding 8: such an outage backs off, and counts only where the replica served another job meanwhile."""
    sequences = 0

    class Ends(Video):
        async def _run_sequence(self) -> None:
            nonlocal sequences
            sequences += 1
            raise error("Triton does not answer.")

    monkeypatch.setattr(attempt_module, "Video", Ends)
    monkeypatch.setattr(video_module, "FIRST_PAUSE", 0.01)

    await world.run()

    assert sequences == RESTARTS + 1
    assert (world.api.status["reason"], world.api.status["handBacks"]) == ("TritonUnavailable", 1)
    assert world.api.status["failures"] == 0


async def test_a_hand_back_after_progress_begins_the_row_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.job = world.job.model_copy(update={"status": world.job.status.model_copy(update={"hand_backs": 2})})
    world.api.job = wire(world.job)

    class Progresses(Video):
        async def _served(self) -> Any:
            await self._keep_unit(made(0).unit)
            await self._keep_piece(made(0).piece)
            return await super()._served()

    monkeypatch.setattr(attempt_module, "Video", Progresses)

    await world.run()

    assert (world.api.status["reason"], world.api.status["handBacks"]) == ("TritonUnavailable", 0)
