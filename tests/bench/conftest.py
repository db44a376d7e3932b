"""Fixtures of the benchmarks."""

from collections.abc import AsyncIterator

import pytest

from dev.control_plane import Cluster
from videojob.kube.client import KubeClient
from videojob.kube.connection import configuration


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[KubeClient]:
    """An administrator's client."""
    found = KubeClient(await configuration(cluster.kubeconfig))
    yield found
    await found.close()
