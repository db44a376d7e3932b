"""Processes of this machine."""

from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """Ids of the processes that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            # After the command's name, which may hold anything: state, parent.
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid:
                found.append(int(entry.name))
    return found
