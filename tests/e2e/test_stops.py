"""Stopping frees the replica within one denoising step, and keeps what is finished."""

import signal

import pytest

from dev.control_plane import NAMESPACE
from tests.e2e.recorder import recorded
from tests.e2e.system import System
from videojob.api.conditions import ConditionType
from videojob.api.replica import DRAIN_ANNOTATION, lease_name
from videojob.api.videojob import Phase
from videojob.kube.client import GPU_POOLS, LEASES

pytestmark = pytest.mark.timeout(900)

STEPS, HELD = 12, 5
"""Denoising steps of a chunk, and the one at which the test stops it."""


async def in_the_middle_of_a_chunk(system: System, name: str) -> None:
    """Submit a job and wait until step HELD of its chunk 2 is being made, with chunks 0 and 1 in the store."""
    faults = system.replicas["blue"].faults
    faults.hold("denoiser", 2, "step", step=HELD)
    await system.submit(name, steps=STEPS)
    await system.until_chunks(name, 2)
    await system.until(lambda: reached(system), "the denoiser does not get there")


async def reached(system: System) -> bool:
    return system.replicas["blue"].faults.reached("denoiser")


async def draining(system: System) -> bool:
    return (await system.report("blue")).draining


async def renewed(system: System) -> set[str]:
    lease = await system.client.get(LEASES, lease_name(system.pool, "blue"), NAMESPACE)
    return {lease["spec"]["renewTime"]}


async def renewals(system: System, seen: set[str], count: int) -> bool:
    """Whether the Lease was renewed so often since; `seen` has the times until then."""
    seen |= await renewed(system)
    return len(seen) > count


async def let_go(system: System) -> None:
    """Let the denoiser go on, once the runner has marked the sequence."""
    replica = system.replicas["blue"]

    async def marked() -> bool:
        return any((replica.folder / "repository" / ".control").glob("*.mark"))

    await system.until(marked, "the sequence is not marked")
    replica.faults.release("denoiser")


def stopped_at_once(system: System) -> bool:
    """Whether the step after the one that was stopped was never begun."""
    steps = system.replicas["blue"].faults.steps("denoiser")
    return (2, HELD, True) in steps and all((chunk, step) != (2, HELD + 1) for chunk, step, _ in steps)


async def test_a_cancelled_job_frees_its_replica_within_a_step(system: System) -> None:
    await in_the_middle_of_a_chunk(system, "cancelled")
    await system.submit("next")
    await system.change("cancelled", cancel=True)
    await let_go(system)

    status = await system.until_finished("cancelled")
    following = await system.until_finished("next")

    assert status.phase is Phase.CANCELLED
    assert system.condition(status, ConditionType.CANCELLED)[0] == "True"
    assert stopped_at_once(system)
    assert following.phase is Phase.SUCCEEDED
    # Finished segments stay.
    assert set(system.records((await system.job("cancelled")).metadata.uid)) == {0, 1}


async def test_a_suspended_job_waits_and_goes_on_with_the_same_bytes(system: System) -> None:
    quiet = await system.undisturbed(steps=STEPS)
    system.replicas["blue"].faults.clear()
    await in_the_middle_of_a_chunk(system, "suspended")
    await system.submit("next")
    await system.change("suspended", suspend=True)
    await let_go(system)

    status = await system.until_status("suspended", lambda status: status.phase is Phase.SUSPENDED, "no suspend")
    following = await system.until_finished("next")
    assert status.assignment is None
    assert following.phase is Phase.SUCCEEDED
    assert stopped_at_once(system)
    assert set(system.records((await system.job("suspended")).metadata.uid)) == {0, 1}

    await system.change("suspended", suspend=False)
    status = await system.until_finished("suspended")

    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 2, 0)
    assert system.output_sha256(status) == quiet


async def test_a_deleted_job_leaves_no_files(system: System) -> None:
    await in_the_middle_of_a_chunk(system, "deleted")
    uid = (await system.job("deleted")).metadata.uid
    await system.begin_delete("deleted")
    await let_go(system)

    await system.until_gone("deleted")

    assert system.files(uid) == set()
    assert not (system.store / system.namespace / uid).exists()


async def test_sigterm_finishes_what_is_in_flight_and_hands_the_job_back(system: System) -> None:
    """As when a pod is deleted: no step is thrown away, no committed chunk is made twice, no byte differs."""
    quiet = await system.undisturbed(steps=STEPS)
    blue = system.replicas["blue"]
    blue.faults.clear()
    await in_the_middle_of_a_chunk(system, "drained")
    async with recorded(system, "drained") as seen:
        system.kill(blue.runner, signal.SIGTERM)
        await system.until(lambda: draining(system), "the replica does not report it")
        blue.faults.release("denoiser")

        status = await system.until_status("drained", lambda status: status.assignment is None, "it is not handed back")
        assert blue.runner is not None
        assert blue.runner.wait(timeout=30) == 0
        lease = await system.client.get(LEASES, lease_name(system.pool, "blue"), NAMESPACE)
        assert not lease["spec"].get("holderIdentity")
        assert (status.phase, status.failures) == (Phase.PENDING, 0)
        # Chunk 2 was being made and chunk 3 was requested.
        assert status.progress is not None and status.progress.chunks_done == 4
        assert seen.made(1) == {0, 1, 2, 3}
        assert not any(marked for _, _, marked in blue.faults.steps("denoiser"))

        system.start("blue")
        status = await system.until_finished("drained")

    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 2, 0)
    assert seen.made(2) == {4}
    assert {index: len(contents) for index, contents in seen.records.items()} == dict.fromkeys(range(5), 1)
    assert system.output_sha256(status) == quiet


