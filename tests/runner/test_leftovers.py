"""What a runner that starts does with the jobs of the one before."""

import copy
from typing import Any, cast

from prometheus_client import CollectorRegistry

from tests.runner.builders import assigned_job, wire
from tests.runner.fakes import FORBIDDEN, Api, Time
from videojob.kube.client import Json
from videojob.runner.leftovers import Leftovers
from videojob.runner.metrics import RunnerMetrics

PLACE = {"pool": "p", "replica": "r"}


class Left(Api):
    """An API server with one job that can be patched, listed beside others."""

    def __init__(self, *others: Json) -> None:
        super().__init__(wire(assigned_job()))
        self.others = others

    async def list(self, *_: Any, **__: Any) -> Json:
        return {"items": [*copy.deepcopy(self.others), copy.deepcopy(self.job)]}


class EmptyTriton:
    async def model_ready(self, name: str) -> bool:
        return False


class NoBuffers:
    async def sweep(self) -> None:
        """There is nothing."""


async def hand_back(api: Left, cut_off_seconds: int = 0) -> CollectorRegistry:
    registry = CollectorRegistry()
    leftovers = Leftovers(
        kube=api.client,
        clock=Time().clock,
        metrics=RunnerMetrics(registry, "p", "r"),
        triton=cast("Any", EmptyTriton()),
        buffers=cast("Any", NoBuffers()),
        pool="p",
        replica="r",
        cut_off_seconds=cut_off_seconds,
    )
    await leftovers.hand_back(None, "")
    return registry


async def test_a_job_that_is_left_waits_for_a_replica_with_its_newest_generation() -> None:
    api = Left()
    api.job["metadata"]["generation"] = 4

    await hand_back(api)

    assert (api.status["phase"], api.status["reason"], api.status["losses"]) == ("Pending", "ReplicaLost", 1)
    assert "assignment" not in api.status
    assert {each["observedGeneration"] for each in api.status["conditions"]} == {4}


async def test_a_runner_before_that_may_go_on_is_reckoned_with() -> None:
    """Another runner has taken the replica's Lease: the one before may be cut off, and add files after a deletion."""
    ended, cut_off = Left(), Left()

    await hand_back(ended)
    await hand_back(cut_off, 1800)

    assert "cutOffUntil" not in ended.status
    began = cut_off.status["conditions"][0]["lastTransitionTime"]
    assert "cutOffUntil" in cut_off.status and cut_off.status["cutOffUntil"] > began


async def test_one_that_was_asked_for_is_released() -> None:
    api = Left()
    api.status["assignment"]["release"] = "Suspended"

    await hand_back(api)

    assert api.status["phase"] == "Suspended"


async def test_one_that_cannot_be_read_stops_no_other() -> None:
    unreadable = wire(assigned_job())
    unreadable["status"]["phase"] = "Paused"
    api = Left(unreadable)

    registry = await hand_back(api)

    assert api.status["phase"] == "Pending"
    counted = registry.get_sample_value("videojob_runner_unreadable_objects_total", {**PLACE, "kind": "videojobs"})
    assert counted == 1


async def test_one_that_may_not_be_written_is_left_to_the_operator() -> None:
    """It is in nobody's report; the runner goes on."""
    api = Left()
    api.always = FORBIDDEN

    registry = await hand_back(api)

    assert api.status["phase"] == "Assigned"
    assert registry.get_sample_value("videojob_runner_unreported_attempts_total", PLACE) == 1
