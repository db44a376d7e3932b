"""`python -m dev up`, interrupted at any moment, leaves nothing behind."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import supervisor as supervisors
from dev.control_plane import wait_until
from dev.local import samples
from dev.processes import marked
from dev.supervisor import REPOSITORY, read_pid

UP = """
import sys
from pathlib import Path
from dev import local
from dev.__main__ import main
local.LOCAL = Path(sys.argv[1])
sys.argv[1] = "up"
sys.exit(main())
"""


@pytest.fixture
def coming_up(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m dev up`, in a folder of the test's own."""
    process = subprocess.Popen((sys.executable, "-c", UP, str(tmp_path)), cwd=REPOSITORY)
    yield process
    process.kill()
    process.wait()
    supervisors.stop(tmp_path)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "supervisor"),
        (signal.SIGINT, "kube-apiserver"),
        (signal.SIGINT, "runner-0"),
        (signal.SIGTERM, "kube-apiserver"),
        (signal.SIGKILL, "runner-0"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_interrupted_up_leaves_nothing(
    moment: str, number: signal.Signals, coming_up: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    wait_until(
        lambda: read_pid(tmp_path, moment) is not None,
        f"{moment} does not run",
        120,
        lambda: None if coming_up.poll() is None else "it has ended before",
    )
    coming_up.send_signal(number)
    status = coming_up.wait(timeout=60)
    if number is signal.SIGKILL:
        wait_until(lambda: not marked(tmp_path), "Something is left", 60)
    else:
        assert status == 130
        assert marked(tmp_path) == []


def test_samples_get_this_machines_paths_and_ports(tmp_path: Path) -> None:
    queue, model, pool = samples(tmp_path / "model", "127.0.0.1:9", tmp_path / "store")
    assert queue["metadata"] == {"name": "default", "namespace": "default"}
    assert model["spec"]["source"] == {"directory": str(tmp_path / "model")}
    assert [endpoint["url"] for endpoint in pool["spec"]["endpoints"]] == ["127.0.0.1:9"]
    assert pool["spec"]["store"] == {"url": (tmp_path / "store").as_uri()}
    assert pool["spec"]["models"] == [model["metadata"]["name"]]
