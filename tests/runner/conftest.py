from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dev.control_plane import Cluster
from tests.models.fixtures import tiny_model
from tests.triton.conftest import control_dir, server, settings
from tests.triton.server import Server
from videojob.kube.client import KubeClient
from videojob.kube.connection import configuration
from videojob.runner.triton import Triton

__all__ = ["control_dir", "server", "settings", "tiny_model"]


@pytest.fixture
async def kube(cluster: Cluster) -> AsyncIterator[KubeClient]:
    """A client with the rights of a runner, on a real API server."""
    client = KubeClient(await configuration(cluster.service_account("videojob-runner")))
    yield client
    await client.close()


@pytest.fixture
async def triton(server: Server) -> AsyncIterator[Triton]:
    """A connection to a real tritonserver that serves the tiny model."""
    client = Triton(server.grpc)
    yield client
    await client.close()


@pytest.fixture
def shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that Triton takes for no shared memory, as if it ran on another machine."""
    monkeypatch.setattr("videojob.runner.buffers.SHM", tmp_path)
    return tmp_path
