"""Lanes, bounds, stale decisions and leadership of the writer, in virtual time."""

import asyncio
from typing import Any

import pytest

from tests.controller import virtual
from tests.controller.desk import Desk, in_virtual_time, takes_a_second
from tests.controller.objects import (
    Json,
    begun_body,
    deployment_body,
    held_body,
    job_body,
    lease_body,
    pool_body,
)
from tests.planner.builders import RESOLVED
from videojob.api.gpupool import GPUPoolStatus
from videojob.api.reasons import Reason
from videojob.api.replica import DRAIN_ANNOTATION
from videojob.controller.leading import LeaderClient
from videojob.controller.settings import LANES
from videojob.controller.writer import lane_of
from videojob.kube.client import DEPLOYMENTS, GPU_POOLS, LEASES, VIDEO_JOBS, KubeError
from videojob.planner.decisions import (
    ApplyDeployment,
    Assign,
    Cancel,
    Decision,
    Drain,
    Expire,
    Fail,
    Lane,
    Purge,
    Reclaim,
    SetPoolStatus,
    Suspend,
    VerifyLeases,
    Wait,
)
from videojob.planner.facts import ReplicaKey


@in_virtual_time
async def test_writes_are_bounded_and_come_in_order() -> None:
    desk = Desk(takes_a_second, jobs=2)
    decisions = [Cancel(job) for job in desk.jobs(*"abcdef")]
    desk.writer.offer(decisions)
    await desk.settled()
    assert desk.began == decisions
    assert desk.most == {Lane.JOBS: 2}
    assert virtual.now() == pytest.approx(3, abs=0.1)
    assert desk.dry >= 1, "the loop may plan more"


@in_virtual_time
async def test_a_job_has_one_write_at_a_time_and_nothing_is_decided_on_it_meanwhile() -> None:
    desk = Desk(takes_a_second)
    (job,) = desk.jobs("a")
    desk.writer.offer([Cancel(job)])
    assert desk.book.frozen("a")
    desk.writer.offer([Suspend(job)])
    await desk.settled()
    assert desk.began == [Cancel(job)]
    assert not desk.book.frozen("a")


@in_virtual_time
async def test_an_assignment_that_is_under_way_takes_its_room() -> None:
    desk = Desk(takes_a_second)
    (job,) = desk.jobs("a")
    desk.writer.offer([Assign(job, ReplicaKey("p", "r0"), RESOLVED, "file:///store/team/a")])
    assert "a" in desk.book.agenda.held[ReplicaKey("p", "r0")]
    desk.writer.stop()
    await desk.settled()
    assert not desk.book.agenda.held


@in_virtual_time
async def test_a_new_plan_replaces_what_has_not_begun() -> None:
    desk = Desk(takes_a_second, jobs=1)
    a, b, c = desk.jobs(*"abc")
    desk.writer.offer([Cancel(a), Cancel(b)])
    desk.writer.offer([Cancel(c)])
    await desk.settled()
    assert desk.began == [Cancel(a), Cancel(c)]


@in_virtual_time
async def test_what_was_not_planned_anew_stays_once_and_after_the_rest() -> None:
    desk = Desk(takes_a_second, pools=1)
    drains = [Drain(ReplicaKey("p", f"r{index}"), "ScaleDown") for index in range(3)]
    desk.writer.offer(drains)
    for _ in range(3):
        desk.writer.offer([VerifyLeases(), drains[2]], keep=(Lane.POOLS,))
    await desk.settled()
    assert desk.began == [drains[0], VerifyLeases(), drains[2], drains[1]]


# One slow thing holds up nobody else (finding 16)


@in_virtual_time
async def test_no_lane_waits_for_another() -> None:
    """However many jobs have another reason to wait, or files in a store that hangs."""
    desk = Desk(takes_a_second)
    many = desk.jobs(*(f"w{index}" for index in range(500)))
    slow = [desk.job(begun_body(f"f{index}", deletionTimestamp="2026-11-22T12:00:00Z")) for index in range(100)]
    (job,) = desk.jobs("a")
    desk.writer.offer(
        [
            *(Wait(one, Reason.POOL_EMPTY, "No replica.") for one in many),
            *(Purge(one, keep_output=False) for one in slow),
            *(Drain(ReplicaKey("p", f"r{index}"), "ScaleDown") for index in range(50)),
            VerifyLeases(),
            SetPoolStatus(desk.book.pools["p"], GPUPoolStatus()),
            Assign(job, ReplicaKey("p", "r0"), RESOLVED, "file:///store/team/a"),
        ]
    )
    await asyncio.sleep(0)
    assert {type(decision) for decision in desk.began} == {Wait, Purge, Drain, VerifyLeases, SetPoolStatus, Assign}
    assert desk.most[Lane.WAITS] == LANES[Lane.WAITS]
    desk.writer.stop()
    await desk.settled()


