"""The images of the cluster: small root filesystems, to which every container gets the big parts from this machine.

`/usr`, the Python that made the environment and the environment's packages are mounted read-only into every container
by containerd itself (`base_spec`), so that pods are exactly those that run elsewhere: their specs name no folder of
this machine, and Restricted Pod Security holds. The project's own code and templates are copies in the image, put there
by the step that the Dockerfiles take, `images/install.sh code`.
"""

import json
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import certifi

from dev.cluster.oci import Entry, File, Image, Link, tree
from dev.errors import DevError
from dev.programs import program
from dev.supervisor import REPOSITORY
from dev.tritonserver import backends, wheel

REGISTRY = "videojob.dev/local"
PAUSE = f"{REGISTRY}/pause:1"
HOME = "/opt/videojob"
TRITON = "/opt/tritonserver"
_ENVIRONMENT = f"{HOME}/environment"
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_PACKAGES = f"{HOME}/lib/{_PYTHON}/site-packages"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# As in the Dockerfiles.
_VARIABLES = {
    "PATH": f"{HOME}/bin:{_PATH}",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
}
_TRITON_VARIABLES = {
    "PATH": f"{TRITON}/bin:{_PATH}:{HOME}/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}
_INSTALL_SECONDS = 120
_ROOT_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


def videojob(tag: str = "dev", source: Path = REPOSITORY) -> Image:
    """The image of operator and runner, with the code of a checkout."""
    return Image(f"{REGISTRY}/videojob:{tag}", _python(source, "videojob"), environment=_VARIABLES)


def videojob_triton(tag: str = "dev", source: Path = REPOSITORY) -> Image:
    """The image of a pool's Triton: the tritonserver of the pytriton wheel where the official image has its own."""
    entries = _python(source, "triton") | {
        f"{TRITON}/bin/tritonserver": File(_tritonserver().encode(), executable=True),
        f"{TRITON}/backends": backends(),
    }
    name = f"{REGISTRY}/videojob-triton:{tag}"
    return Image(name, entries, (f"{HOME}/bin/videojob-triton",), environment=_TRITON_VARIABLES)


def pause() -> Image:
    """The image of every pod's sandbox."""
    return Image(PAUSE, {"/pause": program("pause")}, ("/pause",), user="65535:65535")


def coredns() -> Image:
    """The image of the cluster's DNS server."""
    return _single("coredns")


def versitygw() -> Image:
    """The image of the S3 server."""
    return _single("versitygw")


def base_spec(default: dict[str, Any]) -> str:
    """The OCI spec that every container starts from: containerd's own with this machine's parts mounted."""
    mounts = [
        {
            "destination": destination,
            "type": "bind",
            "source": str(source),
            "options": ["rbind", "ro", "nosuid", "nodev"],
        }
        for destination, source in _mounts().items()
    ]
    # Without limits of its own a container gets containerd's, as it would with no base spec.
    process = {key: value for key, value in default["process"].items() if key != "rlimits"}
    return json.dumps(default | {"process": process, "mounts": [*default["mounts"], *mounts]})


def _mounts() -> dict[str, Path]:
    mounts = {"/usr": Path("/usr"), _ENVIRONMENT: Path(sysconfig.get_path("purelib"))}
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        mounts[sys.base_prefix] = Path(sys.base_prefix)
    for name in _ROOT_LINKS:
        path = Path("/", name)
        if path.is_dir() and not path.is_symlink():
            mounts[str(path)] = path
    return mounts


def _root() -> dict[str, Entry]:
    entries: dict[str, Entry] = {
        "/etc/passwd": File(b"root:x:0:0:root:/:/sbin/nologin\n"),
        "/etc/group": File(b"root:x:0:\n"),
        "/etc/ssl/certs/ca-certificates.crt": Path(certifi.where()),
        "/tmp": None,  # noqa: S108 - a mount point
        **dict.fromkeys(_mounts()),
    }
    for name in _ROOT_LINKS:
        path = Path("/", name)
        if path.is_symlink():
            entries[str(path)] = Link(str(path.readlink()))
    return entries


def _python(source: Path, group: str) -> dict[str, Entry]:
    """A virtual environment that has the code of its own, and everything else from the environment of this machine."""
    with tempfile.TemporaryDirectory() as temporary:
        prefix = Path(temporary)
        base = Path(sys.base_prefix, "bin", _PYTHON)
        (prefix / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
        (prefix / "bin").mkdir()
        for name in ("python", "python3", _PYTHON):
            (prefix / "bin" / name).symlink_to(base)
        packages = prefix / "lib" / _PYTHON / "site-packages"
        packages.mkdir(parents=True)
        (packages / "environment.pth").write_text(f"{_ENVIRONMENT}\n")
        command = (str(source / "images" / "install.sh"), "code", str(prefix), group)
        result = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
        if result.returncode != 0:
            raise DevError(f"{command[0]} failed: {result.stderr.strip()}")
        return _root() | {f"{HOME}/{name}": entry for name, entry in tree(prefix).items()}


def _tritonserver() -> str:
    """A script in place of the official image's tritonserver: starts the wheel's, with the path of its libraries."""
    packages = Path(sysconfig.get_path("purelib"))
    server = Path(_ENVIRONMENT, wheel().relative_to(packages))
    # As in dev.tritonserver: the libpython that made this environment must come first.
    libraries = f"{sysconfig.get_config_var('LIBDIR')}:{_ENVIRONMENT}/nvidia_pytriton.libs"
    return f"""#!/bin/sh
# tritonserver of nvidia-pytriton {version("nvidia-pytriton")}; the official image's needs none of this.
export LD_LIBRARY_PATH="{libraries}"
exec {server}/bin/tritonserver --backend-directory={TRITON}/backends "$@"
"""


def _single(name: str) -> Image:
    return Image(f"{REGISTRY}/{name}:dev", _root() | {f"/opt/{name}": program(name)}, (f"/opt/{name}",))
