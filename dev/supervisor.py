"""A small supervisor: keeps named processes running, as a kubelet would, and takes all of them with it when it ends.

`python -m dev.supervisor FOLDER` reads what to run from its standard input, a JSON object a line, and writes
`FOLDER/run/NAME.pid` and `FOLDER/log/NAME.log` for each process. Standard input is its lifeline as well: when it closes
before `{"detach": true}` was read, the starter is gone and everything is stopped. `Supervisor` is the starter's side.

What holds, however it ends: one supervisor a folder (a locked file); SIGTERM and SIGINT stop the processes in reverse
order, each with a bounded grace; SIGKILL of the supervisor makes the kernel kill its children.
"""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, cast

from dev.errors import DevError
from dev.processes import MARK, die_with_parent, kill_all, marked, send

REPOSITORY = Path(__file__).parent.parent

FIRST_DELAY, LAST_DELAY = 0.5, 10.0
"""Seconds before a process that died is started again: the first time, and at most."""
HEALTHY_SECONDS = 60.0
"""A process that ran for so long is restarted after the first delay again."""
GRACE_SECONDS = 10.0
"""From SIGTERM to SIGKILL."""
STOP_SECONDS = 90.0
"""How long a supervisor may take to stop everything before it is killed itself."""
LOCK = "supervisor.lock"
"""File that a living supervisor holds locked; it is never removed, so that all agree on which file that is."""
CRASH_LOOP = 3
"""After so many exits in a row, none after a healthy run, a process counts as crash looping."""


@dataclass(frozen=True)
class Process:
    """A process to keep running."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those of the supervisor."""


def delay(failures: int) -> float:
    """Seconds to wait before a restart after so many (1 or more) exits in a row."""
    return min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16))


class Supervisor:
    """A supervisor process that this process started, and that stops when this process ends before `detach`."""

    def __init__(self, folder: Path) -> None:
        """Start a supervisor for the folder, whose log starts anew.

        Raises:
            DevError: the folder has one already.
        """
        self.folder = folder.resolve()
        if is_running(self.folder):
            raise DevError(f"{self.folder} has a supervisor already.")
        for name in ("run", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        log = self.folder / "log" / "supervisor.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "dev.supervisor", str(self.folder)),
                cwd=REPOSITORY,
                env={**os.environ, MARK: str(self.folder)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches the starter alone, which then stops this in order.
            )
        self._commands = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)
        if self._answers.readline() != b"ready\n":
            self._close()
            self._process.wait()
            raise DevError(f"The supervisor of {self.folder} did not start: {log.read_text().strip()[-300:]}")

    def run(self, process: Process) -> None:
        """Start a process, and start it again whenever it dies."""
        self._send({"run": asdict(process)})

    def detach(self) -> None:
        """Let the supervisor live on after this process."""
        self._send({"detach": True})
        self._close()

    def stop(self) -> None:
        """Stop every process, then the supervisor."""
        try:
            stop(self.folder)
        finally:
            self._close()
            self._process.wait()

    def _send(self, command: Mapping[str, object]) -> None:
        try:
            self._commands.write(json.dumps(command).encode() + b"\n")
            self._commands.flush()
        except OSError as error:
            raise DevError(f"The supervisor is gone; see {self.folder / 'log' / 'supervisor.log'}.") from error

    def _close(self) -> None:
        for pipe in (self._commands, self._answers):
            with suppress(OSError):
                pipe.close()


