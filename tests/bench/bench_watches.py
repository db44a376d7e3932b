"""What kopf costs as the bringer of events, against `KubeClient.watch`: both watch the same VideoJobs in the same run.

Each watches in a process of its own, `python -m tests.bench.bench_watches NAME NAMESPACE`, and keeps nothing of what it
is brought. A line to its standard input is answered with what it has seen so far.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from dev.control_plane import Cluster
from tests.bench.bench_control_plane import bounded, cpu_seconds, job_body
from tests.bench.piped import piped
from tests.controller.world import until
from videojob.kube.client import NOBODY, VIDEO_JOBS, Json, KubeClient, Listing, ResourceKind
from videojob.kube.connection import configuration

JOBS = 1000
ROUNDS = 9
"""Changes of each job after its creation: 10,000 events in all."""
AT = "bench.videojob.dev/at"
"""An annotation with the monotonic time of a write, which all processes of a machine share."""
SECONDS = 300.0
QUIET_SECONDS = 3.0
"""After which workers that idle have ended, and everything is counted."""


@pytest.mark.timeout(900)
async def test_watches(cluster: Cluster, client: KubeClient, namespace: str) -> None:
    """Prints a table. That both bring every change of every job is the test."""
    async with child("kopf", cluster, namespace) as kopf, child("KubeClient.watch", cluster, namespace) as ours:
        children = (kopf, ours)
        pids = {one.name: one.process.pid for one in children}
        memory, before = {name: resident(pid) for name, pid in pids.items()}, cpu_seconds(pids)

        async def create(index: int) -> None:
            body = job_body(f"job-{index}", "none")
            body["metadata"]["annotations"] = {AT: str(monotonic())}
            await client.create(VIDEO_JOBS, body, namespace)

        async def change(index: int) -> None:
            body = {"metadata": {"annotations": {AT: str(monotonic())}}}
            await client.merge_patch(VIDEO_JOBS, f"job-{index}", body, namespace)

        began = monotonic()
        await bounded(create(index) for index in range(JOBS))
        for _ in range(ROUNDS):
            await bounded(change(index) for index in range(JOBS))
        seconds = monotonic() - began
        await asyncio.sleep(QUIET_SECONDS)
        reports = {one.name: await one.complete(JOBS * (ROUNDS + 1)) for one in children}
        spent = {name: after - before[name] for name, after in cpu_seconds(pids).items()}
        grown = {name: (resident(pid) - memory[name]) / JOBS for name, pid in pids.items()}

    rows: list[tuple[str, Callable[[str], float], str]] = [
        ("events a job", lambda name: reports[name]["events"] / JOBS, ".2f"),
        ("CPU seconds per 10,000 events", lambda name: spent[name] / reports[name]["events"] * 10_000, ".2f"),
        ("lag from write to event, ms, median", lambda name: reports[name]["median"] * 1000, ".1f"),
        ("lag from write to event, ms, p99", lambda name: reports[name]["p99"] * 1000, ".1f"),
        ("resident bytes a job, nothing kept", lambda name: grown[name], ",.0f"),
        ("resident at the start, MB", lambda name: memory[name] / 1e6, ".0f"),
    ]
    writes = JOBS * (ROUNDS + 1)
    print(f"\n\n{JOBS} jobs, {writes} writes at {writes / seconds:.0f}/s, load {os.getloadavg()[0]:.1f}")
    print(f"  {'':<38}{'kopf':>12}{'KubeClient':>12}{'ratio':>8}")
    for label, value, form in rows:
        theirs, mine = value(kopf.name), value(ours.name)
        ratio = f"{theirs / mine:.2f}" if mine > 0 else "-"
        print(f"  {label:<38}{theirs:>12{form}}{mine:>12{form}}{ratio:>8}")
    assert {name: report["events"] for name, report in reports.items()} == dict.fromkeys(pids, writes)


def resident(pid: int) -> int:
    """Resident bytes of a process now."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


@dataclass
class Child:
    """A process that watches."""

    name: str
    process: asyncio.subprocess.Process

    async def report(self) -> dict[str, float]:
        """What it has seen so far."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"\n")
        line = await self.process.stdout.readline()
        assert line, f"{self.name} ended with status {await self.process.wait()}"
        found: dict[str, float] = json.loads(line)
        return found

    async def complete(self, events: int) -> dict[str, float]:
        """What it has seen once it has seen so many events."""

        async def look() -> dict[str, float] | None:
            found = await self.report()
            return found if found["events"] >= events else None

        return await until(look, f"{self.name} brings {events} events", SECONDS)


@contextlib.asynccontextmanager
async def child(name: str, cluster: Cluster, namespace: str) -> AsyncIterator[Child]:
    """A process that watches a namespace, and has begun to."""
    async with piped(cluster, "tests.bench.bench_watches", name, namespace) as process:
        found = Child(name, process)

        async def begun() -> bool | None:
            return True if (await found.report())["begun"] else None

        await until(begun, f"{name} watches")
        yield found


class Seen:
    """What a watch has brought: how often each job, and how late."""

    def __init__(self) -> None:
        self.begun = False
        self._events: Counter[str] = Counter()
        self._lags: list[float] = []

    def take(self, body: Json) -> None:
        """An event came."""
        self._events[body["metadata"]["uid"]] += 1
        self._lags.append(monotonic() - float(body["metadata"]["annotations"][AT]))

    def report(self) -> dict[str, float]:
        """Counts, and seconds."""
        lags = statistics.quantiles(self._lags, n=100) if len(self._lags) > 1 else [0.0] * 99
        events = sum(self._events.values())
        return {"begun": self.begun, "events": events, "median": lags[49], "p99": lags[98]}


async def by_kopf(settings: Any, namespace: str, seen: Seen) -> None:
    """Watch by kopf."""
    from videojob.controller.shell import Shell  # noqa: PLC0415 - the other process stays without kopf

    def see(kind: ResourceKind, type_: str, body: Json) -> None:
        seen.take(body)

    def relisted(kind: ResourceKind, first: bool) -> None:
        seen.begun = True

    shell = Shell(
        settings,
        namespace,
        [VIDEO_JOBS],
        see,
        relisted,
        restarted=lambda reason: None,
        signals={signal.SIGTERM: lambda: os._exit(0)},
        contact=NOBODY,
        monotonic=monotonic,
        draw=random.random,
    )
    await shell.run()


async def by_client(settings: Any, namespace: str, seen: Seen) -> None:
    """Watch by our own client."""
    async for event in KubeClient(settings).watch(VIDEO_JOBS, namespace):
        if isinstance(event, Listing):
            seen.begun = True
        else:
            seen.take(event.object)


async def watch(name: str, namespace: str) -> None:
    """Watch, and answer."""
    settings, seen = await configuration(Path(os.environ["KUBECONFIG"])), Seen()
    watches: dict[str, Callable[[Any, str, Seen], Awaitable[None]]] = {"kopf": by_kopf, "KubeClient.watch": by_client}
    task = asyncio.ensure_future(watches[name](settings, namespace, seen))
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        assert not task.done(), task.result()
        print(json.dumps(seen.report()), flush=True)


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1], sys.argv[2]))
