"""A stage that hangs in a step, as a kernel on an accelerator does that never ends; a sequence that Triton drops."""

from collections.abc import AsyncIterator

import pytest
from tritonclient.grpc.aio import InferenceServerClient

from tests.e2e.faults import Stage
from tests.e2e.recorder import recorded
from tests.e2e.system import System
from videojob.api.videojob import Phase
from videojob.runner.recipe import correlation_id
from videojob.runner.triton import ANSWER_SECONDS

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


@pytest.fixture
async def forgetful(system: System) -> AsyncIterator[System]:
    """The system, whose Triton takes a client for dead that asked for nothing for a second."""
    blue = system.replicas["blue"]
    usual = {path: path.read_text() for path in (blue.folder / "model_repo").glob("*/config.pbtxt")}
    for path, text in usual.items():
        path.write_text(text.replace(f"idle_microseconds: {ANSWER_SECONDS * 1e6:.0f}", "idle_microseconds: 1000000"))
    system.kill(blue.runner)
    system.kill_triton("blue")
    system.start("blue")
    await system.ready("blue")
    async with InferenceServerClient(f"127.0.0.1:{blue.ports[0]}") as triton:
        await triton.update_log_settings({"log_verbose_level": 1})  # Nothing else says that it has dropped one.
    yield system
    for path, text in usual.items():
        path.write_text(text)
    system.kill(blue.runner)
    system.kill_triton("blue")


async def test_a_sequence_that_triton_drops_begins_again_from_its_commits(forgetful: System) -> None:
    """Its next request is one that Triton does not know a sequence for (triton-inference-server/server #6846)."""
    quiet = await forgetful.undisturbed()
    blue = forgetful.replicas["blue"]
    blue.faults.hold("denoiser", 2)
    await forgetful.submit("dropped", backoffLimit=0)
    await forgetful.until_chunks("dropped", 2)
    dropped = f"Reaper: force-ending CORRID {correlation_id(await forgetful.job('dropped'))}"
    log = blue.folder / "triton.log"

    async def said() -> bool:
        return dropped in log.read_text(errors="replace")

    await forgetful.until(said, "Triton does not drop the sequence")
    blue.faults.release("denoiser")
    status = await forgetful.until_finished("dropped")

    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 1, 0)
    assert forgetful.output_sha256(status) == quiet
    assert await forgetful.log_contains("blue", "The sequence starts again from chunk")