@in_virtual_time
async def test_a_slow_pool_holds_up_no_other() -> None:
    async def slow(decision: Decision, api: LeaderClient) -> None:
        await asyncio.sleep(100 if decision != other else 1)

    desk = Desk(slow)
    other = Drain(ReplicaKey("q", "r0"), "ScaleDown")
    desk.writer.offer([*(Drain(ReplicaKey("p", f"r{index}"), "ScaleDown") for index in range(50)), other])
    await asyncio.sleep(2)
    assert other in desk.began
    assert len(desk.began) == 2, "the writes of one pool come one after the other"
    desk.writer.stop()
    await desk.settled()


@in_virtual_time
async def test_a_store_that_hangs_leaves_room_for_the_others() -> None:
    desk = Desk(takes_a_second)
    deleted: dict[str, Any] = {"deletionTimestamp": "2026-11-22T12:00:00Z"}
    hanging = [desk.job(begun_body(f"h{index}", **deleted)) for index in range(50)]
    other = desk.job(begun_body("o", **deleted, status={"pool": "q", "storeURI": "s3://q/team/o"}))
    decisions = [Purge(job, keep_output=False) for job in (*hanging, other)]
    desk.writer.offer(decisions)
    await asyncio.sleep(0)
    assert decisions[-1] in desk.began
    assert len(desk.began) == LANES[Lane.FILES] // 2 + 1
    desk.writer.stop()
    await desk.settled()


def test_what_asks_a_store_first_is_in_the_lane_for_files() -> None:
    desk = Desk()
    cut_off = desk.job(begun_body("c", status={"cutOffUntil": "2026-11-22T13:00:00Z"}))
    (job,) = desk.jobs("a")
    ends = desk.job(held_body("e", release="Cancelled"))
    drains = desk.job(held_body("d", release="Drained"))
    assert [lane_of(one) for one in (Cancel(cut_off), Fail(cut_off, Reason.RUNNER_ERROR, ""))] == [Lane.FILES] * 2
    assert lane_of(Cancel(job)) is Lane.JOBS
    assert lane_of(Reclaim(ends, "Lost", 1800)) is Lane.FILES  # type: ignore[arg-type]
    assert lane_of(Reclaim(drains, "Lost", 1800)) is Lane.JOBS  # type: ignore[arg-type]


# Stale decisions (finding 7)


@in_virtual_time
async def test_a_decision_that_waited_while_its_job_changed_is_not_carried_out() -> None:
    """An Assign went out after a suspend, and an Expire deleted a job after its TTL was raised."""
    desk = Desk(jobs=1)
    done: Json = {"phase": "Succeeded", "completionTime": "2026-11-22T11:00:00Z", "observedGeneration": 1}
    (first,) = desk.jobs("first")
    expiring = desk.job(job_body("b", 2, spec={"ttlSecondsAfterFinished": 60}, status=done))
    waiting = desk.job(job_body("c", 3))
    desk.writer.offer(
        [
            Suspend(first),
            Expire(expiring),
            Assign(waiting, ReplicaKey("p", "r0"), RESOLVED, "file:///store/team/c"),
        ]
    )
    desk.see(VIDEO_JOBS, job_body("b", 10, spec={"ttlSecondsAfterFinished": 604800}, status=done, generation=2))
    desk.see(VIDEO_JOBS, job_body("c", 11, spec={"suspend": True}, generation=2))
    await desk.settled()
    assert ("videojobs", "b") in desk.server.objects
    assert "assignment" not in desk.status("c")
    assert desk.server.written == [("patch", "videojobs", "first")]


