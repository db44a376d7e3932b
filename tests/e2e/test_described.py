"""Whoever reads of a failure in a run elsewhere has no more than what was printed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from dev.control_plane import Cluster
from dev.errors import DevError
from dev.supervisor import REPOSITORY
from tests.e2e.described import LINES, described
from tests.e2e.faults import Faults
from tests.e2e.replica import Replica
from tests.e2e.system import System
from videojob.kube.client import KubeClient

CONDITION = {
    "type": "Assigned",
    "status": "False",
    "reason": "RunnerError",
    "message": "Replica blue lives.",
    "lastTransitionTime": "2026-11-25T23:33:08Z",
}
BOTH = """
import pytest
from tests.e2e import test_described

@pytest.fixture
def system(tmp_path):
    return test_described.system(tmp_path, away=False)

def test_that_fails(system):
    assert not system

def test_that_passes(system):
    assert system
"""
JOBS = {"items": [{"metadata": {"name": "film"}, "status": {"phase": "Pending", "conditions": [CONDITION]}}]}


class Answering:
    """A cluster with one job, or one whose API server is away."""

    def __init__(self, *, away: bool) -> None:
        self._away = away

    def kubectl(self, *arguments: str, **options: Any) -> str:
        if self._away:
            raise DevError("kubectl get took more than 10 s.")
        return json.dumps(JOBS) if arguments[1] == "videojobs" else "the events"


def system(folder: Path, *, away: bool) -> System:
    cluster, client = cast("Cluster", Answering(away=away)), cast("KubeClient", None)
    made = System(cluster, client, folder, "e2e", folder, "e2e")
    blue = folder / "blue"
    blue.mkdir()
    made.replicas["blue"] = Replica("blue", blue, [], Faults(blue / "faults"))
    (folder / "operator.log").write_text("\n".join(f"line {number}" for number in range(100)))
    made.replicas["blue"].log.write_bytes(b"cut \xff off")
    return made


def test_jobs_events_and_the_ends_of_logs_are_described(tmp_path: Path) -> None:
    found = dict(described(system(tmp_path, away=False)))

    assert found.keys() == {"jobs", "events", "end of operator.log", "end of blue/runner.log"}
    assert "film: phase Pending" in found["jobs"]
    assert "Assigned=False RunnerError: Replica blue lives." in found["jobs"]
    assert found["end of operator.log"].splitlines() == [f"line {number}" for number in range(100 - LINES, 100)]
    assert "cut" in found["end of blue/runner.log"]


def test_logs_are_described_without_an_api_server(tmp_path: Path) -> None:
    found = dict(described(system(tmp_path, away=True)))

    assert found["jobs"] == found["events"] == "kubectl get took more than 10 s."
    assert "line 99" in found["end of operator.log"]


def test_a_failure_is_printed_with_them_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.e2e.conftest import pytest_runtest_makereport\n")
    (tmp_path / "test_both.py").write_text(BOTH)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    done = subprocess.run(
        (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path)),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("film: phase Pending") == done.stdout.count("line 99") == 1
