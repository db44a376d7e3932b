"""The making of one video: what its status is while its model is not there, and whose chunks it goes on from."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from tests.planner.builders import RESOLVED
from tests.runner.builders import SMALL, Chunk, NoModel, Stored, assigned_job, commit, made, wire
from tests.runner.fakes import Api, Time, fresh
from tests.runner.test_serving import model
from videojob.api import transitions
from videojob.api.conditions import ConditionType, find
from videojob.api.drift import DriftPolicy, DriftThresholds
from videojob.api.meta import ObjectMeta
from videojob.api.reasons import Reason
from videojob.api.shots import Shot
from videojob.api.videojob import Phase, VideoJob, VideoJobSpec, VideoJobStatus
from videojob.runner.accounting import Checkpoints
from videojob.runner.clock import Clock
from videojob.runner.drifting import DriftedError
from videojob.runner.errors import HandBackError
from videojob.runner.events import Events
from videojob.runner.judge import Judge
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.status import Generation, JobLostError, Owner, StatusWriter
from videojob.runner.stop import Stop, StoppedError
from videojob.runner.video import Video
from videojob.store import Committed, JobClosed, JobStore, PieceRecord
from videojob.triton.contract import ChunkError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Files:
    """Of a job that has just begun."""

    async def output(self) -> None:
        return None

    async def closed(self) -> int:
        return 0

    async def committed(self) -> Committed:
        return Committed((), ())


class Shown:
    """A `StatusWriter` that keeps what it is to write."""

    def __init__(self, status: VideoJobStatus) -> None:
        self.status = status

    def show(self, status: VideoJobStatus) -> None:
        self.status = status


async def test_a_job_that_waits_for_its_model_has_the_reason_until_it_runs() -> None:
    assigned = transitions.assigned(
        VideoJobStatus(), pool="p", replica="r", resolved=RESOLVED, store_uri="file:///s", now=NOW, generation=1
    )
    begun = transitions.running(assigned, now=NOW, generation=1).model_copy(update={"estimated_completion_time": NOW})
    job = VideoJob(
        metadata=ObjectMeta(name="film", namespace="team", uid="u", generation=1),
        spec=VideoJobSpec(model="tiny", shots=(Shot(prompt="a cat", seconds=1),)),
        status=begun,
    )
    services = SimpleNamespace(
        clock=Clock(),
        serving=NoModel(),
        checkpoints=Checkpoints(),
        accelerators=1,
        ready_seconds=5.0,
        permission=fresh(),
    )
    shown = Shown(begun)
    video = Video(
        cast("Any", services),
        job,
        RESOLVED,
        Owner("p", "r", 1),
        cast("Any", Files()),
        cast("Any", shown),
        Generation(1),
        cast("Any", None),
        Stop(),
        lambda: None,
    )

    with pytest.raises(HandBackError):
        await video.make()

    waits = find(shown.status.conditions, ConditionType.RUNNING)
    assert waits is not None
    assert (waits.status, waits.reason) == ("False", Reason.MODEL_LOADING)
    assert waits.message == "The model tiny is not ready on replica r yet: it is loading."
    assert (shown.status.phase, shown.status.reason) == (Phase.ASSIGNED, Reason.MODEL_LOADING)
    assert shown.status.estimated_completion_time is None
    assert shown.status.assignment == begun.assignment

    again = transitions.running(shown.status, now=NOW, generation=1)
    assert (again.phase, again.reason) == (Phase.RUNNING, Reason.RUNNING)


class Joined:
    """A `VideoFile` that keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[tuple[PieceRecord, bytes | None]] = []

    @property
    def pieces(self) -> int:
        return len(self.given)

    def add(self, record: PieceRecord, segment: bytes | None = None) -> None:
        self.given.append((record, segment))


