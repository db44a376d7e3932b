"""How a whole fleet fares: 5,000 jobs on 200 GPU nodes, three managed pools that grow from zero, a node that is lost.

Beside it, in the same run, the plain alternative: the same jobs as Kubernetes Jobs of one pod each, on the same nodes,
through the same scheduler, with a node lost as well. Nodes are kwok's; a chunk takes its time, but makes nothing.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dev.control_plane import NAMESPACE, Cluster
from tests.bench.bench_control_plane import bounded, cpu_seconds, job_body, peak_bytes, server_pid
from tests.controller.world import REAL, ROOT, OperatorProcess, operator_process, until
from tests.kwok.nodes import ACCELERATOR, COMPLETE_AFTER, GPU, READY_AFTER, add_nodes, cluster_with_nodes
from tests.kwok.pod_runners import PodRunners
from tests.kwok.world import PoolWorld
from videojob.api.videojob import VideoJob
from videojob.kube.client import (
    GPU_POOLS,
    PODS,
    VIDEO_JOBS,
    VIDEO_MODELS,
    Json,
    KubeClient,
    Listing,
    ResourceKind,
)
from videojob.kube.connection import configuration

JOBS = int(os.environ.get("VIDEOJOB_BENCH_JOBS", "5000"))
NODES = max(6, JOBS // 25)
GPUS = 2
"""Of each node."""
ACCELERATORS = ("h200", "a100", "l40")
CHUNKS = 5
CHUNK_SECONDS = 2.4
COLD_SECONDS = 5
"""From a pod's start to its being ready. A plain Job loads its model anew."""
BENCH_SECONDS = 1500.0
SAMPLE_SECONDS = 2.0
JOBS_KIND = ResourceKind("jobs", "/apis/batch/v1")
NODES_KIND = ResourceKind("nodes", "/api/v1", namespaced=False)
WRITES = ("POST", "PUT", "PATCH", "APPLY", "DELETE")
SERVERS = ("kube-apiserver", "etcd", "kube-scheduler", "kube-controller-manager", "kwok")


@dataclass
class Result:
    """What a run took."""

    assigned: float = 0.0
    """Seconds from the first job's creation until no job waits."""
    done: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    writes: float = 0.0
    """That the API server took from anybody, Leases of nodes and all."""


@pytest.mark.timeout(2 * BENCH_SECONDS)
async def test_fleet(tmp_path: Path) -> None:
    """Prints tables. That every job ends, and no chunk is made twice, is the test."""
    with cluster_with_nodes(tmp_path / "cluster") as cluster:
        nodes = {
            name: add_nodes(cluster, name, len(range(index, NODES, len(ACCELERATORS))), GPUS)
            for index, name in enumerate(ACCELERATORS)
        }
        client = KubeClient(await configuration(cluster.kubeconfig))
        replicas = NODES * GPUS
        ideal = COLD_SECONDS + JOBS * CHUNKS * CHUNK_SECONDS / replicas
        print(
            f"\n\n{JOBS} jobs of {CHUNKS} x {CHUNK_SECONDS} s, {NODES} nodes with {replicas} GPUs in {len(nodes)} kinds"
        )
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; the work itself: {ideal:.0f} s on all GPUs")
        try:
            ours = await _pools(cluster, client, nodes, tmp_path, ideal)
            plain = await _plain(cluster, client, nodes)
        finally:
            await client.close()
    rows = [
        ("seconds until no job waits", ours.assigned, plain.assigned),
        ("seconds until all are done", ours.done, plain.done),
        ("of the work itself", ours.done / ideal, plain.done / ideal),
        ("API writes per job, anybody's", ours.writes / JOBS, plain.writes / JOBS),
        *((f"CPU seconds, {name}", ours.cpu[name], plain.cpu[name]) for name in SERVERS),
        ("CPU seconds, operator", ours.cpu["operator"], 0.0),
        ("CPU seconds, stub runners", ours.cpu["stub runners"], 0.0),
    ]
    print(f"\n  {'':<40}{'pools':>10}{'plain Jobs':>12}{'ratio':>8}")
    for name, mine, theirs in rows:
        print(f"  {name:<40}{mine:>10.1f}{theirs:>12.1f}{mine / theirs if theirs else float('nan'):>8.2f}")


