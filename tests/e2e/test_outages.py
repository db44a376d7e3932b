"""An API server that goes away costs nothing that was made or could be made meanwhile."""

import asyncio
import secrets
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.e2e.recorder import Seen, recorded
from tests.e2e.system import LEASE_SECONDS, System
from tests.e2e.test_faults import CHUNKS, held_after
from videojob.api.videojob import Phase

pytestmark = pytest.mark.timeout(900)

AWAY_SECONDS = 20.0
Outage = Callable[[System], AbstractContextManager[None]]
OUTAGES = [
    pytest.param(System.silent_api_server, id="silent"),
    pytest.param(System.refusing_api_server, id="killed"),
]


async def cut_off(system: System) -> None:
    """Wait until the runner has not renewed its Lease for longer than the Lease lasts."""
    await system.until(lambda: system.log_contains("blue", "was not renewed"), "the runner renews its Lease")
    await asyncio.sleep(LEASE_SECONDS)


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("operator", [True, False], ids=["operator runs", "operator is away as well"])
async def test_a_job_runs_on_and_ends_as_if_nothing_had_been(system: System, outage: Outage, operator: bool) -> None:
    quiet = await system.undisturbed()
    system.replicas["blue"].faults.clear()
    name = f"away-{secrets.token_hex(4)}"
    await held_after(system, name, 2)
    uid = (await system.job(name)).metadata.uid
    if not operator:
        system.kill(system.operator)
    began = asyncio.get_running_loop().time()
    async with recorded(system, name) as seen:
        with outage(system):
            await cut_off(system)
            assert set(seen.records) == {0, 1}
            system.replicas["blue"].faults.release("denoiser")
            await system.until(lambda: system.has(uid, "output.json"), "the video is not made without the API server")
            await asyncio.sleep(max(0.0, began + AWAY_SECONDS - asyncio.get_running_loop().time()))
            assert set(seen.records) == set(range(CHUNKS))
            assert seen.made(1) == Seen(system.files(uid)).made(1) == set(range(CHUNKS)), "a chunk was deleted"
        if not operator:
            await system.until_status(name, lambda status: status.phase is Phase.SUCCEEDED, "its end is not written")
            system.start_operator()
        status = await system.until_finished(name)

    assert (status.phase, status.attempts, status.losses, status.failures) == (Phase.SUCCEEDED, 1, 0, 0)
    assert {index: len(contents) for index, contents in seen.records.items()} == dict.fromkeys(range(CHUNKS), 1)
    begun = [chunk for chunk, step, _ in system.replicas["blue"].faults.steps("denoiser") if step == 1]
    assert sorted(begun) == list(range(CHUNKS)), "a chunk was made twice"
    assert system.output_sha256(status) == quiet
    await system.until(lambda: system.has_only_its_video(uid), "its chunks are not discarded")


@pytest.mark.parametrize("outage", OUTAGES)
async def test_a_runner_that_is_killed_meanwhile_is_followed_by_one_that_makes_no_chunk_again(
    system: System, outage: Outage
) -> None:
    quiet = await system.undisturbed()
    system.replicas["blue"].faults.clear()
    name = f"killed-{secrets.token_hex(4)}"
    await held_after(system, name, 2)
    blue = system.replicas["blue"]
    async with recorded(system, name) as seen:
        with outage(system):
            await cut_off(system)
            blue.faults.hold("vae_decoder", 3)
            blue.faults.release("denoiser")
            await system.until(lambda: _has_record(seen.records, 2), "no chunk is made without the API server")
            system.kill(blue.runner)
            blue.faults.release("vae_decoder")
            system.start_runner("blue")
            await asyncio.sleep(LEASE_SECONDS)
        status = await system.until_finished(name)

    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 2, 0)
    assert seen.made(2) == {3, 4}, "a chunk was made again"
    assert {index: len(contents) for index, contents in seen.records.items()} == dict.fromkeys(range(CHUNKS), 1)
    assert system.output_sha256(status) == quiet


async def _has_record(records: dict[int, list[dict[str, object]]], index: int) -> bool:
    return index in records


@pytest.mark.parametrize(
    ("spec", "condition"),
    [
        pytest.param({"priority": 5}, "Complete", id="priority"),
        pytest.param({"ttlSecondsAfterFinished": 86400}, "Complete", id="time to live"),
        pytest.param({"cancel": True}, "Cancelled", id="cancel"),
        pytest.param({"suspend": True}, "Suspended", id="suspend"),
    ],
)
async def test_kubectl_wait_returns_though_the_spec_was_patched_while_the_job_ran(
    system: System, spec: dict[str, object], condition: str
) -> None:
    name = f"patched-{next(iter(spec)).lower()}"
    await held_after(system, name, 1)
    await system.change(name, **spec)
    if condition != "Complete":
        await system.until(lambda: _sees_cancel(system, name), "the replica is not asked for the job")
    system.replicas["blue"].faults.release("denoiser")

    wait = ("wait", f"videojob/{name}", "--namespace", system.namespace, f"--for=condition={condition}")
    await asyncio.to_thread(system.cluster.kubectl, *wait, "--timeout=50s")

    job = await system.job(name)
    assert {each.observed_generation for each in job.status.conditions} == {job.metadata.generation}
    await system.change(name, suspend=False)


async def _sees_cancel(system: System, name: str) -> bool:
    held = (await system.job(name)).status.assignment
    return held is not None and held.release is not None


async def test_a_runner_that_is_stopped_longer_than_its_lease_is_back_at_its_job(system: System) -> None:
    """As a machine that was suspended. Nobody has taken the job: there is no operator meanwhile."""
    quiet = await system.undisturbed()
    await held_after(system, "asleep", 2)
    system.kill(system.operator)
    blue = system.replicas["blue"]
    async with recorded(system, "asleep") as seen:
        system.kill(blue.runner, signal.SIGSTOP)
        await asyncio.sleep(LEASE_SECONDS + 1)
        system.kill(blue.runner, signal.SIGCONT)
        blue.faults.release("denoiser")
        await system.until_status("asleep", lambda status: status.phase is Phase.SUCCEEDED, "it does not go on")
        system.start_operator()
        status = await system.until_finished("asleep")

    assert (status.attempts, status.losses) == (1, 0)
    assert {index: len(contents) for index, contents in seen.records.items()} == dict.fromkeys(range(CHUNKS), 1)
    assert system.output_sha256(status) == quiet
