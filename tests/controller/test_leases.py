"""Heartbeats on our own clock."""

from typing import Any

import pytest

from videojob.api.replica import DRAIN_ANNOTATION, POOL_LABEL, REPLICA_LABEL, REPORT_ANNOTATION, ReplicaReport
from videojob.controller.leases import Leases
from videojob.kube.client import Json
from videojob.planner.snapshot import ReplicaKey

KEY = ReplicaKey("p", "r0")
REPORT = ReplicaReport(slots=2)


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def lease(renewed: str = "09:00", report: str | None = REPORT.model_dump_json(), **changes: Any) -> Json:
    annotations = {} if report is None else {REPORT_ANNOTATION: report}
    if changes.get("drain"):
        annotations[DRAIN_ANNOTATION] = "maintenance"
    return {
        "metadata": {"name": "p-r0", "labels": {POOL_LABEL: "p", REPLICA_LABEL: "r0"}, "annotations": annotations},
        "spec": {
            "holderIdentity": changes.get("holder", "runner"),
            "leaseDurationSeconds": 15,
            "renewTime": renewed,
        },
    }


class Watched:
    def __init__(self) -> None:
        self.clock = Clock()
        self.changes = 0
        self.leases = Leases(self.clock, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def live(self) -> bool:
        return self.leases.replicas()[KEY].live


def test_a_replica_is_lost_when_its_renew_time_has_not_changed_for_the_lease_duration() -> None:
    watched = Watched()
    watched.leases.apply(lease("09:00"))
    watched.clock.time += 14.9
    assert watched.live
    assert watched.leases.next_expiry() == pytest.approx(0.1)
    watched.clock.time += 0.2
    assert not watched.live
    assert watched.leases.next_expiry() is None


def test_the_wall_clock_of_the_replica_does_not_matter() -> None:
    watched = Watched()
    watched.leases.apply(lease("1970-01-01T00:00:00Z"))
    assert watched.live


def test_seeing_the_same_lease_again_is_no_heartbeat() -> None:
    watched = Watched()
    watched.leases.apply(lease("09:00"))
    watched.clock.time += 10
    watched.leases.restore([lease("09:00")])
    watched.clock.time += 6
    assert not watched.live


def test_renewals_of_a_live_replica_make_no_new_plan() -> None:
    watched = Watched()
    for moment in ("09:00", "09:05", "09:10"):
        watched.leases.apply(lease(moment))
        watched.clock.time += 5
    assert watched.changes == 1
    watched.leases.apply(lease("09:15", drain=True))
    assert watched.changes == 2
    assert watched.leases.replicas()[KEY].draining


def test_a_replica_that_comes_back_makes_a_new_plan() -> None:
    watched = Watched()
    watched.leases.apply(lease("09:00"))
    watched.clock.time += 20
    watched.leases.apply(lease("09:20"))
    assert watched.live
    assert watched.changes == 2


@pytest.mark.parametrize("end", ["deleted", "given up", "not listed"])
def test_a_replica_without_a_lease_is_gone(end: str) -> None:
    watched = Watched()
    watched.leases.apply(lease())
    if end == "deleted":
        watched.leases.apply(lease(), deleted=True)
    elif end == "given up":
        watched.leases.apply(lease(holder=""))
    else:
        watched.leases.restore([])
    assert watched.leases.replicas() == {}
    assert watched.changes == 2


@pytest.mark.parametrize("report", [None, "{", '{"slots": -1}'], ids=["none", "no JSON", "out of bounds"])
def test_a_replica_whose_report_cannot_be_read_takes_no_jobs(report: str | None) -> None:
    watched = Watched()
    watched.leases.apply(lease(report=report))
    found = watched.leases.replicas()[KEY].report
    assert found.slots == 0
    assert found.triton_error