class Making:
    """A video of two chunks in its second attempt, whose chunks the test makes."""

    def __init__(self, folder: Path, policy: DriftPolicy = DriftPolicy.REPORT) -> None:
        self.time = Time()
        self.hold = self.time.hold()
        job = assigned_job(drift_policy=policy)
        job = job.model_copy(update={"status": job.status.model_copy(update={"attempts": 2})})
        owner = Owner("p", "r", 2)
        self.api = Api(wire(job))
        self.files = JobStore(Stored(folder).store, "team", "u-1")
        self.registry = CollectorRegistry()
        metrics = RunnerMetrics(self.registry, "p", "r")
        generation, stop = Generation(1), Stop()
        self.stop = stop
        status = StatusWriter(self.api.client, self.time.clock, metrics, job, owner, self.hold, generation, stop.lose)
        services = SimpleNamespace(
            clock=self.time.clock,
            metrics=metrics,
            judge=Judge(self.time.clock.monotonic, metrics),
            checkpoints=Checkpoints(),
            accelerators=1,
            permission=self.hold,
        )
        self.video = Video(
            cast("Any", services),
            job,
            SMALL.model_copy(update={"drift": DriftThresholds(colour=0.5)}),
            owner,
            self.files,
            status,
            generation,
            Events(self.api.client, self.time.clock, job, "r", self.hold),
            stop,
            lambda: None,
        )
        self.joined = Joined()
        self.video._output = cast("Any", self.joined)

    async def commit(self, chunk: Chunk) -> None:
        """As the pipeline does it."""
        await self.video._keep_unit(chunk.unit)
        await self.video._keep_piece(chunk.piece)


@pytest.fixture
def making(tmp_path: Path) -> Making:
    return Making(tmp_path)


@pytest.mark.parametrize("attempt", [1, 2], ids=["an earlier attempt", "this attempt, whose answer was lost"])
@pytest.mark.parametrize("cut_off", [False, True], ids=["fresh", "cut off"])
async def test_the_same_chunk_is_adopted(making: Making, attempt: int, cut_off: bool) -> None:
    await commit(making.files, made(0), attempt)
    making.time.seconds += 60 * cut_off

    await making.commit(made(0))

    assert making.api.requests == []
    (record,) = (await making.files.committed()).pieces
    assert record.attempt == attempt
    assert making.joined.given == [(record, made(0).piece.segment)]


@pytest.mark.parametrize("cut_off", [False, True], ids=["fresh", "cut off"])
async def test_another_chunk_of_an_earlier_attempt_is_what_the_job_goes_on_from(making: Making, cut_off: bool) -> None:
    await commit(making.files, made(0, shade=200), 1)
    making.time.seconds += 60 * cut_off

    with pytest.raises(ChunkError, match="other bytes"):
        await making.commit(made(0))
    assert making.api.requests == []
    assert making.joined.given == [], "what is joined is not what is committed"


async def test_a_sequence_that_starts_again_joins_what_was_committed_and_nothing_twice(making: Making) -> None:
    await making.commit(made(0))
    await commit(making.files, made(1), 1)  # By another, whose bytes are not at hand.

    await making.video._run_sequence()

    assert [(record.index, record.attempt, segment is None) for record, segment in making.joined.given] == [
        (0, 2, False),
        (1, 1, True),
    ]


@pytest.mark.parametrize("policy", [DriftPolicy.REPORT, DriftPolicy.STOP])
async def test_drift_is_on_the_status_and_in_the_metrics_of_every_job(tmp_path: Path, policy: DriftPolicy) -> None:
    making = Making(tmp_path, policy)
    await making.commit(made(0))
    assert making.video._status.status.drift is None

    await making.commit(made(1, shade=51))

    drift = making.video._status.status.drift
    assert drift is not None and drift.colour is not None
    assert (drift.colour.value, drift.colour.shot, drift.colour.second) == (0.2, 0, round(2 / 12, 3))
    labels = {"pool": "p", "replica": "r", "model": "tiny", "signal": "colour"}
    assert making.registry.get_sample_value("videojob_runner_drift_count", labels) == 1
    assert making.registry.get_sample_value("videojob_runner_drift_sum", labels) == 0.2


