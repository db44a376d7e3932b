"""A real run, and the real Prometheus that scraped it: operator, runner, Triton; jobs that succeed, fail and wait."""

import asyncio
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from dev.control_plane import NAMESPACE, Cluster, free_ports
from dev.processes import die_with_parent
from dev.programs import program
from tests.e2e.system import System
from tests.observability.queries import Prometheus, chosen
from videojob.api.videojob import Phase
from videojob.kube.client import VIDEO_JOBS, KubeClient
from videojob.kube.connection import configuration

JOBS_NAMESPACE = "team"
POOL = "watched"
REPLICA = "blue"
SCRAPE_SECONDS = 1
STEP_SECONDS = 2
ALERTS = Path(__file__).parents[2] / "charts" / "videojob" / "alerts" / "videojob.yaml"


class Watched(System):
    """The system of the end-to-end tests, with an operator that can be scraped."""

    operator_port = 0

    def start_operator(self) -> None:
        """Start the operator, unless it runs."""
        if self.operator is None or self.operator.poll() is not None:
            self.operator_port = self.operator_port or self.free_port()
            self.operator = self._spawn(
                [
                    *(sys.executable, "-m", "videojob.controller", "--namespace", NAMESPACE),
                    *("--bind-address", "127.0.0.1", "--metrics-port", str(self.operator_port)),
                ],
                {"KUBECONFIG": str(self.cluster.service_account("videojob-operator"))},
                self.folder / "operator.log",
            )


@dataclass(frozen=True)
class Run:
    """A run that has ended, and the Prometheus that scraped it."""

    prometheus: Prometheus
    start: float
    """Unix seconds; the system was ready before."""
    end: float
    phases: Mapping[Phase, int]
    """Jobs by phase at the end, as the API server has them."""
    gpu_seconds: float
    """GPU-seconds on the status of all jobs that ended."""

    def variables(self, **selected: str) -> dict[str, str]:
        """Values of the dashboards' variables for a look at the whole run."""
        return chosen(step=STEP_SECONDS, scrape=SCRAPE_SECONDS, seconds=self.end - self.start, **selected)


@contextmanager
def watched_run(cluster: Cluster, folder: Path, model: Path) -> Iterator[Run]:
    """Run the jobs, and keep Prometheus until the end of the context."""
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": JOBS_NAMESPACE}})
    system = Watched(cluster, None, folder / "system", JOBS_NAMESPACE, model, POOL)  # type: ignore[arg-type]
    try:
        system.install(REPLICA)
        cluster.apply(
            {
                "apiVersion": "videojob.dev/v1alpha1",
                "kind": "VideoQueue",
                "metadata": {"name": "stopped", "namespace": JOBS_NAMESPACE},
                "spec": {"stopPolicy": "Hold"},
            }
        )
        system.start(REPLICA)
        asyncio.run(_ready(system))
        with _running_prometheus(folder / "prometheus", _targets(system)) as prometheus:
            yield asyncio.run(_work(system, prometheus))
    finally:
        system.stop()


async def _ready(system: System) -> None:
    system.client = KubeClient(await configuration(system.cluster.kubeconfig))
    try:
        await system.ready(REPLICA)
    finally:
        await system.client.close()


async def _work(system: System, prometheus: Prometheus) -> Run:
    system.client = KubeClient(await configuration(system.cluster.kubeconfig))
    try:
        await system.until(lambda: _scraped(system, prometheus), "Prometheus does not scrape everything")
        start = time.time()
        await system.submit("held", queueName="stopped")
        # One slot: they wait for each other. A histogram has no rate before its second observation.
        names = ["first", "second", "third"]
        for name in names:
            await system.submit(name, seconds=16, prompt=f"a {name} red fox")
        for name in names:
            await system.until_finished(name)
        system.replicas[REPLICA].faults.fail("denoiser", 1, times=2)
        await system.submit("stumbles", backoffLimit=5)
        await system.submit("refused", prompt="x" * 600)
        await system.submit("fourth", prompt="a fourth red fox")
        for name in ("stumbles", "refused", "fourth"):
            await system.until_finished(name)
        listed = await system.client.list(VIDEO_JOBS, JOBS_NAMESPACE)
        jobs = [await system.job(item["metadata"]["name"]) for item in listed["items"]]
        phases = Counter(job.status.phase for job in jobs)
        ended = time.time()

        async def caught_up() -> bool:
            # The pool's status is written a moment later; what waits in a stopped queue waits for no pool. And every
            # target was scraped since, which happens one after the other.
            settled = (
                f"min(timestamp(up)) > {ended} and min(up) == 1 and "
                f'sum(videojob_jobs{{phase="Succeeded"}}) == {phases[Phase.SUCCEEDED]} '
                f"and sum(videojob_gpu_seconds_total) > 0 and sum(videojob_pool_queue_depth) == 0"
            )
            return bool(await asyncio.to_thread(prometheus.at, settled, time.time()))

        await system.until(caught_up, "Prometheus does not see the end of the jobs")
        return Run(
            prometheus,
            start,
            time.time(),
            phases,
            sum(job.status.cost.gpu_seconds.total for job in jobs if job.status.cost is not None),
        )
    finally:
        await system.client.close()


async def _scraped(system: System, prometheus: Prometheus) -> bool:
    assert system.operator is not None and system.operator.poll() is None, f"the operator ended; see {system.folder}"
    # Before the first scrape there is no leader, which is what an alert is about.
    leading = "count(up == 1) == 3 and on () videojob_operator_leader == 1 unless on () ALERTS"
    return bool(await asyncio.to_thread(prometheus.at, leading, time.time()))


def _targets(system: Watched) -> list[dict[str, object]]:
    _, _, triton, runner = system.replicas[REPLICA].ports
    # The chart's PodMonitor gives Triton's metrics these labels; operator and runner have their own.
    labels = {"pool": POOL, "replica": REPLICA}
    return [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": more}]}
        for name, port, more in (
            ("operator", system.operator_port, {}),
            ("runner", runner, {}),
            ("triton", triton, labels),
        )
    ]


@contextmanager
def _running_prometheus(folder: Path, targets: list[dict[str, object]]) -> Iterator[Prometheus]:
    folder.mkdir(parents=True)
    config = folder / "prometheus.yaml"
    every = f"{SCRAPE_SECONDS}s"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
                "rule_files": [str(ALERTS)],
                "scrape_configs": targets,
            }
        )
    )
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            (
                *(str(program("prometheus")), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
                f"--web.listen-address={address}",
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - no threads run here yet
        )
    try:
        _wait_until_ready(address, process)
        yield Prometheus(f"http://{address}")
    finally:
        process.kill()
        process.wait()


@retry(retry=retry_if_exception_type(OSError), stop=stop_after_delay(30), wait=wait_fixed(0.1), reraise=True)
def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    assert process.poll() is None, f"Prometheus ended with status {process.returncode}"
    with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
        pass