async def _pools(
    cluster: Cluster, client: KubeClient, nodes: dict[str, tuple[str, ...]], folder: Path, ideal: float
) -> Result:
    namespace = "fleet"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    world = PoolWorld(cluster, client, namespace, folder / "store", pod_runners=PodRunners(client, NAMESPACE))
    await world.queue()
    await world.models()
    await client.merge_patch(VIDEO_MODELS, world.model, {"spec": {"estimate": {"chunkSeconds": CHUNK_SECONDS}}})
    result = Result()
    with (
        operator_process(cluster, folder / "operator.log", REAL) as operator,
        _runners(cluster) as runners,
    ):
        for name, its in nodes.items():
            await world.managed_pool(
                name,
                name,
                scaling={
                    "maxReplicas": len(its) * GPUS,
                    "targetSeconds": 60,
                    "stabilizationSeconds": 20,
                    "idleSeconds": 20,
                },
                template={"annotations": {READY_AFTER: f"{COLD_SECONDS}s"}},
            )
            await world.until_size(world.named(name), 0)
        processes = _pids(cluster) | {"operator": operator.process.pid, "stub runners": runners.pid}
        before, writes, own = cpu_seconds(processes), await _writes(cluster), await _own_writes(operator)
        began = perf_counter()
        trace: list[tuple[float, list[float]]] = []

        async def create(index: int) -> None:
            await client.create(VIDEO_JOBS, job_body(f"job-{index}", world.model), namespace)

        creating = asyncio.create_task(bounded(create(index) for index in range(JOBS)))
        lost_node, lost_pods, lost_jobs, lost_at, recovered = nodes["h200"][0], set[str](), 0, 0.0, 0.0

        async def all_done() -> bool | None:
            nonlocal lost_at, lost_pods, lost_jobs, recovered
            await asyncio.sleep(SAMPLE_SECONDS)
            text = await operator.metrics()
            passed = perf_counter() - began
            trace.append((passed, _sample(text, [world.named(name) for name in nodes])))
            phases = _values(text, "videojob_jobs", "phase")
            done = phases.get("Succeeded", 0.0)
            if not result.assigned and creating.done() and not phases.get("Pending"):
                result.assigned = passed
            if not lost_at and done >= JOBS / 2:
                lost_at = passed
                lost_pods = await _lose(client, runners, lost_node)
                lost_jobs = await _held(client, namespace, lost_pods)
            elif lost_at and not recovered and not await _held(client, namespace, lost_pods):
                recovered = passed
            return True if done == JOBS else None

        await until(all_done, "all jobs have succeeded", BENCH_SECONDS)
        await creating
        result.done = perf_counter() - began
        result.cpu = {name: spent - before[name] for name, spent in cpu_seconds(processes).items()}
        result.writes = await _writes(cluster) - writes
        mine, peak = await _own_writes(operator) - own, peak_bytes(operator.process.pid)
        rested = await _rested(operator, [world.named(name) for name in nodes], began, trace)
        jobs = [VideoJob.model_validate(one) for one in (await client.list(VIDEO_JOBS, namespace))["items"]]
        moved = [job for job in jobs if job.status.attempts > 1]
        assert all(job.status.failures == 0 for job in jobs)
    print(f"  node {lost_node} lost after {lost_at:.0f} s with {lost_jobs} jobs; {len(moved)} were assigned again,")
    print(f"  all taken back {recovered - lost_at:.0f} s later; scaled to zero after {rested:.0f} s")
    print(f"  operator: {mine / JOBS:.2f} API writes per job, peak RSS {peak / 1e6:.0f} MB")
    print(f"\n  {'s':>6}" + "".join(f"{name + ' wanted':>14}{'ready':>7}{'backlog':>9}" for name in nodes))
    for passed, values in trace[:: max(1, len(trace) // 24)]:
        print(
            f"  {passed:>6.0f}" + "".join(f"{value:>{w}.0f}" for value, w in zip(values, (14, 7, 9) * 3, strict=True))
        )
    for name in nodes:
        await client.delete(GPU_POOLS, world.named(name))
    cluster.kubectl("delete", "node", lost_node, "--ignore-not-found")
    return result


async def _plain(cluster: Cluster, client: KubeClient, nodes: dict[str, tuple[str, ...]]) -> Result:
    namespace = "plain"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    add_nodes(cluster, "h200", len(nodes["h200"]), GPUS)  # The lost one is back.
    result, processes = Result(), _pids(cluster)
    before, writes = cpu_seconds(processes), await _writes(cluster)
    began = perf_counter()
    finished: set[str] = set()
    placed: set[str] = set()

    async def create(index: int) -> None:
        await client.create(JOBS_KIND, _plain_job(f"job-{index}"), namespace)

    async with (
        _following(client, namespace, JOBS_KIND, finished, _is_complete),
        _following(client, namespace, PODS, placed, lambda pod: bool(pod["spec"].get("nodeName"))),
    ):
        creating = asyncio.create_task(bounded(create(index) for index in range(JOBS)))
        lost = False

        async def all_done() -> bool | None:
            nonlocal lost
            await asyncio.sleep(SAMPLE_SECONDS)
            passed = perf_counter() - began
            if not result.assigned and len(placed) >= JOBS:
                result.assigned = passed
            if not lost and len(finished) >= JOBS / 2:
                lost = True
                await client.delete(NODES_KIND, nodes["h200"][0])
            return True if len(finished) == JOBS else None

        await until(all_done, "all plain Jobs are complete", BENCH_SECONDS)
        await creating
    result.done = perf_counter() - began
    result.cpu = {name: spent - before[name] for name, spent in cpu_seconds(processes).items()}
    result.writes = await _writes(cluster) - writes
    return result


def _plain_job(name: str) -> Json:
    container = {"name": "video", "image": "example.com/video:1", "resources": {"limits": {GPU: "1"}}}
    delays = {READY_AFTER: f"{COLD_SECONDS}s", COMPLETE_AFTER: f"{CHUNKS * CHUNK_SECONDS:g}s"}
    affinity = {"key": ACCELERATOR, "operator": "In", "values": list(ACCELERATORS)}
    required = {"nodeSelectorTerms": [{"matchExpressions": [affinity]}]}
    pod: Json = {
        "restartPolicy": "Never",
        "containers": [container],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
    }
    template = {"metadata": {"annotations": delays}, "spec": pod}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 10, "template": template},
    }


