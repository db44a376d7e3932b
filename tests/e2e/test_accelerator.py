"""Accelerators that fail: a stage that cannot go on ends itself, and a replica that makes nothing takes no jobs."""

import pytest

from tests.e2e.faults import Stage
from tests.e2e.recorder import recorded
from tests.e2e.system import System
from videojob.api.conditions import ConditionType
from videojob.api.videojob import Phase
from videojob.kube.client import GPU_POOLS

pytestmark = pytest.mark.timeout(900)

CHUNKS = 5
JOBS = 6


@pytest.mark.parametrize("stage", ["denoiser", "vae_decoder"])
async def test_a_stage_whose_accelerator_failed_is_started_again_and_the_attempt_goes_on(
    system: System, stage: Stage
) -> None:
    """Every later call of its process would fail, and Triton would go on to say that it is ready."""
    quiet = await system.undisturbed()
    blue, name = system.replicas["blue"], f"broken-{stage.replace('_', '-')}"
    blue.faults.break_accelerator(stage, 2, times=1)
    await system.submit(name, backoffLimit=0)
    async with recorded(system, name) as seen:
        status = await system.until_finished(name)

    assert blue.faults.reached(stage), "the fault did not happen"
    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 1, 0)
    assert {index: len(contents) for index, contents in seen.records.items()} == dict.fromkeys(range(CHUNKS), 1)
    assert system.output_sha256(status) == quiet
    assert await system.log_contains("blue", f"The process of tiny.{stage} has ended.")


async def test_a_replica_with_a_broken_accelerator_fails_no_job_and_says_so(system: System) -> None:
    quiet = await system.undisturbed()
    blue, green = system.replicas["blue"], system.replicas["green"]
    blue.faults.break_accelerator("denoiser", 0)
    green.faults.clear()
    system.start("green")
    await system.ready("green")
    names = [f"spared-{number}" for number in range(JOBS)]
    try:
        for name in names:
            await system.submit(name, backoffLimit=0)
        await system.until(lambda: reports(system, "illegal memory access"), "blue does not report it")
        found = [await system.until_finished(name) for name in names]
        pool = await system.client.get(GPU_POOLS, system.pool)
    finally:
        blue.faults.clear()
        for replica in (blue, green):  # What is thought of blue goes with its runner.
            system.kill(replica.runner)
            system.kill_triton(replica.name)

    assert [(status.phase, status.failures) for status in found] == [(Phase.SUCCEEDED, 0)] * JOBS
    assert {system.output_sha256(status) for status in found} == {quiet}
    ready = next(each for each in pool["status"]["conditions"] if each["type"] == ConditionType.READY)
    assert ready["status"] == "True", "the pool has a replica that works"
    await system.until(lambda: system.silent("green"), "the other replica gets jobs though it was killed")


async def reports(system: System, what: str) -> bool:
    return what in (await system.report("blue")).accelerator_error
