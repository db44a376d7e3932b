"""Fixtures of the tests on simulated nodes."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dev.control_plane import NAMESPACE, Cluster
from tests.controller.world import OperatorProcess, operator_process
from tests.kwok.nodes import add_nodes, cluster_with_nodes
from tests.kwok.pod_runners import PodRunners
from tests.kwok.world import PoolWorld
from videojob.kube.client import KubeClient
from videojob.kube.connection import configuration


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with three nodes of eight H200s and two of eight L40s."""
    with cluster_with_nodes(tmp_path_factory.mktemp("kwok")) as started:
        add_nodes(started, "h200", 3)
        add_nodes(started, "l40", 2)
        yield started


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[KubeClient]:
    """An administrator's client."""
    found = KubeClient(await configuration(cluster.kubeconfig))
    yield found
    await found.close()


@pytest.fixture(scope="module")
def operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """An operator process with shorter times, that is ready; the tests of a module share it."""
    with operator_process(cluster, tmp_path_factory.mktemp("operator") / "operator.log") as started:
        yield started


@pytest.fixture
async def world(cluster: Cluster, client: KubeClient, namespace: str, tmp_path: Path) -> AsyncIterator[PoolWorld]:
    """A namespace with a queue and a model, and runners for the pods of every pool; nothing is left afterwards."""
    found = PoolWorld(cluster, client, namespace, tmp_path / "store", pod_runners=PodRunners(client, NAMESPACE))
    found.pod_runners.start()
    await found.queue()
    await found.models()
    yield found
    await found.leave()
    await found.pod_runners.stop()
    assert found.pod_runners.error is None, found.pod_runners.error
