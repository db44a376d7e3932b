"""What a failed test leaves behind, to be printed with it."""

import json
from collections.abc import Iterator
from pathlib import Path

from dev.errors import DevError
from tests.e2e.system import System

LINES = 40
"""Of each log."""
SECONDS = 10.0
"""For an answer of the API server, which may be what is broken."""


def described(system: System) -> Iterator[tuple[str, str]]:
    """Titles and texts: the jobs with their conditions, their Events, and the end of every log. Raises nothing."""
    yield "jobs", _asked(system, "get", "videojobs", "--output", "json")
    columns = "custom-columns=AT:.lastTimestamp,JOB:.involvedObject.name,REASON:.reason,MESSAGE:.message"
    yield "events", _asked(system, "get", "events", "--sort-by", ".lastTimestamp", "--output", columns)
    logs = [system.folder / "operator.log"]
    for replica in system.replicas.values():
        logs += [replica.log, replica.folder / "triton.log"]
    for log in logs:
        if log.exists():
            yield f"end of {log.relative_to(system.folder)}", _end(log)


def _asked(system: System, *arguments: str) -> str:
    try:
        answer = system.cluster.kubectl(*arguments, "--namespace", system.namespace, seconds=SECONDS)
    except DevError as error:
        return str(error)
    return _jobs(answer) if arguments[-1] == "json" else answer


def _jobs(answer: str) -> str:
    lines = []
    for job in json.loads(answer)["items"]:
        status = job.get("status", {})
        shown = ("phase", "attempts", "failures", "losses", "handBacks", "assignment")
        lines.append(f"{job['metadata']['name']}: " + ", ".join(f"{key} {status.get(key)}" for key in shown))
        lines += [
            "  {lastTransitionTime} {type}={status} {reason}: {message}".format(**one)
            for one in status.get("conditions", [])
        ]
    return "\n".join(lines)


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LINES:])
