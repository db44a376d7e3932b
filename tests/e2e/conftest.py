from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

from dev.control_plane import Cluster
from tests.e2e.described import described
from tests.e2e.system import System
from tests.models.fixtures import tiny_model
from videojob.kube.client import KubeClient
from videojob.kube.connection import configuration

__all__ = ["tiny_model"]

REPLICAS = ("blue", "green")
"""Two replicas; green is started by the tests that need a second one."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure is printed with what the system was like."""
    report = yield
    system = getattr(item, "funcargs", {}).get("system")
    if report.failed and isinstance(system, System):
        report.sections.extend(described(system))
    return report


@pytest.fixture(scope="session")
def installed(cluster: Cluster, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Everything, with two replicas of one slot each; the processes are started by `system`."""
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "e2e"}})
    started = System(cluster, None, tmp_path_factory.mktemp("system"), "e2e", tiny_model, "e2e")  # type: ignore[arg-type]
    try:
        started.install(*REPLICAS)
        yield started
    finally:
        started.stop()


@pytest.fixture
async def system(installed: System) -> AsyncIterator[System]:
    """The whole system, up and ready; jobs that a test leaves behind are deleted."""
    installed.client = KubeClient(await configuration(installed.cluster.kubeconfig))
    try:
        for replica in installed.replicas.values():
            replica.faults.clear()
            replica.clear_marks()
            replica.log_start = len(replica.log.read_text()) if replica.log.exists() else 0
        installed.start("blue")
        await installed.ready("blue")
        yield installed
        installed.start("blue")  # Whatever the test has killed: files of jobs are removed by the operator.
        await installed.clean()
    finally:
        await installed.client.close()
