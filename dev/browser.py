"""A browser, and the player that people load into theirs: fetched once into the user's cache, for tests.

The browser is the distribution's headless Chromium: the one that is installed or, without any right of root, its
packages and the libraries that this machine lacks, unpacked. apt checks them against the distribution's signature; no
version is pinned, because its archive has only the newest. The player is hls.js of npm, pinned by its hash. `python -m
dev.browser` fetches both; it needs the standard library alone, because it runs while the environment is installed.
"""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.errors import DevError
from dev.programs import CACHE, locked

INSTALLED: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PACKAGE: Final = "chromium-headless-shell"
PLAYER: Final = "hls.js@1.7.4"
PLAYER_SHA512: Final = "3GlxGdPvT2YHvQYOt+yOzT/DEior/qJVNIylHA77kgeoBTdQQqi70GwefNEUmHQeNGyjC8U62+bruqW/Tpm+tg=="
FETCH_SECONDS: Final = 600


@dataclass(frozen=True)
class Browser:
    """A Chromium, to be started with this environment."""

    path: Path
    environment: Mapping[str, str]


def chromium(cache: Path = CACHE) -> Browser:
    """The browser. Raises DevError where it cannot be fetched."""
    for name in INSTALLED:
        if (found := shutil.which(name)) is not None:
            return Browser(Path(found), os.environ)
    folder = cache / PACKAGE
    _once(folder, lambda made: _unpack(made, cache))
    libraries = folder / "usr/lib" / f"{os.uname().machine}-linux-gnu"
    paths = os.pathsep.join((str(libraries), str(libraries / "pulseaudio")))
    return Browser(folder / "usr/lib/chromium/chromium-headless-shell", {**os.environ, "LD_LIBRARY_PATH": paths})


def player(cache: Path = CACHE) -> Path:
    """hls.js, as one file. Raises DevError where it cannot be fetched."""
    folder = cache / PLAYER
    _once(folder, _fetch_player)
    return folder / "hls.min.js"


def _once(folder: Path, fetch: Callable[[Path], None]) -> None:
    """Fill the folder, unless that was done before; other processes that want it wait."""
    if folder.is_dir():
        return
    with locked(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir():
            return
        print(f"Fetching {folder.name} (once) ...", flush=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            made = Path(temporary, "made")
            made.mkdir()
            fetch(made)
            made.rename(folder)


def _unpack(folder: Path, cache: Path) -> None:
    if shutil.which("apt-get") is None:
        raise DevError(f"No browser was found, and there is no apt to fetch one with: install one of {INSTALLED}.")
    # Lists of our own: those of the system may be missing, and only root may renew them.
    lists = cache / "apt"
    for name in ("lists/partial", "archives/partial"):
        (lists / name).mkdir(parents=True, exist_ok=True)
    apt = ("apt-get", "-qq", "-o", f"Dir::State::lists={lists / 'lists'}", "-o", f"Dir::Cache={lists}")
    _run((*apt, "update"), folder)
    planned = _run((*apt, "install", "--simulate", "--no-install-recommends", PACKAGE), folder)
    names = re.findall(r"^Inst (\S+)", planned, re.MULTILINE)
    _run((*apt, "download", *names), folder)
    for package in folder.glob("*.deb"):
        _run(("dpkg", "--extract", str(package), "."), folder)
        package.unlink()


def _fetch_player(folder: Path) -> None:
    if shutil.which("npm") is None:
        raise DevError(f"There is no npm to fetch {PLAYER} with: install it, as with `apt-get install npm`.")
    _run(("npm", "pack", "--silent", PLAYER), folder)
    (archive,) = folder.glob("*.tgz")
    if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != PLAYER_SHA512:
        raise DevError(f"What the registry gave for {PLAYER} is not what was pinned: nothing of it is used.")
    with tarfile.open(archive) as packed, (folder / "hls.min.js").open("wb") as file:
        member = packed.extractfile("package/dist/hls.min.js")
        if member is None:
            raise DevError(f"{PLAYER} has no dist/hls.min.js.")
        file.write(member.read())
    archive.unlink()


def _run(command: tuple[str, ...], folder: Path) -> str:
    """Run it in that folder; what it printed."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise DevError(f"{' '.join(command[:2])} failed: {error.stderr.strip()[-300:]}") from error
    except subprocess.TimeoutExpired as error:
        raise DevError(f"{' '.join(command[:2])} took more than {FETCH_SECONDS} s.") from error
    return done.stdout


def main() -> int:
    """Fetch both."""
    try:
        chromium()
        player()
    except DevError as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
