"""Who holds a replica, on a real API server with the rights of a runner."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from dev.control_plane import NAMESPACE, Cluster
from videojob.api.replica import (
    DRAIN_ANNOTATION,
    POOL_LABEL,
    REPLICA_LABEL,
    REPORT_ANNOTATION,
    ReplicaReport,
    lease_name,
)
from videojob.kube.client import LEASES, KubeClient, KubeError
from videojob.runner.clock import Clock
from videojob.runner.hold import LeaseLostError, Standing
from videojob.runner.lease import Lease

SECONDS, CUT_OFF_SECONDS = 3, 60
_numbers = itertools.count()


class FakeTime:
    """A monotonic clock that the test can move on, as a pause of the process does."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() + self.skipped


@pytest.fixture
def replica() -> str:
    return f"lease-{next(_numbers)}"


@pytest.fixture
def lease(kube: KubeClient, replica: str) -> Callable[..., Lease]:
    def make(identity: str, time: FakeTime | None = None, pod_uid: str | None = None) -> Lease:
        clock = Clock(lambda: datetime.now(UTC), (time or FakeTime()).monotonic)
        return Lease(
            kube,
            clock,
            namespace=NAMESPACE,
            pool="p",
            replica=replica,
            identity=identity,
            seconds=SECONDS,
            cut_off_seconds=CUT_OFF_SECONDS,
            pod_uid=pod_uid,
        )

    return make


def standing(lease: Lease) -> Standing:
    """How it stands now: by a function, as it changes between two looks."""
    return lease.hold.standing


def report(slots: int = 1) -> Callable[[], ReplicaReport]:
    return lambda: ReplicaReport(slots=slots)


async def stored(kube: KubeClient, replica: str) -> dict[str, Any]:
    return await kube.get(LEASES, lease_name("p", replica), NAMESPACE)


@asynccontextmanager
async def kept(lease: Lease, report: Callable[[], ReplicaReport]) -> AsyncIterator[asyncio.Queue[None]]:
    """The Lease is being renewed; each renewal puts something into the queue."""
    renewals: asyncio.Queue[None] = asyncio.Queue()
    task = asyncio.create_task(lease.keep(report, lambda: renewals.put_nowait(None)))
    try:
        yield renewals
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_taking_makes_the_lease(lease: Callable[..., Lease], kube: KubeClient, replica: str) -> None:
    mine = lease("me")
    assert standing(mine) is Standing.LOST

    await mine.take(report(2), wait_for_holder=False)

    made = await stored(kube, replica)
    assert standing(mine) is Standing.FRESH
    assert (made["spec"]["holderIdentity"], made["spec"]["leaseDurationSeconds"]) == ("me", SECONDS)
    assert (made["metadata"]["labels"][POOL_LABEL], made["metadata"]["labels"][REPLICA_LABEL]) == ("p", replica)
    assert json.loads(made["metadata"]["annotations"][REPORT_ANNOTATION])["slots"] == 2


async def test_the_lease_of_a_pod_goes_with_it(lease: Callable[..., Lease], kube: KubeClient, replica: str) -> None:
    """Whether it is made or taken over: as after a restart of the runner's container."""
    uid = "0b5c8d1e-0000-4000-8000-000000000000"
    await lease("outside").take(report(), wait_for_holder=False)
    assert "ownerReferences" not in (await stored(kube, replica))["metadata"]

    await lease("inside", pod_uid=uid).take(report(), wait_for_holder=False)

    owners = (await stored(kube, replica))["metadata"]["ownerReferences"]
    assert owners == [{"apiVersion": "v1", "kind": "Pod", "name": replica, "uid": uid}]


async def test_a_loop_that_hangs_is_seen_and_one_that_waits_is_not(lease: Callable[..., Lease]) -> None:
    time = FakeTime()
    mine = lease("me", time)
    assert not mine.stalled, "nothing has begun"
    await mine.take(report(), wait_for_holder=False)
    time.skipped += 1000
    assert not mine.stalled, "it was taken, and is not kept yet"
    await mine.take(report(), wait_for_holder=False)
    async with kept(mine, report()) as renewals:
        await asyncio.wait_for(renewals.get(), 30)
        assert not mine.stalled
        time.skipped += 3 * SECONDS + 1
        assert mine.stalled
    assert not mine.stalled, "nobody keeps it any more"


