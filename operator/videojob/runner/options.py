"""The runner's command line."""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from videojob.api.replica import CUT_OFF_SECONDS
from videojob.arguments import cut_off_seconds
from videojob.health import EVERYWHERE
from videojob.logs import Format
from videojob.triton.contract import CONTROL_MODEL, STAGES

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_UID = re.compile(r"[0-9a-f-]{36}")
LEASE_SECONDS = range(2, 601)


@dataclass(frozen=True)
class Options:
    """What a runner is started with."""

    pool: str
    replica: str
    pod_uid: str | None
    """Of the pod that the runner is in, if it is in one."""
    namespace: str
    model_repository: Path
    repository: Path
    kubeconfig: Path | None
    bind_address: str
    health_port: int | None
    metrics_port: int | None
    lease_seconds: int
    cut_off_seconds: int
    ready_seconds: float
    drain_seconds: float
    memory_bytes: int
    log_format: Format


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The options. Ends the process with a sentence and status 1 where one is wrong."""
    parser = _Parser(
        prog="python -m videojob.runner",
        description="Take the jobs of one replica, make their videos with its Triton, and store them. "
        "The cluster is that of KUBECONFIG or, without it, the one whose pod this is.",
    )
    parser.add_argument("--pool", type=_name, required=True, help="name of the GPUPool")
    parser.add_argument(
        "--replica",
        type=_name,
        required=True,
        help="name of the replica: an endpoint of the pool, or the name of this pod",
    )
    parser.add_argument("--pod-uid", type=_uid, help="uid of this pod, called like the replica: its Lease goes with it")
    parser.add_argument("--namespace", type=_name, default="videojob-system", help="the operator's (%(default)s)")
    parser.add_argument(
        "--model-repository", type=_templates, required=True, help="folder of the models' templates: model_repo/"
    )
    parser.add_argument(
        "--repository", type=Path, required=True, help="folder that Triton loads from; the models are written there"
    )
    parser.add_argument("--bind-address", default=EVERYWHERE, help="address of both ports (%(default)s)")
    parser.add_argument("--health-port", type=_port, help="serve /livez and /readyz there")
    parser.add_argument("--metrics-port", type=_port, help="serve Prometheus metrics there")
    parser.add_argument(
        "--lease-seconds",
        type=_lease_seconds,
        default=15,
        help="it is lost without a heartbeat for so long (%(default)s)",
    )
    parser.add_argument(
        "--cut-off-seconds",
        type=cut_off_seconds,
        default=CUT_OFF_SECONDS,
        help="without the API server it goes on making its jobs for so long since the last heartbeat (%(default)s)",
    )
    parser.add_argument(
        "--ready-seconds",
        type=_seconds,
        default=120.0,
        help="a job is handed back where its model is not loaded for so long (%(default)s)",
    )
    parser.add_argument(
        "--drain-seconds",
        type=_seconds,
        default=90.0,
        help="chunks in flight get so long to end when the replica is drained; then they are stopped (%(default)s, "
        "which leaves 30 s of a pod's 120)",
    )
    parser.add_argument("--memory-bytes", type=_count, default=0, help="memory for weights and jobs, if known")
    parser.add_argument(
        "--log-format", choices=get_args(Format), default="text", help="json for a cluster (%(default)s)"
    )
    given = parser.parse_args(arguments)
    kubeconfig = os.environ.get("KUBECONFIG")
    return Options(kubeconfig=Path(kubeconfig) if kubeconfig else None, **vars(given))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(1, f"{self.prog}: {message}. Try --help.\n")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: it takes up to 63 of a-z, 0-9 and -")
    return text


def _uid(text: str) -> str:
    if not _UID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no uid of a pod")
    return text


def _templates(text: str) -> Path:
    path = Path(text)
    missing = [name for name in (*STAGES, CONTROL_MODEL) if not (path / name / "config.pbtxt").is_file()]
    if missing:
        raise argparse.ArgumentTypeError(f"{text} lacks {', '.join(missing)}: give the folder model_repo/")
    return path


def _port(text: str) -> int:
    if not (text.isdigit() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: it takes a number from 1 to 65535")
    return int(text)


def _lease_seconds(text: str) -> int:
    if not (text.isdigit() and int(text) in LEASE_SECONDS):
        raise argparse.ArgumentTypeError(f"{text!r} is no such time: it takes whole seconds from 2 to 600")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no such time: it takes seconds, up to a day")
    return seconds


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes")
    return int(text)
