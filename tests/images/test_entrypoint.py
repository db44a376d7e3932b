"""The entrypoint of the image videojob-triton, with the real tritonserver in the place of the image's."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from dev.control_plane import free_ports, wait_until
from dev.tritonserver import command

ENTRYPOINT = Path(__file__).parents[2] / "images" / "videojob-triton"
READY_SECONDS = 60


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int, int]]:
    """Ports of gRPC, HTTP and metrics of a running server."""
    folder = tmp_path_factory.mktemp("entrypoint")
    grpc, http, metrics = free_ports(3)
    argv, environment = command(folder / "elsewhere", grpc_port=grpc, http_port=http, metrics_port=metrics)
    backends = next(argument for argument in argv if argument.startswith("--backend-directory="))
    _script(folder / "python", f'exec {sys.executable} "$@"')
    _script(folder / "tritonserver", f'exec {argv[0]} {backends} "$@"')
    entrypoint = folder / "videojob-triton"
    entrypoint.write_bytes(ENTRYPOINT.read_bytes())
    entrypoint.chmod(0o755)
    options = (f"--repository={folder}/repository", f"--grpc-port={grpc}", f"--http-port={http}")
    process = subprocess.Popen(
        (str(entrypoint), *options, f"--metrics-port={metrics}"),
        env={**environment, "PATH": f"{folder}{os.pathsep}{environment['PATH']}"},
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _status(http, "/v2/health/ready") == 200, "Triton is not ready", READY_SECONDS)
        yield grpc, http, metrics
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_probes_are_answered_from_outside(ports: tuple[int, int, int]) -> None:
    _, http, metrics = ports
    assert _status(http, "/v2/health/live") == 200
    assert _status(http, "/v2/health/ready") == 200
    assert _status(metrics, "/metrics") == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/control/load"),
        ("POST", "/v2/models/control/infer"),
        ("GET", "/v2/models/control/config"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("GET", "/v2/logging"),
        ("GET", "/v2/trace/setting"),
    ],
)
def test_http_does_nothing_else(ports: tuple[int, int, int], method: str, path: str) -> None:
    assert _status(ports[1], path, method) == 403


def test_grpc_stays_in_the_pod(ports: tuple[int, int, int]) -> None:
    grpc, http, _ = ports
    with socket.create_connection(("127.0.0.1", grpc), timeout=5):
        pass
    with socket.create_connection(("127.0.0.2", http), timeout=5):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", grpc), timeout=5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "usage: videojob-triton"),
        (("--repository=/x", "--grpc-port=1", "--http-port=2"), "usage: videojob-triton"),
        (("--model-repository=/x",), "there is no argument --model-repository=/x"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[str, ...], sentence: str) -> None:
    result = subprocess.run((str(ENTRYPOINT), *arguments), capture_output=True, text=True, timeout=10, check=False)
    assert result.returncode == 2
    assert sentence in result.stderr


def _status(port: int, path: str, method: str = "GET") -> int:
    request = Request(f"http://127.0.0.1:{port}{path}", method=method, data=b"{}" if method == "POST" else None)
    try:
        with urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return 0


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