@in_virtual_time
async def test_a_replica_that_got_a_job_meanwhile_is_not_asked_to_drain_nor_the_other_way_round() -> None:
    """A pool's writes come one after the other: what waits there was decided on before other plans."""
    desk = Desk(takes_a_second)
    busy, drained = ReplicaKey("p", "r0"), ReplicaKey("p", "r1")
    first, late = desk.jobs("first", "late")
    drains = [Drain(drained, "ScaledDown"), Drain(busy, "ScaledDown"), Drain(ReplicaKey("p", "r2"), "ScaledDown")]
    assign = Assign(first, busy, RESOLVED, "file:///store/team/first")

    desk.writer.offer(drains)
    desk.writer.offer(
        [Assign(late, drained, RESOLVED, "file:///store/team/late"), assign], keep=(Lane.POOLS, Lane.STATUSES)
    )
    await desk.settled()

    assert desk.began == [drains[0], assign, drains[2]]


@in_virtual_time
async def test_a_replica_that_drains_by_now_gets_no_job_that_waited() -> None:
    desk = Desk(takes_a_second, jobs=1)
    first, late = desk.jobs("first", "late")
    decisions: list[Decision] = [
        Cancel(first),
        Assign(late, ReplicaKey("p", "r0"), RESOLVED, "file:///store/team/late"),
    ]
    desk.writer.offer(decisions)
    desk.see(LEASES, lease_body(version=21, annotations={DRAIN_ANNOTATION: "ScaledDown"}))
    await desk.settled()
    assert desk.began == decisions[:1]


# Leadership


@in_virtual_time
async def test_who_does_not_lead_any_more_writes_nothing_more() -> None:
    desk = Desk(jobs=1)
    a, b = desk.jobs(*"ab")
    desk.writer.offer([Cancel(a), Cancel(b)])
    desk.leader.leading = False
    desk.writer.stop()
    await desk.settled()
    desk.writer.offer([Cancel(b)])
    await desk.settled()
    assert not desk.server.written


@in_virtual_time
async def test_a_write_of_an_earlier_term_is_not_sent_again() -> None:
    desk = Desk()

    def deposed_and_elected_again(verb: str, kind: object, name: str) -> None:
        desk.leader.term += 1
        raise KubeError(503, "busy")

    desk.server.before = deposed_and_elected_again
    desk.writer.offer([Cancel(desk.jobs("a")[0])])
    await desk.settled()
    assert len(desk.server.log) == 1
    assert not desk.book.frozen("a"), "it is planned anew"


@in_virtual_time
async def test_draining_ends_what_has_begun_and_begins_nothing() -> None:
    desk = Desk(takes_a_second, jobs=1)
    a, b = desk.jobs(*"ab")
    desk.writer.offer([Cancel(a), Cancel(b)])
    draining = asyncio.create_task(desk.writer.drain(5))
    await asyncio.sleep(0.1)
    desk.writer.offer([Cancel(b)])  # The planning loop may still turn.
    await draining
    assert virtual.now() == pytest.approx(1, abs=0.1)
    assert desk.began == [Cancel(a)]


@in_virtual_time
async def test_draining_has_an_end() -> None:
    async def hangs(decision: Decision, api: LeaderClient) -> None:
        await asyncio.sleep(1000)

    desk = Desk(hangs)
    desk.writer.offer([Cancel(desk.jobs("a")[0])])
    await desk.writer.drain(5)
    await desk.settled()
    assert virtual.now() == pytest.approx(5, abs=0.1)


@in_virtual_time
async def test_all_kinds_of_decisions_meet_their_targets() -> None:
    desk = Desk()
    desk.see(GPU_POOLS, pool_body("m", managed=True))
    desk.see(DEPLOYMENTS, deployment_body("m"))
    desk.see(LEASES, lease_body())
    body = '{"metadata": {"name": "pool-m", "labels": {"videojob.dev/pool": "m"}}, "spec": {"replicas": 3}}'
    desk.writer.offer(
        [
            ApplyDeployment(desk.book.pools["m"], body, 3),
            Drain(ReplicaKey("p", "r0"), "ScaleDown"),
            VerifyLeases(),
            SetPoolStatus(desk.book.pools["p"], GPUPoolStatus(slots=1)),
        ]
    )
    await desk.settled()
    assert {kind for _, kind, _ in desk.server.log} == {"deployments", "leases", "gpupools"}
    assert desk.outcomes == []
