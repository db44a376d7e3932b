"""How fast the operator is: 2,000 jobs on a real API server, against a stub runner that finishes them at once.

Beside it, in the same run: the same writes in a bare loop, with nobody watching and nothing to decide. That is what API
server and client allow on this machine; the ratio of the two is what the operator adds. Where both share two cores with
the API server, each CPU second of the operator is one that the API server lacks; so it is measured as well with a core
for the API server and etcd, and one for everybody else.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import pytest

from dev.control_plane import NAMESPACE, Cluster
from tests.controller.stub_runner import finish
from tests.controller.world import PATIENCE, REAL, ROOT, OperatorProcess, World, operator_process, until
from videojob.api import API_VERSION, FINALIZER
from videojob.api.patch import status_patch, version_fence
from videojob.api.transitions import assigned
from videojob.api.videojob import Resolved, VideoJob
from videojob.kube.client import VIDEO_JOBS, Json, KubeClient

JOBS = 2000
IN_FLIGHT = 32
REPLICAS = ("r0", "r1", "r2", "r3")
SLOTS = 64
BENCH_SECONDS = 600.0
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("cores", ["shared", "apart"])
async def test_control_plane(cluster: Cluster, client: KubeClient, namespace: str, tmp_path: Path, cores: str) -> None:
    """Prints a table. That every job succeeds is the test; a missed target is printed, with what the time went into."""
    with apart(cluster) if cores == "apart" else nullcontext():
        await compare(cluster, client, namespace, tmp_path, cores)


async def compare(cluster: Cluster, client: KubeClient, namespace: str, tmp_path: Path, cores: str) -> None:
    """Bare loop, then operator, and the table."""
    world = World(cluster, client, namespace, tmp_path / "store")
    await world.queue()
    await world.models()
    await world.pools(*REPLICAS, max_jobs=SLOTS)
    bare = await bare_loop(world)
    with operator_process(cluster, tmp_path / "operator.log", REAL) as operator, runner_process(world) as runner:
        await until_slots(operator, world)
        processes = {
            "operator": operator.process.pid,
            "kube-apiserver": server_pid(cluster, "kube-apiserver"),
            "etcd": server_pid(cluster, "etcd"),
            "stub runner": runner,
            "this process": os.getpid(),
        }
        before, writes_before = cpu_seconds(processes), await job_writes(operator)
        seconds = await through_operator(world, operator)
        cpu = {name: spent - before[name] for name, spent in cpu_seconds(processes).items()}
        writes = await job_writes(operator) - writes_before
        unanswered = await operator.metric("videojob_operator_api_writes_total", kind="videojobs", code="0")
        peak = peak_bytes(operator.process.pid)
        other = await operator.metric("videojob_operator_api_writes_total") - await job_writes(operator)
    rows = [
        ("jobs/s, operator", f"{JOBS / seconds:.0f}", "150 on 2 idle cores"),
        ("jobs/s, bare loop", f"{JOBS / bare:.0f}", ""),
        ("operator / bare loop", f"{bare / seconds:.2f}", ""),
        ("operator's API writes per job", f"{writes / JOBS:.3f}", "at most 2"),
        ("of these without an answer (leadership lost)", f"{unanswered:.0f}", "0"),
        ("its other API writes (Leases, pools, queues)", f"{other:.0f}", ""),
        *((f"CPU seconds, {name}", f"{spent:.1f}", "") for name, spent in cpu.items()),
        ("operator's peak RSS, MB", f"{peak / 1e6:.0f}", "under 150"),
    ]
    print(f"\n\n{JOBS} jobs, {os.cpu_count()} cores, {cores}, load {os.getloadavg()[0]:.1f}")
    for name, value, target in rows:
        print(f"  {name:<46}{value:>8}   {target}")


async def bare_loop(world: World) -> float:
    """Seconds for the writes of all jobs: create, finalizer, assignment and end, by nobody's decision."""

    async def one(index: int) -> None:
        body = job_body(f"bare-{index}", world.model)
        body["spec"]["managedBy"] = "example.com/bench"
        created = await world.client.create(VIDEO_JOBS, body, world.namespace)
        name, version = created["metadata"]["name"], created["metadata"]["resourceVersion"]
        finalizer = {"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}
        job = await patch(name, [*version_fence(version), finalizer], None)
        now = datetime.now(UTC)
        status = assigned(
            job.status,
            pool=world.pool,
            replica="r0",
            resolved=RESOLVED,
            store_uri="file:///nowhere/of/any/importance",
            now=now,
            generation=1,
        )
        job = await patch(
            name, status_patch(version_fence(job.metadata.resource_version), job.status, status), "status"
        )
        done = finish(job, now)
        await patch(name, status_patch(version_fence(job.metadata.resource_version), job.status, done), "status")

    async def patch(name: str, operations: list[Json], subresource: str | None) -> VideoJob:
        answer = await world.client.json_patch(VIDEO_JOBS, name, operations, world.namespace, subresource)
        return VideoJob.model_validate(answer)

    began = perf_counter()
    await bounded(one(index) for index in range(JOBS))
    return perf_counter() - began


async def through_operator(world: World, operator: OperatorProcess) -> float:
    """Seconds from the first job's creation to the last one's end."""

    async def one(index: int) -> None:
        await world.client.create(VIDEO_JOBS, job_body(f"job-{index}", world.model), world.namespace)

    async def all_done() -> bool | None:
        await asyncio.sleep(0.2)
        done = await operator.metric("videojob_jobs", namespace=world.namespace, phase="Succeeded")
        return True if done == JOBS else None

    began = perf_counter()
    await bounded(one(index) for index in range(JOBS))
    await until(all_done, "all jobs have succeeded", BENCH_SECONDS)
    return perf_counter() - began


async def bounded(work: Iterable[Awaitable[object]]) -> None:
    """Do it all, a bounded number at a time."""
    limit = asyncio.Semaphore(IN_FLIGHT)

    async def one(job: Awaitable[object]) -> None:
        async with limit:
            await job

    await asyncio.gather(*(one(job) for job in work))


async def until_slots(operator: OperatorProcess, world: World) -> None:
    """Wait until the operator knows the stub's replicas."""

    async def look() -> bool | None:
        text = await operator.metrics()
        return True if text.count("videojob_heartbeat_age_seconds{") >= len(REPLICAS) else None

    await until(look, "the replicas are known", PATIENCE)


async def job_writes(operator: OperatorProcess) -> float:
    """The operator's writes for jobs, Events included."""
    name = "videojob_operator_api_writes_total"
    return await operator.metric(name, kind="videojobs") + await operator.metric(name, kind="events")


@contextmanager
def runner_process(world: World) -> Iterator[int]:
    """A stub runner in a process of its own, which finishes every job at once; its id."""
    command = [sys.executable, "-m", "tests.controller.stub_runner", "--namespace", NAMESPACE, "--pool", world.pool]
    for replica in REPLICAS:
        command += ["--replica", replica]
    command += ["--model", world.model, "--slots", str(SLOTS)]
    environment = os.environ | {
        "KUBECONFIG": str(world.cluster.kubeconfig),
        "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}",
    }
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def apart(cluster: Cluster) -> Iterator[None]:
    """The API server and etcd run on the first core, this process and what it starts on all others."""
    cores = os.sched_getaffinity(0)
    first = {min(cores)}
    servers = [server_pid(cluster, name) for name in ("kube-apiserver", "etcd")]
    assert len(cores) > 1, "there is one core only"
    try:
        for server in servers:
            put_on(server, first)
        put_on(os.getpid(), cores - first)
        yield
    finally:
        for process in (*servers, os.getpid()):
            put_on(process, cores)


def put_on(pid: int, cores: set[int]) -> None:
    """All threads of a process run on these cores."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # It has ended.
            os.sched_setaffinity(int(thread.name), cores)


def cpu_seconds(processes: dict[str, int]) -> dict[str, float]:
    """CPU time of processes so far, user and system."""
    spent = {}
    for name, pid in processes.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent[name] = (int(fields[11]) + int(fields[12])) / TICKS
    return spent


def server_pid(cluster: Cluster, name: str) -> int:
    """The id of a process of the local cluster."""
    return int((cluster.kubeconfig.parent / "run" / f"{name}.pid").read_text())


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had resident."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def job_body(name: str, model: str) -> Json:
    """A small job."""
    spec = {"model": model, "shots": [{"prompt": "A red fox trots through fresh snow.", "seconds": 3}]}
    return {"apiVersion": API_VERSION, "kind": "VideoJob", "metadata": {"name": name}, "spec": spec}


RESOLVED = Resolved(
    width=832,
    height=480,
    fps=16,
    steps=4,
    guidance_scale=1.0,
    seed=7,
    frames=48,
    chunks=5,
    model_uid="00000000-0000-0000-0000-000000000000",
    model_generation=1,
    weights_digest="sha256:0000",
)