def is_running(folder: Path) -> bool:
    """Whether the folder has a living supervisor."""
    try:
        with (folder / "run" / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def stop(folder: Path) -> bool:
    """Stop everything that was started for the folder, also what a killed supervisor left; False if there was nothing.

    Raises:
        DevError: a process did not end after SIGKILL.
    """
    folder = folder.resolve()
    found = bool(marked(folder))
    pid = read_pid(folder, "supervisor")
    if pid is not None and is_running(folder):
        send(pid, folder, signal.SIGTERM)
        _wait_for_lock(folder, STOP_SECONDS)
    left = kill_all(folder)
    if left:
        raise DevError(f"These processes cannot be killed: {', '.join(map(str, left))}.")
    _wait_for_lock(folder, GRACE_SECONDS)  # A dying process gives up its memory, with our mark, before its locks.
    for path in (folder / "run").glob("*"):
        if path.name != LOCK:
            path.unlink(missing_ok=True)
    return found


def _wait_for_lock(folder: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while is_running(folder) and time.monotonic() < deadline:
        time.sleep(0.05)


def read_pid(folder: Path, name: str) -> int | None:
    """The id in `run/NAME.pid`: that of the running process, or of the last one while it waits to be started again."""
    with suppress(FileNotFoundError, ValueError):
        return int((folder / "run" / f"{name}.pid").read_text())
    return None


def crash_loop(folder: Path, names: Iterable[str]) -> str | None:
    """A sentence about the first of the processes that keeps dying, with its log."""
    for name in names:
        with suppress(FileNotFoundError, ValueError):
            state = json.loads((folder / "run" / f"{name}.deaths").read_text())
            if state["in_a_row"] >= CRASH_LOOP:
                log = folder / "log" / f"{name}.log"
                return f"{name} keeps dying ({state['last']}); its log is {log}."
    return None


class _Server:
    """The supervisor's side of the protocol."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keepers: list[tuple[Process, asyncio.Task[None]]] = []
        self._stopping = asyncio.Event()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stopping.set)
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        commands = asyncio.create_task(self._run_commands(reader))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await self._stopping.wait()
        commands.cancel()
        for process, keeper in reversed(self._keepers):
            _log(f"stopping {process.name}")
            keeper.cancel()
            await asyncio.wait([keeper])

    async def _run_commands(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            command = json.loads(line)
            if "detach" in command:
                return
            process = Process(**command["run"])
            self._keepers.append((process, asyncio.create_task(self._keep(process))))
        _log("the starter is gone")
        self._stopping.set()

    async def _keep(self, process: Process) -> None:
        """Run the process again and again; when cancelled, stop it."""
        failures = 0
        while True:
            began = time.monotonic()
            ending = await self._run(process)
            failures = 1 if time.monotonic() - began >= HEALTHY_SECONDS else failures + 1
            _log(f"{process.name} died ({ending}), starts again in {delay(failures):g} s")
            self._write(f"{process.name}.deaths", json.dumps({"in_a_row": failures, "last": ending}))
            await asyncio.sleep(delay(failures))

    async def _run(self, process: Process) -> str:
        """Run the process until it ends, and return how it ended; when cancelled, end it."""
        with (self._folder / "log" / f"{process.name}.log").open("ab") as log:
            try:
                running = await asyncio.create_subprocess_exec(
                    *process.argv,
                    env={**os.environ, **process.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=die_with_parent(),
                )
            except OSError as error:
                return str(error)
        _log(f"{process.name} runs as {running.pid}")
        self._write(f"{process.name}.pid", f"{running.pid}\n")
        try:
            status = await running.wait()
        finally:
            await _end(running)
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name

    def _write(self, name: str, text: str) -> None:
        path = self._folder / "run" / name
        temporary = path.with_name(f".{name}")
        temporary.write_text(text)
        temporary.replace(path)


async def _end(running: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL after the grace; then SIGKILL for what else is left of its process group."""
    with suppress(ProcessLookupError):
        running.terminate()
    with suppress(TimeoutError):
        await asyncio.wait_for(running.wait(), GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    await running.wait()


def _log(message: str) -> None:
    print(time.strftime("%H:%M:%S"), message, file=sys.stderr, flush=True)


def _lock(folder: Path) -> IO[str] | None:
    lock = (folder / "run" / LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def main(folder: Path) -> int:
    """Supervise until asked to stop."""
    lock = _lock(folder)
    if lock is None:
        print("another supervisor runs there.", file=sys.stderr)
        return 1
    with lock:
        for log in (folder / "log").glob("*.log"):
            if log.name != "supervisor.log":
                log.unlink()
        (folder / "run" / "supervisor.pid").write_text(f"{os.getpid()}\n")
        asyncio.run(_Server(folder).serve())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
