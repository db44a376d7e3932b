"""Whatever is killed, paused or fails: no chunk is made twice, none is wrong, and the video is that of a quiet run."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.faults import Stage, When
from tests.e2e.recorder import recorded
from tests.e2e.system import MODEL, System
from videojob.api.conditions import ConditionType
from videojob.api.videojob import Phase

pytestmark = pytest.mark.timeout(900)

CHUNKS = 5


async def held_after(system: System, name: str, committed: int, **spec: Any) -> None:
    """Submit a job and wait until it has so many chunks in the store, and the denoiser waits with the next one."""
    faults = system.replicas["blue"].faults
    faults.hold("denoiser", committed)
    await system.submit(name, **spec)
    await system.until_chunks(name, committed)
    await system.until(lambda: _true(faults.reached("denoiser")), "the denoiser is not reached")


async def _true(value: bool) -> bool:
    return value


async def test_a_killed_runner_goes_on_from_the_last_commit(system: System) -> None:
    quiet = await system.undisturbed()
    await held_after(system, "orphan", 2)
    blue = system.replicas["blue"]
    regions = system.regions("blue")
    assert regions, "frames do not come through shared memory"
    async with recorded(system, "orphan") as seen:
        system.kill(blue.runner)
        blue.faults.release("denoiser")
        system.start("blue")
        status = await system.until_finished("orphan")

    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 2, 0)
    assert seen.made(2) == {2, 3, 4}, "committed chunks were made again"
    assert {index: len(contents) for index, contents in seen.records.items()} == dict.fromkeys(range(CHUNKS), 1)
    assert system.output_sha256(status) == quiet
    assert not system.regions("blue") & regions, "the killed runner's shared memory was not removed"


async def test_a_killed_tritonserver_is_loaded_again_and_the_attempt_goes_on(system: System) -> None:
    quiet = await system.undisturbed()
    await held_after(system, "tritonless", 2)
    blue = system.replicas["blue"]
    async with recorded(system, "tritonless") as seen:
        system.kill_triton("blue")
        blue.faults.clear()
        system.start("blue")
        status = await system.until_finished("tritonless")

    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 1, 0)
    assert {index: len(contents) for index, contents in seen.records.items()} == dict.fromkeys(range(CHUNKS), 1)
    # The new server was asked for nothing that was in the store.
    assert min(chunk for chunk, _, _ in blue.faults.steps("denoiser")) == 2
    assert system.output_sha256(status) == quiet


@pytest.mark.parametrize("stage", ["text_encoder", "denoiser", "vae_decoder"])
async def test_a_killed_process_of_a_stage_is_started_again_and_the_attempt_goes_on(
    system: System, stage: Stage
) -> None:
    """Triton starts no other by itself, answers every request with an error, and says that the model is ready.

    Twice: it loads a model a second time only where its files have changed, as they do when Python compiles them.
    """
    quiet = await system.undisturbed()
    blue = system.replicas["blue"]
    for number in (1, 2):
        name = f"stageless-{stage.replace('_', '-')}-{number}"
        await held_after(system, name, 2)
        async with recorded(system, name) as seen:
            blue.kill_stage(MODEL, stage)
            blue.faults.release("denoiser")
            status = await system.until_finished(name)

        assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 1, 0)
        assert {index: len(contents) for index, contents in seen.records.items()} == dict.fromkeys(range(CHUNKS), 1)
        assert system.output_sha256(status) == quiet
        assert not await system.log_contains("blue", "Cancelled:"), "a mark for the run before has stopped the sequence"
        blue.faults.clear()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("stage", ["denoiser", "vae_decoder"])
async def test_a_chunk_that_fails_while_the_next_is_in_flight(system: System, stage: Stage, when: When) -> None:
    quiet = await system.undisturbed()
    system.replicas["blue"].faults.fail(stage, 2, when)
    await system.submit(f"failing-{stage.replace('_', '-')}-{when}")

    status = await system.until_finished(f"failing-{stage.replace('_', '-')}-{when}")

    assert system.replicas["blue"].faults.reached(stage), "the fault did not happen"
    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 1, 0)
    assert system.output_sha256(status) == quiet


async def test_a_chunk_that_never_succeeds_fails_the_job_with_the_reason(system: System) -> None:
    system.replicas["blue"].faults.fail("denoiser", 1, times=-1)
    await system.submit("hopeless", backoffLimit=0)

    status = await system.until_finished("hopeless")

    assert (status.phase, status.reason, status.failures) == (Phase.FAILED, "BackoffLimitExceeded", 1)
    assert "ChunkFailed" in system.condition(status, ConditionType.FAILED)[2]
    assert status.progress is not None and status.progress.chunks_done == 1


async def test_a_zombie_writes_nothing_over_its_successor(system: System) -> None:
    quiet = await system.undisturbed()
    blue, green = system.replicas["blue"], system.replicas["green"]
    await held_after(system, "haunted", 1)
    async with recorded(system, "haunted") as seen:
        system.kill(blue.runner, signal.SIGSTOP)
        blue.faults.release("denoiser")  # Its answers wait for the zombie.
        green.faults.clear()
        green.faults.hold("denoiser", 3)
        system.start("green")
        try:
            await system.until_status(
                "haunted",
                lambda status: status.assignment is not None and status.assignment.replica == "green",
                "the job is not given to the other replica",
            )
            await system.until_chunks("haunted", 2)
            system.kill(blue.runner, signal.SIGCONT)
            await system.until(
                lambda: system.log_contains("blue", "haunted (attempt 1) is left alone"), "it does not stop"
            )
            green.faults.release("denoiser")
            status = await system.until_finished("haunted")
        finally:
            system.kill(blue.runner, signal.SIGCONT)
            system.kill(green.runner)
            system.kill_triton("green")

    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 2, 0)
    assert seen.made(2) == {1, 2, 3, 4}
    assert [contents[0]["attempt"] for _, contents in sorted(seen.records.items())] == [1, 2, 2, 2, 2]
    assert {index: len(contents) for index, contents in seen.records.items()} == dict.fromkeys(range(CHUNKS), 1)
    assert system.output_sha256(status) == quiet
    await system.ready("blue")  # It goes on as a replica.
    await system.until(lambda: system.silent("green"), "the other replica gets jobs though it was killed")


async def test_a_second_runner_of_a_replica_replaces_the_first(system: System) -> None:
    quiet = await system.undisturbed()
    await held_after(system, "contested", 1)
    blue = system.replicas["blue"]
    second = system.another_runner("blue", metrics_port=system.free_port())
    try:
        await system.until(
            lambda: system.log_contains("blue", "another runner has taken the Lease"), "the first goes on"
        )
        blue.faults.release("denoiser")
        status = await system.until_finished("contested")
    finally:
        system.kill(second)

    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 2, 0)
    assert system.output_sha256(status) == quiet
    await system.ready("blue")  # The first takes over again, now that the second is gone.


async def test_a_store_that_refuses_is_reported_until_it_works(system: System, tmp_path: Path) -> None:
    quiet = await system.undisturbed()
    await held_after(system, "unstored", 1)
    away = system.store.with_name("away")
    system.store.rename(away)
    system.store.write_text("no folder")  # Every path below fails, for root as well.
    try:
        system.replicas["blue"].faults.release("denoiser")
        status = await system.until_status(
            "unstored", lambda status: status.assignment is None, "the job is not handed back"
        )
        assert status.phase is Phase.PENDING
        assert "store" in system.condition(status, ConditionType.ASSIGNED)[2]
        await system.until(lambda: _reports_store_error(system), "the replica does not report it")
    finally:
        system.store.unlink()
        away.rename(system.store)

    status = await system.until_finished("unstored")

    assert (status.phase, status.failures) == (Phase.SUCCEEDED, 0)
    assert system.output_sha256(status) == quiet


async def _reports_store_error(system: System) -> bool:
    return "store" in (await system.report("blue")).store_error


async def test_a_chunk_that_another_attempt_has_committed_is_adopted(system: System) -> None:
    quiet = await system.undisturbed()
    await held_after(system, "donor", 4)
    donor = (await system.job("donor")).metadata.uid
    chunk = system.chunk_files(donor, 2)
    system.replicas["blue"].faults.release("denoiser")
    await system.until_finished("donor")

    await held_after(system, "adopting", 2)
    async with recorded(system, "adopting") as seen:
        system.put_chunk((await system.job("adopting")).metadata.uid, 2, chunk, attempt=7)
        system.replicas["blue"].faults.release("denoiser")
        status = await system.until_finished("adopting")

    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 1, 0)
    assert [record["attempt"] for record in seen.records[2]] == [7]
    assert system.output_sha256(status) == quiet


async def test_a_chunk_that_was_committed_with_other_bytes_is_what_the_job_goes_on_from(system: System) -> None:
    """Of another seed, say, as by a bug. The log is the truth, and nothing is built on what is not in it."""
    await held_after(system, "stranger", 4, seed=8)
    chunk = system.chunk_files((await system.job("stranger")).metadata.uid, 2)
    system.replicas["blue"].faults.release("denoiser")
    await system.until_finished("stranger")

    await held_after(system, "misled", 2)
    async with recorded(system, "misled") as seen:
        system.put_chunk((await system.job("misled")).metadata.uid, 2, chunk, attempt=7)
        system.replicas["blue"].faults.release("denoiser")
        status = await system.until_finished("misled")

    assert status.phase is Phase.SUCCEEDED
    assert [record["attempt"] for record in seen.records[2]] == [7]
    begun = [step for step in system.replicas["blue"].faults.steps("denoiser") if step[:2] == (3, 1)]
    assert len(begun) >= 2, "chunk 3 was not made again from the chunk that counts"


async def test_a_video_that_is_finished_is_adopted_without_a_chunk(system: System) -> None:
    """As after a runner that was killed between committing the video and reporting it."""
    quiet = await system.undisturbed()
    await system.submit("finished")
    made = (await system.job("finished")).metadata.uid
    await system.until_finished("finished")
    await system.until(lambda: system.has_only_its_video(made), "its parts are not deleted")
    await system.submit("unsaid", suspend=True)
    system.copy_output(made, (await system.job("unsaid")).metadata.uid)
    system.replicas["blue"].faults.clear()
    await system.change("unsaid", suspend=False)

    status = await system.until_finished("unsaid")

    assert status.phase is Phase.SUCCEEDED
    assert system.output_sha256(status) == quiet
    assert system.replicas["blue"].faults.steps("denoiser") == []


async def test_a_job_that_was_resolved_to_other_weights_is_refused(system: System) -> None:
    system.kill(system.operator)  # The test acts for it.
    await system.submit("misplaced")
    await system.assign("misplaced", "blue", weights_digest="sha256:" + "0" * 64)

    status = await system.until_status("misplaced", lambda status: status.assignment is None, "the job is not refused")

    assert status.reason == "WeightsChanged"
    assert status.progress is None and status.failures == 0


async def test_a_job_gets_the_weights_that_its_first_replica_reads(system: System) -> None:
    """On its status before anything is made: the next attempt may be on a replica with others."""
    quiet = await system.undisturbed()
    blue = system.replicas["blue"]
    (loaded,) = (await system.report("blue")).models
    system.kill(system.operator)  # The test acts for it.
    blue.faults.hold("denoiser", 0)
    await system.submit("first")
    await system.assign("first", "blue", weights_digest="")

    await system.until(lambda: _true(blue.faults.reached("denoiser")), "the denoiser does not get there")
    resolved = (await system.job("first")).status.resolved
    assert resolved is not None and resolved.weights_digest == loaded.digest
    blue.faults.release("denoiser")

    assert system.output_sha256(await system.until_finished("first")) == quiet


async def test_a_replica_that_fails_what_it_gets_fails_no_job(system: System) -> None:
    """As with a broken accelerator: each job goes to the other replica next."""
    quiet = await system.undisturbed()
    system.replicas["blue"].faults.fail("denoiser", 1, times=-1)
    green = system.replicas["green"]
    green.faults.clear()
    system.start("green")
    await system.ready("green")
    names = [f"unlucky-{number}" for number in range(4)]
    try:
        for name in names:
            await system.submit(name, backoffLimit=1)
        found = [await system.until_finished(name) for name in names]
    finally:
        system.kill(green.runner)
        system.kill_triton("green")

    assert [(status.phase, system.output_sha256(status)) for status in found] == [(Phase.SUCCEEDED, quiet)] * 4
    assert any(status.failures for status in found), "the broken replica got no job: the test shows nothing"
    assert all(status.failures <= 1 for status in found)
    await system.until(lambda: system.silent("green"), "the other replica gets jobs though it was killed")
