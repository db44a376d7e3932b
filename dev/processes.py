"""Linux processes that must not outlive their owner, and that can be distinguished from other processes.

Every process of a local folder carries the folder's path in its environment (`MARK`), and so do its descendants. A
signal goes through a pidfd that was opened before the mark was read: it cannot reach a process that got the id later.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "VIDEOJOB_LOCAL_FOLDER"
"""Environment variable of every process that was started for a local folder."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> Callable[[], None]:
    """A `preexec_fn` by which a child gets SIGKILL when this process dies, however it dies."""
    parent = os.getpid()

    def preexec() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # It died before the prctl.
            os._exit(1)

    return preexec


def marked(folder: Path) -> list[int]:
    """Ids of the living processes that were started for the folder."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_marked(entry, folder)]


def send(pid: int, folder: Path, number: signal.Signals) -> bool:
    """Send a signal to a process of the folder; False, and nothing sent, when no process of the folder has that id."""
    with _pidfd(pid) as descriptor:
        if descriptor is None or not _is_marked(Path("/proc", str(pid)), folder):
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
        return True


def kill_all(folder: Path, *, seconds: float = 10) -> list[int]:
    """SIGKILL every process of the folder, and return the ids of those that have not gone within the time."""
    deadline = time.monotonic() + seconds
    while left := marked(folder):
        for pid in left:
            send(pid, folder, signal.SIGKILL)
        if time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return []


def _is_marked(entry: Path, folder: Path) -> bool:
    try:
        environment = (entry / "environ").read_bytes()
    except OSError:  # Gone, or somebody else's.
        return False
    return f"{MARK}={folder}".encode() in environment.split(b"\0")


@contextmanager
def _pidfd(pid: int) -> Iterator[int | None]:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
