"""Fixtures of the operator's tests."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dev.control_plane import Cluster
from tests.controller.bench import Bench
from tests.controller.objects import model_body, pool_body, queue_body
from tests.controller.world import OperatorProcess, World, operator_process
from videojob.kube.client import GPU_POOLS, VIDEO_MODELS, VIDEO_QUEUES, KubeClient
from videojob.kube.connection import configuration


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[KubeClient]:
    """An administrator's client."""
    found = KubeClient(await configuration(cluster.kubeconfig))
    yield found
    await found.close()


@pytest.fixture
def bench() -> Bench:
    """Effects on a scripted API server, with a model, a queue and a pool."""
    made = Bench()
    for kind, body in ((VIDEO_MODELS, model_body()), (VIDEO_QUEUES, queue_body()), (GPU_POOLS, pool_body())):
        made.see(kind, body)
    return made


@pytest.fixture
async def world(cluster: Cluster, client: KubeClient, namespace: str, tmp_path: Path) -> AsyncIterator[World]:
    """A namespace with nothing in it yet; what is in it afterwards keeps no later operator busy."""
    found = World(cluster, client, namespace, tmp_path / "store")
    yield found
    await found.leave()


@pytest.fixture(scope="module")
def operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """An operator process with shorter times, that is ready; the tests of a module share it."""
    with operator_process(cluster, tmp_path_factory.mktemp("operator") / "operator.log") as started:
        yield started
