"""One history: a scenario from a seed, run until its faults stop, then until all is quiet; and what it came to."""

import asyncio
import gc
import logging
import random
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.clock import Stuck, VirtualLoop, run
from tests.simulation.happenings import GARBAGE, Happenings
from tests.simulation.leader import installed, operator
from tests.simulation.process import install
from tests.simulation.scenario import TEAM, Scenario, draw
from tests.simulation.world import SYSTEM, OperatorMain, World
from videojob.api.reasons import Reason
from videojob.kube.client import VIDEO_JOBS

Json = dict[str, Any]
LOOK_SECONDS = 5.0
PATIENCE_SECONDS = 2400.0
"""Of virtual time, after the last fault: pauses of 10 minutes, stores that are given up after 5, B, TTLs."""
SETTLED_SECONDS = 60.0
"""So long after the last fault its traces are gone: a request that nobody answered is given up after 30 s, an operator
that started in vain starts again, and a Lease that nobody holds expires."""
QUIET_SECONDS = 30.0
"""So long after the end, and when all has settled, nobody writes anything but Leases."""
FINISHED = ("Succeeded", "Failed", "Cancelled")
WRITES_AT_FIRST, WRITES_AN_ATTEMPT = 25, 12


@dataclass
class Outcome:
    """What a history came to."""

    seed: int
    faults: list[str] = field(default_factory=list)
    """What must not be; empty where all is well."""
    trace: list[str] = field(default_factory=list)
    """The last events."""
    seconds: float = 0.0
    """Of virtual time."""
    jobs: int = 0
    attempts: int = 0
    losses: int = 0
    writes: int = 0
    """Of operators, on jobs."""
    requests: int = 0

    def __str__(self) -> str:
        lines = [f"seed {self.seed}:", *(f"  {fault}" for fault in self.faults), "  the last events:"]
        return "\n".join([*lines, *(f"    {line}" for line in self.trace)])


def history(seed: int, operator: OperatorMain = operator, *, events: int = 50) -> Outcome:
    """Run the history of a seed; its trace has so many of the last events."""
    return play(draw(seed), operator, events=events)


def play(scenario: Scenario, operator: OperatorMain = operator, *, events: int = 50) -> Outcome:
    """Run a scenario. The same one comes out the same, event by event."""
    return play_world(scenario, operator, events=events)[0]


def play_world(scenario: Scenario, operator: OperatorMain = operator, *, events: int = 50) -> tuple[Outcome, World]:
    """As `play`, with the world as it was at the end."""
    random.seed(scenario.seed)
    outcome = Outcome(scenario.seed)
    worlds: list[World] = []

    async def main(loop: VirtualLoop) -> None:
        install(loop)
        world = World(scenario, loop, operator, events)
        worlds.append(world)
        with world.stores.installed(), installed(world):
            await _play(world)

    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        run(main)
    except Stuck as stuck:
        worlds[0].ledger.fault(str(stuck))
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()
    _sum_up(worlds[0], outcome)
    return outcome, worlds[0]


async def _play(world: World) -> None:
    scenario = world.scenario
    world.set_up()
    keeper = asyncio.create_task(world.keep_running())
    happenings = Happenings(world)
    for job in scenario.jobs:
        world.loop.call_at(job.at, lambda job=job: world.create(VIDEO_JOBS, job.name, job.spec, TEAM))  # type: ignore[misc]
    for one in scenario.happenings:
        world.loop.call_at(one.at, happenings.happen, one)
    await asyncio.sleep(scenario.calm_at + 1e-6)
    world.calm()
    world.ledger.note("=== no more faults")
    happenings.settle()
    for text in await _until_ended(world, unreadable_too=False):
        world.ledger.fault(f"held up by an unreadable object: {text}")
    happenings.restore()
    world.ledger.note("=== all is readable")
    still = await _until_ended(world, unreadable_too=True)
    for text in still:
        world.ledger.fault(text)
    if not still:
        await asyncio.sleep(max(scenario.calm_at + SETTLED_SECONDS - world.clock.monotonic(), LOOK_SECONDS))
        before = world.ledger.all_writes
        await asyncio.sleep(QUIET_SECONDS)
        if world.ledger.all_writes > before:
            world.ledger.fault("something is still written although nothing is to be done")
    _check_end(world)
    keeper.cancel()
    for process in [*world.operators.values(), *world.retired, *(one.process for one in world.runners.values())]:
        process.kill()
    await asyncio.sleep(0.1)


async def _until_ended(world: World, unreadable_too: bool) -> list[str]:
    """Wait until every job has ended; what has not by then."""
    limit = world.clock.monotonic() + PATIENCE_SECONDS
    while world.clock.monotonic() < limit:
        await asyncio.sleep(LOOK_SECONDS)
        if not _unended(world, unreadable_too):
            return []
    return _unended(world, unreadable_too)


