"""The cluster with real pods: one for the whole session, on machines that allow it."""

import os
import uuid
from collections.abc import Iterator

import pytest

from dev.cluster import cluster as clusters
from dev.cluster import machine
from dev.cluster.cluster import RESTRICTED, RealCluster
from dev.errors import DevError
from dev.local import MODEL, make_model
from tests.cluster.release import QUICK, Release
from videojob.api.conditions import ConditionType
from videojob.api.gpupool import GPUPool
from videojob.api.videojob import VideoJob

REQUIRED = "VIDEOJOB_REQUIRE_CLUSTER"
"""With this set to 1, a machine that cannot run real pods fails the tests that need them."""
_NOT_RUN = pytest.StashKey[str]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reason = config.stash.get(_NOT_RUN, None)
    if reason is not None:
        terminalreporter.write_line(f"NOT RUN: every test on the cluster with real pods. {reason}", red=True, bold=True)


@pytest.fixture(scope="session")
def real_pods(pytestconfig: pytest.Config) -> None:
    """Skips the test, or fails it, where this machine cannot run real pods."""
    try:
        machine.prepare()
    except DevError as reason:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED} is set. {reason}")
        pytestconfig.stash[_NOT_RUN] = str(reason)
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def real(real_pods: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """A cluster with one node, DNS and the store; nothing of this project is installed in it."""
    make_model(print)
    folder = tmp_path_factory.mktemp("pods")
    supervisor, started = clusters.start(folder, MODEL.parent, print)
    try:
        yield started
    finally:
        clusters.stop(folder)
        supervisor.stop()  # It has ended: what is left are its pipes, and its exit status.


@pytest.fixture
def restricted(real: RealCluster) -> Iterator[str]:
    """A namespace that enforces restricted Pod Security; it goes with its pods."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    real.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    yield name
    real.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def installed(real: RealCluster) -> Iterator[Release]:
    """The release, with a pool that soon scales to zero."""
    release = Release(real, "default")
    release.install()
    release.change_pool(scaling=QUICK)
    yield release
    real.kubectl("delete", "videojobs", "--all", "-n", "default", "--timeout=120s")


@pytest.fixture
def release(installed: Release) -> Iterator[Release]:
    """The release, without jobs; the pool as it was."""
    yield installed
    installed.real.kubectl("delete", "videojobs", "--all", "-n", installed.namespace, "--timeout=120s")
    installed.change_pool(scaling=QUICK, models=["tiny-anyflow"])


@pytest.fixture(scope="session")
def first(installed: Release) -> tuple[VideoJob, GPUPool]:
    """A job that nothing has disturbed, and the pool after it; the pool had no replica before."""
    installed.submit("undisturbed")
    installed.until_condition(ConditionType.SCALING_ACTIVE, "Steady")
    pool = installed.pool()
    installed.video("undisturbed")
    return installed.job("undisturbed"), pool


@pytest.fixture(scope="session")
def undisturbed(first: tuple[VideoJob, GPUPool]) -> str:
    """sha256 of the video that every job of `submit` makes."""
    output = first[0].status.output
    assert output is not None
    return output.sha256
