"""The control groups of a cluster's pods: one of its own in every hierarchy of this machine."""

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from dev.errors import DevError

_ROOT = Path("/sys/fs/cgroup")
_SECONDS = 10.0
SHARE = 8
_WEIGHTS = {"cpu.shares": 1024, "cpu.weight": 100}
"""What a process counts, in version 1 and in version 2."""


def name(folder: Path) -> str:
    """The name of the group of the cluster in the folder."""
    return f"videojob-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def make(folder: Path) -> None:
    """Make the group. Where processors are short, all its pods together count as much as SHARE other processes.

    As much as one, which is what a group counts by default, pods beside a busy program would hardly start.
    """
    for hierarchy in _hierarchies():
        group = hierarchy / name(folder)
        group.mkdir(exist_ok=True)
        for file, unit in _WEIGHTS.items():
            if (group / file).exists():
                (group / file).write_text(str(SHARE * unit))


def remove(folder: Path) -> None:
    """Remove the group with all below it, once the processes in it have ended.

    Raises:
        DevError: some have not, within the time.
    """
    deadline = time.monotonic() + _SECONDS
    while left := [group for hierarchy in _hierarchies() for group in _with_children(hierarchy / name(folder))]:
        for group in left:
            with suppress(OSError):
                group.rmdir()
        if time.monotonic() > deadline:
            raise DevError(f"Processes are left in {left[-1]}.")
        time.sleep(0.02)


def _hierarchies() -> list[Path]:
    """Mount points of the hierarchies: one with version 2, one for each controller with version 1."""
    return [
        Path(fields[1])
        for fields in (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        if fields[2] in {"cgroup", "cgroup2"} and Path(fields[1]).is_relative_to(_ROOT)
    ]


def _with_children(group: Path) -> list[Path]:
    """The group and all below it, children first."""
    if not group.is_dir():
        return []
    return [*(each for child in group.iterdir() if child.is_dir() for each in _with_children(child)), group]