def _is_complete(job: Json) -> bool:
    return any(
        one["type"] == "Complete" and one["status"] == "True" for one in job.get("status", {}).get("conditions", [])
    )


@asynccontextmanager
async def _following(
    client: KubeClient, namespace: str, kind: ResourceKind, names: set[str], holds: Any
) -> AsyncIterator[None]:
    """Put the names of objects for which it holds into the set, while the block runs."""

    async def follow() -> None:
        async for seen in client.watch(kind, namespace):
            for body in seen.items if isinstance(seen, Listing) else (seen.object,):
                if holds(body):
                    owners = body["metadata"].get("ownerReferences", [])
                    names.add(owners[0]["name"] if owners else body["metadata"]["name"])

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()


async def _lose(client: KubeClient, runners: subprocess.Popen[bytes], node: str) -> set[str]:
    """Lose a node; the pods that were there."""
    found = await client.list(PODS, NAMESPACE, fieldSelector=f"spec.nodeName={node}")
    assert runners.stdin is not None
    runners.stdin.write(f"{node}\n".encode())
    runners.stdin.flush()
    await client.delete(NODES_KIND, node)
    return {pod["metadata"]["name"] for pod in found["items"]}


async def _held(client: KubeClient, namespace: str, pods: set[str]) -> int:
    """The jobs that are assigned to one of the pods."""
    jobs = (await client.list(VIDEO_JOBS, namespace))["items"]
    return sum((job.get("status", {}).get("assignment") or {}).get("replica") in pods for job in jobs)


async def _rested(
    operator: OperatorProcess, pools: list[str], began: float, trace: list[tuple[float, list[float]]]
) -> float:
    async def look() -> float | None:
        await asyncio.sleep(SAMPLE_SECONDS)
        values = _sample(await operator.metrics(), pools)
        trace.append((perf_counter() - began, values))
        return perf_counter() - began if not any(values[0::3]) else None

    return await until(look, "every pool is scaled to zero", BENCH_SECONDS)


def _sample(text: str, pools: list[str]) -> list[float]:
    """Wanted, ready and backlog of each pool."""
    values: list[float] = []
    for pool in pools:
        states = _values(text, "videojob_pool_replicas", "state", pool=pool)
        backlog = sum(_values(text, "videojob_pool_backlog_seconds", "pool", pool=pool).values())
        values += [states.get("wanted", 0.0), states.get("ready", 0.0), backlog]
    return values


def _values(text: str, name: str, by: str, **labels: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                found[sample.labels[by]] = found.get(sample.labels[by], 0.0) + sample.value
    return found


async def _own_writes(operator: OperatorProcess) -> float:
    return await operator.metric("videojob_operator_api_writes_total")


async def _writes(cluster: Cluster) -> float:
    """Writes that the API server has answered so far."""
    text = await asyncio.to_thread(cluster.kubectl, "get", "--raw", "/metrics")
    lines = "\n".join(line for line in text.splitlines() if line.startswith("apiserver_request_total{"))
    return sum(
        value for verb, value in _values(f"{lines}\n", "apiserver_request_total", "verb").items() if verb in WRITES
    )


def _pids(cluster: Cluster) -> dict[str, int]:
    return {name: server_pid(cluster, name) for name in SERVERS}


@contextmanager
def _runners(cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    """The stub runners of all pods, in a process of their own, which loses the nodes that are written to it."""
    command = [sys.executable, "-m", "tests.kwok.pod_runners", "--namespace", NAMESPACE, "--lease-seconds", "15"]
    command += ["--chunk-seconds", str(CHUNK_SECONDS), "--report-seconds", "5"]
    environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig), "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
