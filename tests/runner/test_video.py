"""What a job says of itself while its model is not there."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.planner.builders import RESOLVED
from videojob.api import transitions
from videojob.api.conditions import ConditionType, Reason, find
from videojob.api.meta import ObjectMeta
from videojob.api.videojob import Phase, Shot, VideoJob, VideoJobSpec, VideoJobStatus
from videojob.runner.accounting import Checkpoints
from videojob.runner.clock import Clock
from videojob.runner.status import Owner
from videojob.runner.stop import Stop
from videojob.runner.triton import TritonGoneError
from videojob.runner.video import HandBackError, Video

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Waits:
    """A `Serving` that never gets the model."""

    async def take(self, name: str, seconds: float, tell: Any) -> None:
        tell("it is loading")
        raise TritonGoneError("The model was not ready.")


class Files:
    """Of a job that has just begun."""

    async def output(self) -> None:
        return None

    async def committed(self) -> tuple[()]:
        return ()


class Shown:
    """A `StatusWriter` that keeps what it is to write."""

    def __init__(self, status: VideoJobStatus) -> None:
        self.status = status

    def show(self, status: VideoJobStatus) -> None:
        self.status = status


async def test_a_job_that_waits_for_its_model_says_why_until_it_runs() -> None:
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
        clock=Clock(), serving=Waits(), checkpoints=Checkpoints(), accelerators=1, ready_seconds=5.0
    )
    shown = Shown(begun)
    video = Video(
        cast("Any", services),
        job,
        RESOLVED,
        Owner("p", "r", 1),
        cast("Any", Files()),
        cast("Any", shown),
        cast("Any", None),
        Stop(),
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
