"""A real Prometheus finds the pods as documented, and agrees with the API server about them."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster import node
from dev.cluster.cluster import RealCluster
from dev.control_plane import MANIFESTS, wait_until
from dev.processes import die_with_parent
from dev.programs import program
from dev.supervisor import REPOSITORY
from tests.cluster.release import POOL, Release

pytestmark = pytest.mark.timeout(900)

ADDRESS = "127.0.0.1:19090"
"""In the node's own network."""
PAGE = REPOSITORY / "docs" / "observability.md"


@contextmanager
def prometheus(real: RealCluster, folder: Path) -> Iterator[None]:
    """Prometheus on the node, with the configuration of the documentation."""
    documented = re.search(r"```yaml\n(scrape_configs:.*?)```", PAGE.read_text(), re.DOTALL)
    assert documented is not None
    config: dict[str, Any] = yaml.safe_load(documented[1])
    for job in config["scrape_configs"]:
        for discovery in job["kubernetes_sd_configs"]:
            discovery["kubeconfig_file"] = str(real.cluster.kubeconfig)
    rules = str(MANIFESTS.parent / "charts" / "videojob" / "alerts" / "videojob.yaml")
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump({**config, "global": every, "rule_files": [rules]}))
    argv = (
        *(str(program("prometheus")), f"--config.file={path}"),
        *(f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={ADDRESS}"),
    )
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            node.entered(real.folder, *argv),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - no threads run here yet
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def value(real: RealCluster, query: str) -> float | None:
    """The value of a query; None where it has no result."""
    printed = real.in_node(
        *(str(program("promtool")), "query", "instant", "--format=json", f"http://{ADDRESS}", query),
    )
    found = json.loads(printed)
    return float(found[0]["value"][1]) if found else None


def keda_query(pool: str) -> str:
    """The query of the KEDA sample, for another pool."""
    (trigger,) = yaml.safe_load((MANIFESTS / "samples" / "scaling" / "keda.yaml").read_text())["spec"]["triggers"]
    query: str = trigger["metadata"]["query"]
    assert 'pool="h200"' in query
    return query.replace("h200", pool)


def test_prometheus_agrees_with_the_api_server(release: Release, undisturbed: str, tmp_path: Path) -> None:
    real = release.real
    with prometheus(real, tmp_path):
        release.submit("counted")
        assert release.video("counted") == undisturbed

        def agrees() -> bool:
            pool = release.pool().status
            expected = {
                "count(up == 0) or vector(0)": 0,
                "count(videojob_operator_leader == 1)": 1,
                f'max(videojob_pool_replicas{{pool="{POOL}", state="wanted"}})': pool.desired_replicas,
                f'max(videojob_pool_replicas{{pool="{POOL}", state="ready"}})': pool.ready_replicas,
                keda_query(POOL): pool.backlog_seconds,
                f'max(videojob_pool_cold_start_seconds_count{{pool="{POOL}"}}) > bool 0': 1,
                f'sum(videojob_runner_chunks_total{{pool="{POOL}"}}) > bool 0': 1,
                f'sum(nv_inference_request_success{{pool="{POOL}"}}) > bool 0': 1,
            }
            return all(value(real, query) == wanted for query, wanted in expected.items())

        wait_until(agrees, "Prometheus and the API server do not agree", 60)
        assert value(real, 'count(ALERTS{alertstate="firing"}) or vector(0)') == 0
