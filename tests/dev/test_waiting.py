"""The documented way to wait for a job ends with the job, whichever way it ends: tried with the real kubectl."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from dev.control_plane import MANIFESTS, Cluster
from dev.errors import DevError
from dev.programs import program
from dev.supervisor import REPOSITORY
from videojob.api import transitions
from videojob.api.reasons import Reason
from videojob.api.videojob import OutputStatus, VideoJobStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OUTPUT = OutputStatus(uri="file:///v.mp4", sha256="0", size_bytes=1, frames=48, duration_seconds=3.0)
PAGES = (
    *REPOSITORY.glob("*.md"),
    *(REPOSITORY / "docs").rglob("*.md"),
    *(REPOSITORY / "charts" / "videojob").glob("README.md*"),
    REPOSITORY / "charts" / "videojob" / "templates" / "NOTES.txt",
    *(MANIFESTS / "samples").rglob("*.yaml"),
)
WAIT = re.compile(r"^kubectl wait videojobs? .*$", re.MULTILINE)
ENDS: dict[str, Callable[[VideoJobStatus], VideoJobStatus]] = {
    "Succeeded": lambda status: transitions.succeeded(status, output=OUTPUT, now=NOW, generation=1),
    "Failed": lambda status: transitions.failed(
        status, reason=Reason.PROMPT_TOO_LONG, message="Too long.", now=NOW, generation=1
    ),
    "Cancelled": lambda status: transitions.cancelled(status, now=NOW, generation=1),
}


def documented() -> set[str]:
    """Every command of the documentation that waits for the end of a job, without its time limit.

    Who waits for the playlist watches a job that runs.
    """
    found = {command for page in PAGES for command in WAIT.findall(page.read_text()) if "playlistURI" not in command}
    return {re.sub(r" --timeout=\w+", "", command) for command in found}


@pytest.mark.parametrize("phase", ENDS)
def test_the_documented_wait_returns_when_the_job_ends(cluster: Cluster, namespace: str, phase: str) -> None:
    (command,) = documented()
    _, *arguments = shlex.split(command)
    sample = str(MANIFESTS / "samples" / "one-shot.yaml")
    cluster.kubectl("apply", "--namespace", namespace, "-f", sample)
    with pytest.raises(DevError, match="timed out"):
        cluster.kubectl(*arguments, "--namespace", namespace, "--timeout=1s")

    waiting = subprocess.Popen(
        (
            *(str(program("kubectl")), "--kubeconfig", str(cluster.kubeconfig), *arguments),
            *("--namespace", namespace, "--timeout=60s"),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        body = json.dumps({"status": ENDS[phase](VideoJobStatus()).wire()})
        target = ("patch", "videojob", "one-shot", "--namespace", namespace, "--subresource=status")
        cluster.kubectl(*target, "--type=merge", "-p", body)
        printed, _ = waiting.communicate(timeout=60)
    finally:
        waiting.kill()
        waiting.wait()
    assert (waiting.returncode, "condition met" in printed) == (0, True), printed


def test_no_page_waits_for_one_end_alone() -> None:
    assert not [command for command in documented() if "--for=condition" in command]
