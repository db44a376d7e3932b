"""What it costs the API server that many runners watch: each watches the VideoJobs that are assigned to its replica.

The watchers are real connections, in a process of their own, `python -m tests.bench.bench_watchers NAMESPACE`. Its
standard input takes a number of watchers, and the answer is how many events each kind of them has brought so far.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from dev.control_plane import Cluster
from tests.bench.bench_control_plane import bounded, cpu_seconds, job_body, server_pid
from tests.bench.piped import piped
from tests.controller.world import until
from videojob.kube.client import VIDEO_JOBS, Json, KubeClient, Listing
from videojob.kube.connection import configuration

JOBS = 1000
WATCHERS = (0, 400, 0, 400)
"""In this order; what differs between equal ones is the machine's drift."""
WRITES = 4
"""A job: created, assigned, progress, ended."""
SECONDS = 300.0


@pytest.mark.timeout(900)
async def test_watchers(cluster: Cluster, client: KubeClient, namespace: str) -> None:
    """Prints a table. That each change of a job comes to its own watcher, and only to that one, is the test."""
    rows = []
    server = {"kube-apiserver": server_pid(cluster, "kube-apiserver")}
    async with piped(cluster, "tests.bench.bench_watchers", namespace) as process:
        watchers = Watchers(process)
        brought = 0
        for number, count in enumerate(WATCHERS):
            await watchers.begin(count)
            before = cpu_seconds(server)["kube-apiserver"]
            await bounded(
                one_job(client, namespace, f"job-{number}-{index}", replica(index % max(count, 1)))
                for index in range(JOBS)
            )
            if count:  # Assigned, progress, and ended: a job that is let go is reported as deleted.
                brought += JOBS * (WRITES - 1)
                await watchers.complete(brought)
            rows.append((count, cpu_seconds(server)["kube-apiserver"] - before))
    print(f"\n\n{JOBS} jobs, {WRITES} writes each, load {os.getloadavg()[0]:.1f}")
    print(f"  {'runners that watch':>20}{'API server, CPU ms a job':>28}{'ratio':>8}")
    for count, seconds in rows:
        print(f"  {count:>20}{seconds / JOBS * 1000:>28.1f}{seconds / rows[0][1]:>8.2f}")


async def one_job(client: KubeClient, namespace: str, name: str, held_by: str) -> None:
    """The writes of a job from its creation to its end."""
    await client.create(VIDEO_JOBS, job_body(name, "none"), namespace)
    statuses: list[Json] = [
        {"phase": "Running", "attempts": 1, "assignment": {"pool": "bench", "replica": held_by}},
        {"progress": {"framesDone": 1}},
        {"phase": "Succeeded", "assignment": None},
    ]
    for status in statuses:
        await client.merge_patch(VIDEO_JOBS, name, {"status": status}, namespace, "status")


def replica(index: int) -> str:
    """The name of a replica."""
    return f"r{index}"


class Watchers:
    """The process of the watchers."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def begin(self, count: int) -> None:
        """Let so many watch from now on; returns when all have begun."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n".encode())
        assert await self._answer() == count

    async def complete(self, events: int) -> None:
        """Wait until they have brought so many events, since the first of them."""

        async def look() -> bool | None:
            assert self._process.stdin is not None
            self._process.stdin.write(b"?\n")
            return True if await self._answer() == events else None

        await until(look, f"the watchers bring {events} events", SECONDS)

    async def _answer(self) -> int:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, f"the watchers ended with status {await self._process.wait()}"
        found: int = json.loads(line)
        return found


async def watch(namespace: str) -> None:
    """Watch as often as asked for, and answer."""
    settings = await configuration(Path(os.environ["KUBECONFIG"]))
    events = 0
    tasks: list[asyncio.Task[None]] = []

    async def one(name: str, begun: asyncio.Event) -> None:
        nonlocal events
        client = KubeClient(settings)  # A connection each, as runners have.
        try:
            async for event in client.watch(VIDEO_JOBS, namespace, fieldSelector=f"status.assignment.replica={name}"):
                if isinstance(event, Listing):
                    begun.set()
                else:
                    events += 1
        finally:
            await client.close()

    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        if line == b"?\n":
            print(events, flush=True)
            continue
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        begun = [asyncio.Event() for _ in range(int(line))]
        tasks = [asyncio.create_task(one(replica(index), event)) for index, event in enumerate(begun)]
        for event in begun:
            await event.wait()
        print(len(tasks), flush=True)


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1]))