async def test_a_unit_that_was_refreshed_is_one_in_the_log_and_for_people(making: Making) -> None:
    first, second = made(0), made(1)
    await making.commit(first)
    await making.commit(replace(second, unit=replace(second.unit, drifted="motion by 0.900")))

    assert [unit.refreshed for unit in (await making.files.committed()).units] == [False, True]
    drift = making.video._status.status.drift
    assert drift is not None and drift.refreshes == 1
    (event,) = making.api.events
    assert (event["type"], event["reason"]) == ("Normal", "Refreshed")
    assert event["message"] == "Unit 1 goes on without the recent past, which has drifted: in motion by 0.900."
    labels = {"pool": "p", "replica": "r", "model": "tiny"}
    assert making.registry.get_sample_value("videojob_runner_refreshes_total", labels) == 1


async def test_a_job_that_drifts_too_far_stops_with_what_it_has(tmp_path: Path) -> None:
    making = Making(tmp_path, DriftPolicy.STOP)
    await making.commit(made(0))

    with pytest.raises(DriftedError, match=r"In colour, shots\[0\] has drifted by 0.784 .* the model allows 0.5"):
        await making.commit(made(1, shade=200))

    assert len((await making.files.committed()).pieces) == 2
    assert making.video._status.status.drift is not None


async def test_an_attempt_that_finds_that_the_one_before_it_drifted_too_far_stops_as_well(tmp_path: Path) -> None:
    """It was killed between the commit and the status."""
    making = Making(tmp_path, DriftPolicy.STOP)
    await commit(making.files, made(0), 1)
    await commit(making.files, made(1, shade=200), 1)

    with pytest.raises(DriftedError, match=r"by 0\.784"):
        await making.video._run_sequence()


async def test_the_checkpoint_counts_as_well_as_the_frames(making: Making) -> None:
    """The next chunk is made from them."""
    other = made(0)
    await commit(making.files, replace(other, unit=replace(other.unit, checkpoint=b"other")), 1)

    with pytest.raises(ChunkError, match="other bytes"):
        await making.commit(made(0))


async def test_a_chunk_of_a_later_attempt_ends_one_that_is_cut_off_without_a_question(making: Making) -> None:
    await commit(making.files, made(0), 3)
    making.time.seconds += 60

    with pytest.raises(JobLostError, match="attempt 3"):
        await making.commit(made(0))
    assert making.api.requests == []


async def test_a_fresh_one_asks_whose_the_job_is(making: Making) -> None:
    """An API server that was restored from a backup counts attempts that were before."""
    await commit(making.files, made(0), 3)
    await making.commit(made(0))
    assert making.api.requests == ["GET", "GET"]  # For the unit, and for its piece.

    making.api.status["attempts"] = 4
    await commit(making.files, made(1), 4)
    with pytest.raises(JobLostError, match="attempt 4"):
        await making.commit(made(1))


async def test_a_job_that_was_closed_takes_no_more_chunks(making: Making) -> None:
    await making.commit(made(0))
    await making.files.close(2)
    making.time.seconds += 60

    with pytest.raises(JobClosed):
        await making.commit(made(1))


async def test_one_that_was_lost_makes_nothing_more(making: Making) -> None:
    making.hold.lose("another runner has taken the Lease")

    with pytest.raises(JobLostError, match="another runner"):
        await making.commit(made(0))
    assert await making.files.committed() == Committed((), ())


@pytest.mark.parametrize(
    "standing", [pytest.param(60.0, id="cut off"), pytest.param(4000.0, id="lost"), pytest.param(0.0, id="fresh")]
)
async def test_only_a_fresh_runner_deletes(making: Making, standing: float) -> None:
    await making.commit(made(0))
    making.time.seconds += standing

    await making.video.discard_parts()

    assert len((await making.files.committed()).pieces) == (1 if standing else 0)


async def test_a_job_that_is_stopped_while_it_reads_its_past_stops(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    await commit(making.files, made(0), 1)
    committed = await making.files.committed()
    making.video._units, making.video._pieces = [*committed.units], [*committed.pieces]
    reading = asyncio.Event()

    async def endless(records: object) -> list[bytes]:
        reading.set()
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(making.files, "read_checkpoints", endless)
    going_on = asyncio.create_task(
        making.video._run_sequence_on(cast("Any", SimpleNamespace(model=model(Path("/models")))))
    )
    await reading.wait()
    making.stop.release("Cancelled")

    with pytest.raises(StoppedError, match="Cancelled"):
        await asyncio.wait_for(going_on, 5)