async def test_a_new_runner_takes_over_and_the_old_one_sees_it(
    lease: Callable[..., Lease], kube: KubeClient, replica: str
) -> None:
    old, new = lease("old"), lease("new")
    await old.take(report(), wait_for_holder=False)
    keeping = asyncio.create_task(old.keep(report(), lambda: None))

    await new.take(report(), wait_for_holder=False)

    with pytest.raises(LeaseLostError, match="another runner"):
        await asyncio.wait_for(keeping, 30)
    assert standing(old) is Standing.LOST
    assert (await stored(kube, replica))["spec"]["leaseTransitions"] == 1


async def test_one_that_was_replaced_waits_until_the_holder_is_gone(lease: Callable[..., Lease]) -> None:
    holder, waiting = lease("holder"), lease("waiting")
    await holder.take(report(), wait_for_holder=False)
    async with kept(holder, report()) as renewals:
        taking = asyncio.create_task(waiting.take(report(), wait_for_holder=True))
        for _ in range(2 * 3):  # Two whole durations of a living holder.
            await asyncio.wait_for(renewals.get(), 30)
        assert not taking.done()

    await asyncio.wait_for(taking, 30)
    assert standing(waiting) is Standing.FRESH


async def test_a_pause_longer_than_the_lease_is_a_gap(
    lease: Callable[..., Lease], kube: KubeClient, replica: str
) -> None:
    time = FakeTime()
    mine = lease("me", time)
    await mine.take(report(), wait_for_holder=False)
    before, gaps = await stored(kube, replica), mine.hold.gaps
    time.skipped += SECONDS + 1
    assert standing(mine) is Standing.CUT_OFF

    async with kept(mine, report()) as renewals:
        await asyncio.wait_for(renewals.get(), 30)

    after = await stored(kube, replica)
    assert standing(mine) is Standing.FRESH
    assert mine.hold.gaps == gaps + 1
    assert after["spec"]["leaseTransitions"] == before["spec"]["leaseTransitions"]
    assert after["spec"]["renewTime"] > before["spec"]["renewTime"]


async def test_a_pause_longer_than_the_bound_loses_it_though_nobody_took_it(
    lease: Callable[..., Lease], kube: KubeClient, replica: str
) -> None:
    time = FakeTime()
    mine = lease("me", time)
    await mine.take(report(), wait_for_holder=False)
    before = (await stored(kube, replica))["metadata"]["resourceVersion"]

    time.skipped += CUT_OFF_SECONDS + 1

    with pytest.raises(LeaseLostError, match="could not be renewed"):
        await asyncio.wait_for(mine.keep(report(), lambda: None), 30)
    assert standing(mine) is Standing.LOST
    assert (await stored(kube, replica))["metadata"]["resourceVersion"] == before


async def test_a_lease_that_was_deleted_is_made_anew_and_jobs_are_read_again(
    lease: Callable[..., Lease], kube: KubeClient, replica: str, cluster: Cluster
) -> None:
    """As that of a pod whose object was deleted while its processes run on."""
    await lease("before").take(report(), wait_for_holder=False)
    mine = lease("me")
    await mine.take(report(2), wait_for_holder=False)
    gaps = mine.hold.gaps
    cluster.kubectl("delete", "lease", lease_name("p", replica), "--namespace", NAMESPACE)

    async with kept(mine, report(2)) as renewals:
        await asyncio.wait_for(renewals.get(), 30)

    made = await stored(kube, replica)
    assert (made["spec"]["holderIdentity"], made["spec"]["leaseTransitions"]) == ("me", 1)
    assert json.loads(made["metadata"]["annotations"][REPORT_ANNOTATION])["slots"] == 2
    assert (mine.hold.standing, mine.hold.gaps) == (Standing.FRESH, gaps + 1)


async def test_one_that_was_only_tampered_with_is_put_right(
    lease: Callable[..., Lease], kube: KubeClient, replica: str
) -> None:
    """A patch of a Lease without annotations is refused with the words of a broken fence."""
    mine = lease("me")
    await mine.take(report(2), wait_for_holder=False)
    await kube.merge_patch(LEASES, lease_name("p", replica), {"metadata": {"annotations": None}}, NAMESPACE)

    async with kept(mine, report(2)) as renewals:
        await asyncio.wait_for(renewals.get(), 30)

    made = await stored(kube, replica)
    assert json.loads(made["metadata"]["annotations"][REPORT_ANNOTATION])["slots"] == 2
    assert standing(mine) is Standing.FRESH


