"""Run the real tritonserver on this machine, without a container: the one that the nvidia-pytriton wheel ships.

    python -m dev.tritonserver --repository DIR --grpc-port N --http-port N --metrics-port N

The process becomes tritonserver (exec), so its pid is tritonserver's. It listens on loopback only and loads no model by
itself (`--model-control-mode=explicit`). Production runs the official Triton image instead.
"""

import argparse
import hashlib
import os
import shutil
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

import videojob
from dev.errors import DevError

_CACHE = Path.home() / ".cache" / "videojob"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is, by definition


def command(repository: Path, *, grpc_port: int, http_port: int, metrics_port: int) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a tritonserver on `repository`. One server a repository.

    Raises DevError where the wheel lacks what this Python needs.
    """
    argv = [
        str(wheel() / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        f"--backend-directory={backends()}",
        f"--backend-config=python,shm-region-prefix-name={region_prefix(repository)}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc_port}",
        "--http-address=127.0.0.1",
        f"--http-port={http_port}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics_port}",
        # Requests in flight at SIGTERM get this long; a chunk is made again anyway.
        "--exit-timeout-secs=5",
    ]
    # model.py runs in the backend's own interpreter, which knows nothing of this environment.
    packages = [
        str(Path(videojob.__file__).parents[1]),
        *dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib"))),
    ]
    # The libpython that made this environment must come first: another build's fails on the standard library's modules.
    libraries = [str(sysconfig.get_config_var("LIBDIR")), str(wheel().parents[1] / "nvidia_pytriton.libs")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(packages),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        # Models come from a folder; nothing is fetched.
        "HF_HUB_OFFLINE": "1",
    }
    return argv, environment


def region_prefix(repository: Path) -> str:
    """Prefix of the shared memory regions of the server on `repository`: no two servers share one."""
    return f"videojob-{hashlib.sha256(str(repository.resolve()).encode()).hexdigest()[:12]}-"


def remove_stale_regions(repository: Path) -> None:
    """Remove the shared memory that a killed server on `repository` left. Only while none runs."""
    for region in _SHARED_MEMORY.glob(f"{region_prefix(repository)}*"):
        region.unlink(missing_ok=True)


def wheel() -> Path:
    """The wheel's folder of the server.

    Raises DevError where the wheel is not installed.
    """
    folder = Path(sysconfig.get_path("purelib")) / "pytriton" / "tritonserver"
    if not folder.is_dir():
        raise DevError("tritonserver is missing: install the package nvidia-pytriton into this environment.")
    return folder


def backends() -> Path:
    """The backend folder that tritonserver wants: the wheel's python backend with the stub of this Python beside it."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = _CACHE / f"tritonserver-{version('nvidia-pytriton')}-python{python}" / "backends"
    if folder.is_dir():
        return folder
    stub = wheel() / "python_backend_stubs" / python
    if not stub.is_dir():
        raise DevError(f"nvidia-pytriton {version('nvidia-pytriton')} has no python backend for Python {python}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "backends"
        for source in (wheel() / "backends" / "python", stub):
            shutil.copytree(source, made / "python", dirs_exist_ok=True)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Run the real tritonserver on this machine.")
    parser.add_argument("--repository", type=Path, required=True, help="folder of rendered models")
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--metrics-port", type=int, required=True)
    arguments = parser.parse_args()
    arguments.repository.mkdir(parents=True, exist_ok=True)
    argv, environment = command(
        arguments.repository,
        grpc_port=arguments.grpc_port,
        http_port=arguments.http_port,
        metrics_port=arguments.metrics_port,
    )
    remove_stale_regions(arguments.repository)
    os.execve(argv[0], argv, environment)  # noqa: S606 - a program and arguments that we made


if __name__ == "__main__":
    main()