def _unended(world: World, unreadable_too: bool) -> list[str]:
    jobs = [job for job in world.server.objects("videojobs") if job["metadata"]["name"] != "garbage"]
    unreadable = [job for job in jobs if isinstance(job["spec"].get("priority"), str)]
    # Those that have not ended keep the slots that they had, for which others may have to wait.
    statuses = [job.get("status") or {} for job in unreadable]
    full = any(status.get("attempts") and status.get("phase") not in FINISHED for status in statuses)
    found = []
    for job in jobs:
        metadata, spec, status = job["metadata"], job["spec"], job.get("status") or {}
        if not unreadable_too and (job in unreadable or (full and status.get("reason") == Reason.QUEUED)):
            continue
        name, uid = metadata["name"], metadata["uid"]
        if status.get("phase") not in FINISHED:
            conditions = {one["type"]: one.get("message") for one in status.get("conditions", ())}
            found.append(f"{name} ({uid}) has not ended: {status.get('phase')}, {status.get('reason')}, {conditions}")
        elif "deletionTimestamp" in metadata:
            found.append(f"{name} ({uid}) is still being deleted: {metadata.get('finalizers')}")
        elif spec.get("ttlSecondsAfterFinished") is not None:
            found.append(f"{name} ({uid}) outlives its ttlSecondsAfterFinished")
        elif status.get("earlierStores") or status.get("cutOffUntil"):
            found.append(f"{name} ({uid}) has files that are still to be swept: {status.get('earlierStores')}")
    orphans = world.server.collection("configmaps").objects.get((SYSTEM, "videojob-orphans"), {})
    # What closes a job is removed once that is gone: one that cannot be read is not.
    own = {job["metadata"]["uid"] for job in unreadable} if not unreadable_too else set()
    left = [key for key in orphans.get("data") or {} if key not in GARBAGE and key.split(".")[0] not in own]
    if left:
        found.append(f"files are still to be removed: {left}")
    return [*found, *(world.deployments.unrested() if unreadable_too else ())]


def _check_end(world: World) -> None:
    ledger = world.ledger
    world.check_processes()
    there = {job["metadata"]["uid"]: job for job in world.server.objects("videojobs")}
    for plan in world.scenario.jobs:
        if not any(job["metadata"]["name"] == plan.name for job in ledger.jobs.values()):
            ledger.fault(f"{plan.name} was never created")
    for uid, job in ledger.jobs.items():
        status = job.get("status") or {}
        _check_generation(world, there.get(uid))
        limit = WRITES_AT_FIRST + WRITES_AN_ATTEMPT * max(status.get("attempts", 0), 1)
        if ledger.writes[uid] > limit:
            ledger.fault(f"{uid}: operators wrote it {ledger.writes[uid]} times in {status.get('attempts')} attempts")
        if uid not in there:
            _check_files(world, uid, job)


def _check_generation(world: World, job: Json | None) -> None:
    """kubectl and kstatus wait for the newest generation on status and conditions."""
    if job is None or job["metadata"]["name"] == "garbage":
        return
    status, newest = job.get("status") or {}, job["metadata"]["generation"]
    stamps = [status.get("observedGeneration"), *(one.get("observedGeneration") for one in status["conditions"])]
    if any(stamp != newest for stamp in stamps):
        world.ledger.fault(f"{job['metadata']['uid']} has generation {newest}, and its status shows {stamps}")


def _check_files(world: World, uid: str, job: Json) -> None:
    """Of a job that is gone nothing is left, or its video."""
    keeps = job["spec"].get("output", {}).get("deletionPolicy") != "Delete"
    succeeded = (job.get("status") or {}).get("phase") == "Succeeded"
    left = [key for bucket in world.stores.buckets.values() for key in bucket.below(f"{TEAM}/{uid}")]
    kept = [key for key in left if "/output" in key]
    if succeeded and keeps and len(kept) != 2:
        world.ledger.fault(f"{uid} is gone, and its video should be there: {left}")
    if len(left) > (len(kept) if succeeded and keeps else 0):
        world.ledger.fault(f"{uid} is gone, and files are left: {left}")


def _sum_up(world: World, outcome: Outcome) -> None:
    ledger = world.ledger
    outcome.faults, outcome.trace = ledger.faults, list(ledger.trace)
    outcome.seconds = world.clock.monotonic()
    outcome.jobs = len(world.scenario.jobs)
    statuses = [job.get("status") or {} for job in ledger.jobs.values()]
    outcome.attempts = sum(status.get("attempts", 0) for status in statuses)
    outcome.losses = sum(status.get("losses", 0) for status in statuses)
    outcome.writes = sum(ledger.writes.values())
    outcome.requests = sum(world.network.requests.values())
