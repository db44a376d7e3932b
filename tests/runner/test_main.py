"""The runner as a process: what it logs while something is missing, and that it goes on when that exists."""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dev.control_plane import NAMESPACE, Cluster, free_ports
from dev.processes import die_with_parent
from dev.supervisor import REPOSITORY
from videojob.api.replica import REPORT_ANNOTATION, ReplicaReport, lease_name
from videojob.kube.client import GPU_POOLS, LEASES, KubeClient, KubeError
from videojob.kube.connection import configuration

_numbers = itertools.count()
PATIENCE = 60.0
POD_UID = "0b5c8d1e-0000-4000-8000-000000000000"


def command(pool: str, folder: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "videojob.runner", "--pool", pool, "--replica", "r"),
        *("--model-repository", str(REPOSITORY / "model_repo"), "--repository", str(folder / "repository")),
        *options,
    ]


def failed_start(pool: str, folder: Path, *options: str, **environment: str) -> tuple[int, str]:
    """Exit status and output of a runner that ends by itself."""
    ended = subprocess.run(
        command(pool, folder, *options),
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return ended.returncode, ended.stderr


def test_no_cluster_is_one_sentence(tmp_path: Path) -> None:
    code, words = failed_start("p", tmp_path, KUBECONFIG="")

    assert (code, words.count("\n")) == (1, 1)
    assert "set KUBECONFIG" in words


def test_a_kubeconfig_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("not a kubeconfig")

    code, words = failed_start("p", tmp_path, KUBECONFIG=str(tmp_path / "config"))

    assert (code, words.count("\n")) == (1, 1)
    assert str(tmp_path / "config") in words


def test_rights_that_are_missing_are_one_sentence(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": NAMESPACE}}
    )

    code, words = failed_start("p", tmp_path, KUBECONFIG=str(cluster.service_account("nobody")))

    assert (code, words.count("\n")) == (1, 1)
    assert "forbidden" in words


def test_a_metrics_port_that_is_taken_is_one_sentence(cluster: Cluster, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, words = failed_start(
            "p", tmp_path, "--metrics-port", str(port), KUBECONFIG=str(cluster.service_account("videojob-runner"))
        )

    assert (code, words.count("\n")) == (1, 1)
    assert str(port) in words


def test_a_health_port_that_is_taken_is_one_sentence(cluster: Cluster, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, words = failed_start(
            "p", tmp_path, "--health-port", str(port), KUBECONFIG=str(cluster.service_account("videojob-runner"))
        )

    assert (code, words.count("\n")) == (1, 1)
    assert f"Port {port} cannot serve probes" in words


def handles(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal, according to the kernel."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = next((line for line in lines if line.startswith("SigCgt:")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_runner_that_is_stopped_while_it_starts_ends(tmp_path: Path) -> None:
    """As process 1 of a container it would not, without a handler; its imports take seconds, so that comes first."""
    process = start(command("p", tmp_path), tmp_path / "log", tmp_path / "no-kubeconfig")
    while process.poll() is None and not handles(process, signal.SIGTERM):
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)

    assert process.wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text() == ""


class Runner:
    """A runner without a Triton, and what it reports."""

    def __init__(self, pool: str, client: KubeClient, log: Path, health_port: int) -> None:
        self.pool = pool
        self._health_port = health_port
        self._client = client
        self._log = log

    async def until_logged(self, words: str) -> None:
        """Wait until its log has these words."""
        await self._until(lambda: _true(words in self._log.read_text()))

    async def reports(self, holds: Callable[[ReplicaReport], bool]) -> None:
        """Wait until its report is so."""

        async def look() -> bool:
            try:
                lease = await self._client.get(LEASES, lease_name(self.pool, "r"), NAMESPACE)
            except KubeError as error:
                assert error.not_found
                return False
            return holds(ReplicaReport.model_validate_json(lease["metadata"]["annotations"][REPORT_ANNOTATION]))

        await self._until(look)

    async def probe(self, path: str) -> tuple[int, str]:
        """Status and text of a probe's answer."""
        url = f"http://127.0.0.1:{self._health_port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()

    async def _until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not await holds():  # noqa: ASYNC110 - nothing notifies
                await asyncio.sleep(0.05)


async def _true(value: bool) -> bool:
    return value


@pytest.fixture
async def admin(cluster: Cluster) -> AsyncIterator[KubeClient]:
    client = KubeClient(await configuration(cluster.kubeconfig))
    yield client
    await client.close()


def start(argv: list[str], log: Path, kubeconfig: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            argv,
            cwd=REPOSITORY,
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - it only calls the kernel
        )


@asynccontextmanager
async def running(cluster: Cluster, admin: KubeClient, folder: Path) -> AsyncIterator[Runner]:
    """A runner of a pool that does not exist yet; it ends by SIGTERM with status 0."""
    pool, log = f"pool-{next(_numbers)}", folder / "log"
    (health_port,) = free_ports(1)
    argv = command(pool, folder, "--health-port", str(health_port), "--pod-uid", POD_UID)
    process = start(argv, log, cluster.service_account("videojob-runner"))
    try:
        yield Runner(pool, admin, log, health_port)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def pool(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    endpoint = {"name": "r", "url": f"127.0.0.1:{free_ports(1)[0]}", "maxJobs": 3}
    spec = {
        "accelerator": "cpu",
        "endpoints": [endpoint],
        "models": ["missing"],
        "store": {"url": (folder / "store").as_uri()},
    }
    return {
        "apiVersion": "videojob.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": name},
        "spec": spec | changes,
    }


async def test_a_runner_without_a_pool_waits_for_it(cluster: Cluster, admin: KubeClient, tmp_path: Path) -> None:
    async with running(cluster, admin, tmp_path) as runner:
        await runner.until_logged(f"there is no GPUPool called {runner.pool}")

        other = {"name": "other", "url": "127.0.0.1:1"}
        await admin.create(GPU_POOLS, pool(runner.pool, tmp_path, endpoints=[other]))
        await runner.until_logged(f"the GPUPool {runner.pool} has no endpoint called r")

        await admin.merge_patch(GPU_POOLS, runner.pool, {"spec": pool(runner.pool, tmp_path)["spec"]})
        await runner.reports(lambda report: report.slots == 3)


async def test_a_managed_pool_needs_no_endpoint(cluster: Cluster, admin: KubeClient, tmp_path: Path) -> None:
    async with running(cluster, admin, tmp_path) as runner:
        await runner.until_logged(f"there is no GPUPool called {runner.pool}")
        assert await runner.probe("/livez") == (200, "ok")
        assert await runner.probe("/readyz") == (503, "The replica's Lease is not held.")

        body = pool(runner.pool, tmp_path, jobsPerReplica=2)
        del body["spec"]["endpoints"]
        await admin.create(GPU_POOLS, body)

        await runner.reports(lambda report: report.slots == 2)
        lease = await admin.get(LEASES, lease_name(runner.pool, "r"), NAMESPACE)
        assert [owner["uid"] for owner in lease["metadata"]["ownerReferences"]] == [POD_UID]
        assert await runner.probe("/livez") == (200, "ok")
        assert await runner.probe("/readyz") == (503, "No model is loaded.")


async def test_what_does_not_work_is_reported(cluster: Cluster, admin: KubeClient, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    async with running(cluster, admin, tmp_path) as runner:
        await admin.create(GPU_POOLS, pool(runner.pool, tmp_path))

        await runner.reports(lambda report: "Triton at 127.0.0.1:" in report.triton_error)
        await runner.reports(lambda report: "folder" in report.store_error)
        (tmp_path / "store").unlink()
        await runner.reports(lambda report: report.store_error == "")


async def test_the_pool_may_change_while_it_runs(cluster: Cluster, admin: KubeClient, tmp_path: Path) -> None:
    async with running(cluster, admin, tmp_path) as runner:
        body = pool(runner.pool, tmp_path)
        await admin.create(GPU_POOLS, body)
        await runner.reports(lambda report: report.slots == 3)

        body["spec"]["endpoints"][0]["maxJobs"] = 1
        await admin.merge_patch(GPU_POOLS, runner.pool, {"spec": body["spec"]})
        await runner.reports(lambda report: report.slots == 1)

        body["spec"]["endpoints"][0]["url"] = "127.0.0.1:7"
        await admin.merge_patch(GPU_POOLS, runner.pool, {"spec": body["spec"]})
        await runner.reports(lambda report: "127.0.0.1:7 " in report.triton_error)
