"""The real operator with 50,400 VideoJobs on a real API server: its memory, and how long its event loop is blocked.

By phase: reading everything, a steady stream of events, a model that loses its last replica. A block is what the
operator's own metrics have of it, as an upper bound, that of the bucket of a histogram: in wall time, and in CPU time,
which is the better figure where others use the machine too. $JOBS chooses another number of jobs.
"""

import asyncio
import os
import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dev.control_plane import NAMESPACE, Cluster
from tests.bench.bench_control_plane import bounded, cpu_seconds, job_body
from tests.bench.many_jobs import copy_jobs
from tests.controller.stub_runner import StubRunner, hold
from tests.controller.world import REAL, OperatorProcess, World, operator_process, until
from videojob.api.replica import lease_name
from videojob.kube.client import LEASES, VIDEO_JOBS, VIDEO_QUEUES, Json, KubeClient, KubeError

JOBS = int(os.environ.get("JOBS", "50400"))
NAMESPACES = 4
QUEUES = ("default", "batch")
SLOTS = 64
EVENTS = 4000
STEADY_RATE = 200
LEASE_SECONDS = 240
"""The stub's reports name no job: with few of them, the operator does not wonder."""
LOSS_SECONDS = 40.0
READY_SECONDS = 600.0
GOAL_MB = 400
GOAL_SECONDS = 0.1


class Blocks(NamedTuple):
    """What a histogram of blocks has of a phase."""

    longest: float
    """Upper bound of the longest, in seconds."""
    long: int
    """How many were longer than the goal."""


@dataclass
class Measure:
    """What a phase has cost."""

    name: str
    seconds: float
    cpu: float
    resident: float
    peak: float
    """Megabytes, as the process's own numbers at the end of the phase."""
    lag: "Blocks"
    busy: "Blocks"
    events: int


class Phases:
    """Measures phases of a process, one after the other."""

    def __init__(self, operator: OperatorProcess) -> None:
        self._operator = operator
        self._began = perf_counter() - running_seconds(operator.process.pid)
        self._cpu = 0.0
        self._events = 0.0
        self._counts: dict[str, dict[float, float]] = {}
        self.measures: list[Measure] = []

    async def end(self, name: str) -> Measure:
        """A phase is over, and the next one begins."""
        text, pid = await self._operator.metrics(), self._operator.process.pid
        events = total(text, "videojob_operator_watch_events_total")
        now, cpu = perf_counter(), cpu_seconds({"operator": pid})["operator"]
        found = Measure(
            name,
            now - self._began,
            cpu - self._cpu,
            megabytes(pid, "VmRSS"),
            megabytes(pid, "VmHWM"),
            self._blocks(text, "videojob_operator_loop_lag_seconds"),
            self._blocks(text, "videojob_operator_loop_busy_seconds"),
            round(events - self._events),
        )
        self._began, self._cpu, self._events = now, cpu, events
        self.measures.append(found)
        return found

    def _blocks(self, text: str, name: str) -> Blocks:
        counts, old = buckets(text, name), self._counts.get(name, {})
        self._counts[name] = counts
        new = {bound: count - old.get(bound, 0.0) for bound, count in counts.items()}
        longest = max((bound for bound, count in new.items() if count), default=0.0)
        return Blocks(longest, round(sum(count for bound, count in new.items() if bound > GOAL_SECONDS)))