@pytest.mark.parametrize("holder", ["somebody", None], ids=["another holder", "no holder"])
async def test_a_holder_that_somebody_has_changed_is_a_loss_after_a_gap_as_well(
    lease: Callable[..., Lease], kube: KubeClient, replica: str, holder: str | None
) -> None:
    time = FakeTime()
    mine = lease("me", time)
    await mine.take(report(), wait_for_holder=False)
    await kube.merge_patch(LEASES, lease_name("p", replica), {"spec": {"holderIdentity": holder}}, NAMESPACE)
    time.skipped += SECONDS + 1

    with pytest.raises(LeaseLostError, match="somebody has taken it away"):
        await asyncio.wait_for(mine.keep(report(), lambda: None), 30)
    assert standing(mine) is Standing.LOST


@pytest.mark.parametrize("code", [0, 403, 404, 500], ids=["silence", "no rights", "no such kind", "errors"])
async def test_a_lease_that_cannot_be_taken_yet_is_taken_later(
    lease: Callable[..., Lease], kube: KubeClient, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, create, refusals = lease("me"), kube.create, 2

    async def refuse(*arguments: Any) -> Any:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise KubeError(code, "not now")
        return await create(*arguments)

    monkeypatch.setattr(kube, "create", refuse)

    await asyncio.wait_for(mine.take(report(), wait_for_holder=False), 30)

    assert standing(mine) is Standing.FRESH


async def test_a_change_of_the_report_is_written_at_once_and_no_change_is_not(
    lease: Callable[..., Lease], kube: KubeClient, replica: str
) -> None:
    mine, slots = lease("me"), 1
    await mine.take(lambda: ReplicaReport(slots=slots), wait_for_holder=False)
    async with kept(mine, lambda: ReplicaReport(slots=slots)) as renewals:
        await asyncio.wait_for(renewals.get(), 30)
        mine.report_changed()
        for _ in range(5):
            await asyncio.sleep(0)
        assert renewals.empty()

        slots = 4
        mine.report_changed()
        await asyncio.wait_for(renewals.get(), 30)
    made = await stored(kube, replica)
    assert json.loads(made["metadata"]["annotations"][REPORT_ANNOTATION])["slots"] == 4


async def test_a_drain_is_noticed_and_survives_a_takeover(
    lease: Callable[..., Lease], kube: KubeClient, replica: str
) -> None:
    mine = lease("me")
    await mine.take(report(), wait_for_holder=False)
    assert mine.drain_reason == ""
    async with kept(mine, report()) as renewals:
        await kube.merge_patch(
            LEASES,
            lease_name("p", replica),
            {"metadata": {"annotations": {DRAIN_ANNOTATION: "maintenance"}}},
            NAMESPACE,
        )
        while not mine.drain_reason:
            await asyncio.wait_for(renewals.get(), 30)

    successor = lease("successor")
    await successor.take(report(), wait_for_holder=False)
    assert successor.drain_reason == "maintenance"


async def test_leaving_names_no_holder_and_lets_the_next_one_in(
    lease: Callable[..., Lease], kube: KubeClient, replica: str
) -> None:
    mine, following = lease("me"), lease("following")
    await mine.take(report(), wait_for_holder=False)

    await mine.leave()

    assert standing(mine) is Standing.LOST
    assert "holderIdentity" not in (await stored(kube, replica))["spec"]
    await asyncio.wait_for(following.take(report(), wait_for_holder=True), 2 * SECONDS)
    assert standing(following) is Standing.FRESH


async def test_one_that_was_replaced_cannot_leave_for_its_successor(
    lease: Callable[..., Lease], kube: KubeClient, replica: str
) -> None:
    old, new = lease("old"), lease("new")
    await old.take(report(), wait_for_holder=False)
    await new.take(report(), wait_for_holder=False)

    await old.leave()

    assert (await stored(kube, replica))["spec"]["holderIdentity"] == "new"
