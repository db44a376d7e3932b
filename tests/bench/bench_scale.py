"""The real operator with 50,400 VideoJobs on a real API server: its memory, and how long its event loop is blocked.

$JOBS chooses another number of jobs. Beside the time of a block as the operator's own metric has it (an upper bound: of
the bucket of its histogram) there are the phases: reading everything, a steady stream of events, and a model that
loses its last replica.
"""

import asyncio
import os
import random
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from time import perf_counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dev.control_plane import NAMESPACE, Cluster
from tests.bench.bench_control_plane import bounded, cpu_seconds, job_body
from tests.controller.stub_runner import StubRunner, hold
from tests.controller.world import REAL, OperatorProcess, World, operator_process, until
from videojob.kube.client import VIDEO_JOBS, VIDEO_QUEUES, Json, KubeClient

JOBS = int(os.environ.get("JOBS", "50400"))
NAMESPACES = 4
QUEUES = ("default", "batch")
SLOTS = 64
EVENTS = 4000
STEADY_RATE = 200
LOSS_SECONDS = 40.0
READY_SECONDS = 300.0
GOAL_MB = 400
GOAL_SECONDS = 0.1


@dataclass
class Measure:
    """What a phase has cost."""

    name: str
    seconds: float
    cpu: float
    resident: float
    peak: float
    """Megabytes, as the process's own numbers at the end of the phase."""
    longest: float
    """Upper bound of the longest block, in seconds."""
    blocks: int
    """Blocks of more than 100 ms."""
    events: int


class Phases:
    """Measures phases of a process, one after the other."""

    def __init__(self, operator: OperatorProcess) -> None:
        self._operator = operator
        self._began = perf_counter() - running_seconds(operator.process.pid)
        self._cpu = 0.0
        self._events = 0.0
        self._lags: dict[float, float] = {}
        self.measures: list[Measure] = []

    async def end(self, name: str) -> Measure:
        """A phase is over, and the next one begins."""
        text, pid = await self._operator.metrics(), self._operator.process.pid
        lags, events = lags_of(text), total(text, "videojob_operator_watch_events_total")
        new = {bound: count - self._lags.get(bound, 0.0) for bound, count in lags.items()}
        now, cpu = perf_counter(), cpu_seconds({"operator": pid})["operator"]
        found = Measure(
            name,
            now - self._began,
            cpu - self._cpu,
            megabytes(pid, "VmRSS"),
            megabytes(pid, "VmHWM"),
            max((bound for bound, count in new.items() if count), default=0.0),
            round(sum(count for bound, count in new.items() if bound > GOAL_SECONDS)),
            round(events - self._events),
        )
        self._began, self._cpu, self._events, self._lags = now, cpu, events, lags
        self.measures.append(found)
        return found


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
    began = perf_counter()
    draw = random.Random(1)
    bodies = [body_of(number, world.model, draw) for number in range(JOBS)]
    await bounded(client.create(VIDEO_JOBS, body, namespaces[at % NAMESPACES]) for at, body in enumerate(bodies))
    created = JOBS / (perf_counter() - began)
    runner = StubRunner(client, NAMESPACE, world.pool, ("r0",), (world.model,), behave=hold, slots=SLOTS)
    await runner.start()
    try:
        with operator_process(cluster, tmp_path / "operator.log", REAL, READY_SECONDS) as operator:
            phases = Phases(operator)

            async def complete() -> bool | None:
                return True if await operator.metric("videojob_jobs") == JOBS else None

            async def held() -> bool | None:
                return True if await operator.metric("videojob_jobs", phase="Running") == SLOTS else None

            await until(complete, "every job is known", READY_SECONDS)
            await until(held, "the replica has all that it takes", READY_SECONDS)
            await phases.end("everything is read")
            await steady(client, namespaces, draw)
            await phases.end("a stream of events")
            await runner.stop()
            await asyncio.sleep(LOSS_SECONDS)
            await phases.end("no replica any more")
            assert await operator.metric("videojob_jobs") == JOBS
    finally:
        await runner.stop()
    print(f"\n\n{JOBS:,} jobs, created at {created:.0f}/s; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"  {'':22}{'s':>7}{'CPU s':>8}{'events':>8}{'RSS MB':>8}{'peak MB':>9}{'longest block':>15}{'> 100 ms':>10}")
    for one in phases.measures:
        block = f"<= {one.longest * 1000:.0f} ms"
        print(
            f"  {one.name:22}{one.seconds:7.0f}{one.cpu:8.1f}{one.events:8}{one.resident:8.0f}{one.peak:9.0f}"
            f"{block:>15}{one.blocks:10}"
        )
    print(f"  {'goal':22}{'':23}{GOAL_MB:8}{GOAL_MB:9}{f'<= {GOAL_SECONDS * 1000:.0f} ms':>15}{0:10}")


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


def lags_of(text: str) -> dict[float, float]:
    """How often the loop was blocked, by the upper bound of each bucket."""
    found = {0.0: 0.0}
    for family in text_string_to_metric_families(text):
        if family.name == "videojob_operator_loop_lag_seconds":
            found |= {float(one.labels["le"]): one.value for one in family.samples if one.name.endswith("_bucket")}
    return {upper: found[upper] - found[lower] for lower, upper in pairwise(sorted(found)) if upper <= inf}


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
