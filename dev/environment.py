"""Install requirements.lock into the virtual environment that runs this file; needs the standard library alone.

uv installs in half a minute what takes pip several, so pip installs the locked uv first. Where uv cannot be had, or
cannot reach the registry that pip is configured for, pip does it all.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
LOCK = REPOSITORY / "requirements.lock"
STAMP = Path(sys.prefix) / "videojob-installed"
"""File with the hash of what was installed last."""


def main() -> int:
    """Install what the lock and pyproject.toml ask for, unless that is what was installed last."""
    wanted = hashlib.sha256(LOCK.read_bytes() + (REPOSITORY / "pyproject.toml").read_bytes()).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return 0
    print("Installing the Python environment of requirements.lock (5 GB, once) ...", flush=True)
    if not (_install_uv() and _install((str(Path(sys.prefix, "bin", "uv")), "pip"), uv_environment(os.environ))):
        print("uv could not install it; pip does, which takes longer ...", flush=True)
        if not _install((sys.executable, "-m", "pip"), os.environ):
            print("The Python environment could not be installed: see pip's message above.", file=sys.stderr)
            return 1
    STAMP.write_text(wanted)
    return 0


def uv_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with pip's settings of registry and certificates passed on to uv."""
    passed = dict(environment)
    for pip_name, uv_name in (
        ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
        ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
        ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
        ("PIP_CERT", "SSL_CERT_FILE"),
        ("PIP_DEFAULT_TIMEOUT", "UV_HTTP_TIMEOUT"),
    ):
        if environment.get(pip_name):
            passed.setdefault(uv_name, environment[pip_name])
    passed.setdefault("UV_SYSTEM_CERTS", "true")
    # As pip does: pods of the local cluster cannot write what they compile, so each would do it at every start.
    passed.setdefault("UV_COMPILE_BYTECODE", "true")
    passed["VIRTUAL_ENV"] = sys.prefix
    return passed


def locked(name: str, lock: str) -> str:
    """The lines of the lock that pin one package."""
    found = re.search(rf"^{re.escape(name)}==.*(?:\n +--hash=.*)*", lock, re.MULTILINE)
    if found is None:
        raise LookupError(f"{name} is not in {LOCK}")
    return found[0] + "\n"


def _install_uv() -> bool:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write(locked("uv", LOCK.read_text()))
        requirements.flush()
        command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes")
        return _succeeds((*command, "--requirement", requirements.name), os.environ)


def _install(pip: tuple[str, ...], environment: Mapping[str, str]) -> bool:
    install = (*pip, "install", "--quiet")
    return _succeeds((*install, "--require-hashes", "--requirement", str(LOCK)), environment) and _succeeds(
        (*install, "--no-deps", "--no-build-isolation", "--editable", str(REPOSITORY)), environment
    )


def _succeeds(command: tuple[str, ...], environment: Mapping[str, str]) -> bool:
    try:
        return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
