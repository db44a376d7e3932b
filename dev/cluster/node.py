"""A node in namespaces of its own: mounts, network and processes that are all gone when its first process is.

    python -m dev.cluster.node FOLDER NUMBER                make the node and hold it, until this process ends
    python -m dev.cluster.node FOLDER --enter COMMAND ...   run a command in it

A pair of interfaces links it with the host, which routes the cluster's whole block to it, so that the host reaches pods
and services by their addresses. Nothing is routed further: pods have no internet. The node's state lies in FOLDER/node.
SIGKILL of the holder, or of whoever started it, makes the kernel end every process of the node.
"""

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dev.cluster.addresses import Addresses
from dev.errors import DevError
from dev.processes import die_with_parent, marked, send
from dev.programs import CACHE

ENTER_SECONDS = 30.0
NAMESPACES = ("--mount", "--net", "--pid", "--ipc", "--uts")
STATE = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers")
"""Folders whose paths are fixed in kubelet and CNI; those of the node are mounted there from FOLDER/node."""
_LOCK = CACHE / "node.lock"
"""Shared by the holders of nodes: what is a mount point in one of them must not be removed, or the mount goes too."""
_KERNEL = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""Kernel settings that kubelet requires and would otherwise set for the whole machine."""


def hold(folder: Path, addresses: Addresses) -> int:
    """Make the node and hold it; returns when its first process has ended."""
    with _LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        return _hold(folder, addresses)


def _hold(folder: Path, addresses: Addresses) -> int:
    pid_file = _pid_file(folder)
    pid_file.unlink(missing_ok=True)
    for path in STATE:
        Path(path).mkdir(parents=True, exist_ok=True)
    first = subprocess.Popen(
        (
            *("unshare", *NAMESPACES, "--fork", "--kill-child", "--propagation", "private"),
            *(sys.executable, "-m", "dev.cluster.node", str(folder), str(addresses.number), "--first"),
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - this process has one thread
    )
    if first.stdin is None or first.stdout is None:  # They are pipes.
        raise DevError("The node has no pipes.")
    pid = first.stdout.readline().strip()
    if not pid:
        raise DevError("The node's first process ended at once.")
    # The last node's interface goes with its namespace, but some moments later.
    subprocess.run(("ip", "link", "delete", addresses.interface), capture_output=True, check=False)
    _ip("link", "add", addresses.interface, "type", "veth", "peer", "name", "eth0", "netns", pid)
    _ip("address", "add", f"{addresses.host}/30", "dev", addresses.interface)
    _ip("link", "set", addresses.interface, "up")
    _ip("route", "add", addresses.block, "via", addresses.node, "dev", addresses.interface, "onlink")
    print("linked", file=first.stdin, flush=True)
    if first.stdout.readline() != "ready\n":
        raise DevError("The node's first process ended before it was ready.")
    temporary = pid_file.with_suffix(".new")
    temporary.write_text(pid)
    temporary.replace(pid_file)
    return first.wait()


def run_init(folder: Path, addresses: Addresses) -> None:
    """Run as the first process (init) of the namespaces: set them up, then reap orphaned processes, for ever."""
    # This /proc is still the host's: the link is the id there.
    print(Path("/proc/self").readlink(), flush=True)
    if sys.stdin.readline() != "linked\n":
        raise DevError("The node was not linked.")
    _mount("--make-rshared", "/")
    _mount("-t", "proc", "proc", "/proc")
    _mount("-t", "tmpfs", "-o", "mode=755,size=256m", "tmpfs", "/run")
    for path in STATE:
        own = folder / "node" / path.removeprefix("/").replace("/", "-")
        own.mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(own), path)
    for name, value in _KERNEL.items():
        own = Path("/run/kernel", name)
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(f"{value}\n")
        _mount("--bind", str(own), f"/proc/sys/{name}")
    _ip("link", "set", "lo", "up")
    _ip("address", "add", f"{addresses.node}/30", "dev", "eth0")
    _ip("link", "set", "eth0", "up")
    _ip("route", "add", "default", "via", addresses.host)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    print("ready", flush=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    while True:
        signal.sigwait((signal.SIGCHLD,))
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def holder(folder: Path) -> tuple[str, ...]:
    """The command line that holds the node of the folder, for a supervisor; the number of the block comes after it."""
    return (sys.executable, "-m", "dev.cluster.node", str(folder))


def entered(folder: Path, *command: str) -> tuple[str, ...]:
    """The command line that runs the command in the node of the folder, for a supervisor: it waits for the node."""
    return (*holder(folder), "--enter", *command)


def run(folder: Path, *command: str, timeout: float = 60) -> str:
    """Run a command in the node, and return its output.

    Raises:
        DevError: it failed.
    """
    try:
        result = subprocess.run(
            _nsenter(_first_pid(folder), command), capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DevError(f"{Path(command[0]).name} took more than {timeout:g} s.") from error
    if result.returncode != 0:
        raise DevError(f"{Path(command[0]).name}: {result.stderr.strip()}")
    return result.stdout


def kill(folder: Path) -> None:
    """Kill every process of the node, if it runs; a supervisor that still runs starts it again."""
    with suppress(DevError):
        send(_first_pid(folder), folder, signal.SIGKILL)


def remove(folder: Path) -> None:
    """Remove the state of a node that has ended."""
    shutil.rmtree(folder / "node", ignore_errors=True)
    with _LOCK.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        for path in STATE:
            with suppress(OSError):  # It is not empty: something else on this machine uses it.
                Path(path).rmdir()


def _first_pid(folder: Path) -> int:
    with suppress(FileNotFoundError, ValueError):
        pid = int(_pid_file(folder).read_text())
        if pid in marked(folder):
            return pid
    raise DevError(f"The node of {folder} does not run.")


def _enter(folder: Path, command: Sequence[str]) -> None:
    deadline = time.monotonic() + ENTER_SECONDS
    while True:
        try:
            argv = _nsenter(_first_pid(folder), command)
        except DevError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            os.execvp(argv[0], argv)  # noqa: S606 - a program and arguments that we made


def _nsenter(pid: int, command: Sequence[str]) -> tuple[str, ...]:
    return ("nsenter", "--target", str(pid), *NAMESPACES, "--", *command)


def _pid_file(folder: Path) -> Path:
    return folder / "run" / "node.first"


def _ip(*arguments: str) -> None:
    subprocess.run(("ip", *arguments), timeout=10, check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(("mount", *arguments), timeout=10, check=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m dev.cluster.node", description="A node in namespaces of its own.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int, nargs="?", help="N of the block 10.N.0.0/16")
    parser.add_argument("--first", action="store_true", help="be the first process of the namespaces")
    parser.add_argument("--enter", nargs=argparse.REMAINDER, help="run this in the node")
    arguments = parser.parse_args()
    try:
        if arguments.enter:
            _enter(arguments.folder, arguments.enter)
        elif arguments.first:
            run_init(arguments.folder, Addresses(arguments.number))
        else:
            return hold(arguments.folder, Addresses(arguments.number))
    except (DevError, subprocess.SubprocessError) as failure:
        print(failure, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