async def test_a_drain_stops_what_takes_longer_than_it_may(system: System) -> None:
    quiet = await system.undisturbed(steps=STEPS)
    blue = system.replicas["blue"]
    system.kill(blue.runner, signal.SIGTERM)
    assert blue.runner is not None
    assert blue.runner.wait(timeout=30) == 0
    system.start_runner("blue", "--drain-seconds", "0.5")
    await system.ready("blue")
    blue.faults.clear()
    await in_the_middle_of_a_chunk(system, "overdue")
    runner = blue.runner
    system.kill(runner, signal.SIGTERM)
    await let_go(system)

    status = await system.until_status("overdue", lambda status: status.assignment is None, "it is not handed back")
    assert runner.wait(timeout=30) == 0
    assert (status.phase, status.failures) == (Phase.PENDING, 0)
    assert status.progress is not None and status.progress.chunks_done == 2
    assert stopped_at_once(system)

    system.start("blue")
    status = await system.until_finished("overdue")
    assert (status.phase, status.failures) == (Phase.SUCCEEDED, 0)
    assert system.output_sha256(status) == quiet


async def test_a_drain_asked_for_on_the_lease(system: System) -> None:
    await in_the_middle_of_a_chunk(system, "moved")
    lease = lease_name(system.pool, "blue")
    drain = {"metadata": {"annotations": {DRAIN_ANNOTATION: "maintenance"}}}
    await system.client.merge_patch(LEASES, lease, drain, NAMESPACE)
    await system.until(lambda: draining(system), "the replica does not report it")
    system.replicas["blue"].faults.release("denoiser")

    status = await system.until_status("moved", lambda status: status.assignment is None, "it is not handed back")
    assert (status.phase, status.failures) == (Phase.PENDING, 0)
    assert status.progress is not None and status.progress.chunks_done == 4

    drain["metadata"]["annotations"] = {DRAIN_ANNOTATION: None}  # type: ignore[dict-item]
    await system.client.merge_patch(LEASES, lease, drain, NAMESPACE)
    assert (await system.until_finished("moved")).phase is Phase.SUCCEEDED


async def test_an_endpoint_that_moves_is_drained_until_it_is_left(system: System) -> None:
    """It gets no job meanwhile, however often the Lease is renewed: one that came would be handed back, and again."""
    await in_the_middle_of_a_chunk(system, "there")
    pool = (await system.client.get(GPU_POOLS, system.pool))["spec"]
    elsewhere = [{**endpoint, "url": f"127.0.0.1:{system.free_port()}"} for endpoint in pool["endpoints"]]
    await system.client.merge_patch(GPU_POOLS, system.pool, {"spec": {"endpoints": elsewhere}})
    await system.until(lambda: draining(system), "the replica does not report it")
    await system.submit("next")
    before = await renewed(system)
    await system.until(lambda: renewals(system, before, 3), "the Lease is not renewed")

    assert await draining(system)
    assert (await system.job("next")).status.attempts == 0
    system.replicas["blue"].faults.release("denoiser")
    status = await system.until_status("there", lambda status: status.assignment is None, "it is not handed back")
    assert status.progress is not None and status.progress.chunks_done == 4

    await system.client.merge_patch(GPU_POOLS, system.pool, {"spec": {"endpoints": pool["endpoints"]}})
    assert [(await system.until_finished(name)).attempts for name in ("there", "next")] == [2, 1]


async def test_a_cancel_does_not_wait_for_a_drain(system: System) -> None:
    await in_the_middle_of_a_chunk(system, "impatient")
    lease = lease_name(system.pool, "blue")
    drain = {"metadata": {"annotations": {DRAIN_ANNOTATION: "maintenance"}}}
    await system.client.merge_patch(LEASES, lease, drain, NAMESPACE)
    await system.until(lambda: draining(system), "the replica does not report it")
    await system.change("impatient", cancel=True)
    await let_go(system)

    status = await system.until_finished("impatient")
    drain["metadata"]["annotations"] = {DRAIN_ANNOTATION: None}  # type: ignore[dict-item]
    await system.client.merge_patch(LEASES, lease, drain, NAMESPACE)
    assert status.phase is Phase.CANCELLED
    assert stopped_at_once(system)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_runner_ends_at_once(system: System, number: signal.Signals) -> None:
    runner = system.replicas["blue"].runner
    system.kill(runner, number)

    assert runner is not None
    assert runner.wait(timeout=30) == 0
    lease = await system.client.get(LEASES, lease_name(system.pool, "blue"), NAMESPACE)
    assert not lease["spec"].get("holderIdentity")
