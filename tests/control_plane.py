"""Fixtures for tests against a real API server: one for the whole session, a namespace of its own for each test."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dev import control_plane as local
from dev.control_plane import Cluster
from dev.supervisor import Supervisor


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real API server with this project's CRDs and roles; nothing is left of it after the session."""
    with local_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """A new namespace. It is not deleted: no namespace controller runs here, and the cluster ends with the session."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


@contextmanager
def local_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster of a test's own, for tests that kill parts of it."""
    supervisor = Supervisor(folder)
    try:
        started = local.start(supervisor)
        started.install()
        yield started
    finally:
        supervisor.stop()
