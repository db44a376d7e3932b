"""Requirements of a cluster with real pods on this machine, and the installation of those that are Debian packages."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from dev.cluster.node import NAMESPACES
from dev.errors import DevError
from dev.programs import CACHE

SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
"""Where the programs are looked for: not everybody's PATH has the folders of the administrator's."""
PACKAGES = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
}
"""Programs that come from the system, and the Debian package of each."""
_LOCK = CACHE / "packages.lock"
_APT_SECONDS = 300


def prepare() -> None:
    """Install the system's programs that are missing.

    Raises:
        DevError: this machine cannot run real pods; the sentence has the reason.
    """
    reason = unavailable()
    if reason is not None:
        raise DevError(f"Real pods cannot run here: {reason}")
    if not _missing():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        packages = sorted({PACKAGES[name] for name in _missing()})
        if packages and not _installed(packages):
            raise DevError(f"apt-get could not install {', '.join(packages)}: install them, then try again.")


def unavailable() -> str | None:
    """Why real pods cannot run on this machine, whatever is installed; None where they can."""
    if os.geteuid() != 0:
        return "kubelet and containerd need root, and this is not root."
    missing = _missing()
    if missing and shutil.which("apt-get") is None:
        return f"{', '.join(missing)} are missing, and there is no apt-get to install them."
    if "unshare" not in missing:
        tried = subprocess.run(
            ("unshare", *NAMESPACES, "--fork", "mount", "-t", "tmpfs", "tmpfs", "/run"),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if tried.returncode != 0:
            return f"this machine allows no namespaces and mounts ({tried.stderr.strip()})."
    if not os.access("/sys/fs/cgroup", os.W_OK) or not any(Path("/sys/fs/cgroup").iterdir()):
        return "/sys/fs/cgroup is not mounted, or may not be written."
    return None


def find(name: str) -> Path:
    """A program of the system.

    Raises:
        DevError: it is missing.
    """
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise DevError(f"{name} is missing: install the package {PACKAGES[name]}.")
    return Path(found)


def _missing() -> list[str]:
    return [name for name in PACKAGES if shutil.which(name, path=SEARCH_PATH) is None]


def _installed(packages: list[str]) -> bool:
    """Install packages; where the package lists are missing or old, fetch them first."""
    install = ("apt-get", "install", "--yes", "--no-install-recommends", *packages)
    return _apt(install) or (_apt(("apt-get", "update")) and _apt(install))


def _apt(command: tuple[str, ...]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        result = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_APT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0
