"""A stage that hangs in a step, as a kernel on an accelerator does that never ends."""

from collections.abc import AsyncIterator

import pytest

from tests.e2e.faults import Stage
from tests.e2e.recorder import recorded
from tests.e2e.system import System
from videojob.api.videojob import Phase

pytestmark = pytest.mark.timeout(900)

CHUNKS = 5


@pytest.fixture
async def impatient(system: System) -> AsyncIterator[System]:
    """The system, whose runner waits for a step for seconds only."""
    blue, usual = system.replicas["blue"], system.runner_module
    system.kill(blue.runner)
    system.runner_module = "tests.e2e.impatient_runner"
    system.start_runner("blue")
    await system.ready("blue")
    yield system
    system.runner_module = usual
    system.kill(blue.runner)


@pytest.mark.parametrize("stage", ["denoiser", "vae_decoder"])
async def test_a_stage_that_hangs_is_ended_and_the_attempt_goes_on(impatient: System, stage: Stage) -> None:
    quiet = await impatient.undisturbed()
    blue, name = impatient.replicas["blue"], f"hung-{stage.replace('_', '-')}"
    blue.faults.hold(stage, 2, "step", step=1)
    await impatient.submit(name, backoffLimit=0)
    async with recorded(impatient, name) as seen:
        await impatient.until(
            lambda: impatient.log_contains("blue", f"tiny.{stage} has made no step for"), "nobody sees that it hangs"
        )
        assert blue.faults.reached(stage), "it did not hang"
        blue.faults.release(stage)
        status = await impatient.until_finished(name)

    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 1, 0)
    assert {index: len(contents) for index, contents in seen.records.items()} == dict.fromkeys(range(CHUNKS), 1)
    assert impatient.output_sha256(status) == quiet
    assert await impatient.log_contains("blue", f"The process of tiny.{stage} has ended.")