@pytest.mark.timeout(1800)
async def test_scale(cluster: Cluster, client: KubeClient, namespace: str, tmp_path: Path) -> None:
    """Prints a table. That the operator knows every job, and none is lost, is the test."""
    world = World(cluster, client, namespace, tmp_path / "store")
    namespaces = [namespace, *(f"{namespace}-{number}" for number in range(1, NAMESPACES))]
    for name in namespaces[1:]:
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    await world.models()
    await world.pools(max_jobs=SLOTS)
    for name in namespaces:
        for queue in QUEUES:
            body: Json = {"apiVersion": "videojob.dev/v1alpha1", "kind": "VideoQueue", "metadata": {"name": queue}}
            await client.create(VIDEO_QUEUES, body | {"spec": {}}, name)
    draw = random.Random(1)
    bodies = [body_of(number, world.model, draw) for number in range(JOBS)]
    await client.create(VIDEO_JOBS, bodies[0], namespace)
    copies = ((namespaces[at % NAMESPACES], body) for at, body in enumerate(bodies) if at)
    await copy_jobs(cluster, namespace, bodies[0]["metadata"]["name"], copies)

    async def served() -> bool | None:
        """Whether the API server has seen all of them: its cache follows etcd."""
        try:
            answer = await client.list(VIDEO_JOBS, limit="1")
        except KubeError as error:
            assert error.transient, error
            return None
        return True if answer["metadata"].get("remainingItemCount", 0) == JOBS - 1 else None

    await until(served, "the API server serves every job", READY_SECONDS)
    runner = StubRunner(
        client, NAMESPACE, world.pool, ("r0",), (world.model,), behave=hold, slots=SLOTS, lease_seconds=LEASE_SECONDS
    )
    try:
        with operator_process(cluster, tmp_path / "operator.log", REAL, READY_SECONDS) as operator:
            phases = Phases(operator)

            async def complete() -> bool | None:
                return True if await operator.metric("videojob_jobs") == JOBS else None

            async def held() -> bool | None:
                return True if await operator.metric("videojob_jobs", phase="Running") == SLOTS else None

            await until(complete, "every job is known", READY_SECONDS)
            await phases.end("everything is read")
            await runner.start()
            await until(held, "the replica has all that it takes", READY_SECONDS)
            await steady(client, namespaces, draw)
            await phases.end("a stream of events")
            await runner.stop()
            left = {"spec": {"holderIdentity": None}}
            await client.merge_patch(LEASES, lease_name(world.pool, "r0"), left, NAMESPACE)
            await asyncio.sleep(LOSS_SECONDS)
            await phases.end("no replica any more")
            assert await operator.metric("videojob_jobs") == JOBS
            assert not await operator.metric("videojob_jobs", phase="Running")
    finally:
        await runner.stop()
    print(f"\n\n{JOBS:,} jobs; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"  {'':22}{'':7}{'':8}{'':8}{'':8}{'':9}{'longest block of the loop, and how many > 100 ms':>52}")
    print(f"  {'':22}{'s':>7}{'CPU s':>8}{'events':>8}{'RSS MB':>8}{'peak MB':>9}{'wall time':>26}{'CPU time':>26}")
    for one in phases.measures:
        blocks = "".join(f"{f'<= {found.longest * 1000:.0f} ms, {found.long}':>26}" for found in (one.lag, one.busy))
        print(
            f"  {one.name:22}{one.seconds:7.0f}{one.cpu:8.1f}{one.events:8}{one.resident:8.0f}{one.peak:9.0f}{blocks}"
        )
    print(f"  {'goal':22}{'':23}{GOAL_MB:8}{GOAL_MB:9}{f'<= {GOAL_SECONDS * 1000:.0f} ms, 0':>26}")


def body_of(number: int, model: str, draw: random.Random) -> Json:
    """A small job."""
    body = job_body(f"job-{number:06}", model)
    body["spec"] |= {"queueName": draw.choice(QUEUES), "priority": draw.choice((0, 0, 0, 5, 10))}
    return body


async def steady(client: KubeClient, namespaces: list[str], draw: random.Random) -> None:
    """Change jobs that wait, at a steady rate."""
    began = perf_counter()
    for first in range(0, EVENTS, STEADY_RATE // 10):
        numbers = draw.sample(range(JOBS), STEADY_RATE // 10)
        await bounded(
            client.merge_patch(
                VIDEO_JOBS,
                f"job-{number:06}",
                {"metadata": {"labels": {"bench": str(first)}}},
                namespaces[number % NAMESPACES],
            )
            for number in numbers
        )
        await asyncio.sleep(max(0.0, began + (first / STEADY_RATE + 0.1) - perf_counter()))


def buckets(text: str, name: str) -> dict[float, float]:
    """What a histogram has counted in each bucket, by its upper bound."""
    found = {0.0: 0.0}
    for family in text_string_to_metric_families(text):
        if family.name == name:
            found |= {float(one.labels["le"]): one.value for one in family.samples if one.name.endswith("_bucket")}
    return {upper: found[upper] - found[lower] for lower, upper in pairwise(sorted(found))}


def total(text: str, name: str) -> float:
    """The sum of a metric."""
    return sum(
        one.value for family in text_string_to_metric_families(text) for one in family.samples if one.name == name
    )


def megabytes(pid: int, field: str) -> float:
    """A field of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6


def running_seconds(pid: int) -> float:
    """For how long a process has run."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
