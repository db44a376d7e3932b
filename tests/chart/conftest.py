"""Clusters for tests of the chart."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dev import chart
from dev import control_plane as local
from dev.control_plane import NAMESPACE, Cluster
from dev.crds import FILES, foreign_crd
from dev.supervisor import Supervisor

DryRun = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(scope="session")
def dry_run(cluster: Cluster) -> DryRun:
    """Applies objects by dry run to a real API server with all CRDs; raises DevError where it refuses one."""
    cluster.serve_crds(*map(foreign_crd, FILES))

    def show(objects: list[dict[str, Any]]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        strict = ("--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts")
        cluster.kubectl("apply", *strict, "-f", "-", input=json.dumps(items))

    return show


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Cluster]:
    """An API server without anything of videojob, with the namespace for a release."""
    supervisor = Supervisor(tmp_path / "bare")
    try:
        started = local.start(supervisor)
        for name in (NAMESPACE, "default"):
            started.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield started
    finally:
        supervisor.stop()


@pytest.fixture
def helm(bare: Cluster) -> Callable[..., str]:
    """Runs helm against the bare cluster; raises DevError with helm's sentence."""
    return lambda *arguments: chart.helm("--kubeconfig", str(bare.kubeconfig), *arguments)
