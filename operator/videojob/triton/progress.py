"""How far each stage of a server is, so that one that works can be told from one that hangs.

A stage is a process of its own, and answers nobody while it computes. So it notes every step in a file of the folder
that all models of a server share. The `control` model reads the note to a runner, and ends the process on demand.
"""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from videojob.triton.wire import UnitRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """A stage's note. Two that are equal are one: nothing was done in between."""

    pid: int
    began: int
    """When the process began, in the kernel's ticks: another one may get the same pid later."""
    count: int = 0
    """Steps, and begins and ends of requests."""
    size: int = 0
    """How large the unit is that is worked on, to be compared with others of the same stage; 0 while it is idle."""

    def to_json(self) -> bytes:
        """As it is noted, and sent."""
        return json.dumps(asdict(self)).encode()


def read_progress(text: bytes) -> Progress | None:
    """What `to_json` wrote; None where it is something else."""
    try:
        return Progress(**json.loads(text))
    except (ValueError, TypeError):
        return None


def size_of(wanted: UnitRequest) -> int:
    """Grows with what a step of the request costs: pixels, by latents, by the units that are looked back at."""
    pixels = wanted.settings.width * wanted.settings.height
    return max(1, pixels * len(wanted.unit.latents) * (1 + len(wanted.unit.needs)))


class ProgressNotes:
    """The notes in `directory`, a file for each stage. Its name is a hash: no name of a model reaches a path."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def of(self, stage: str) -> Progress | None:
        """The note of the stage of that name on the server; None where there is none."""
        try:
            return read_progress(self.file(stage).read_bytes())
        except FileNotFoundError:
            return None

    def end(self, stage: str, seen: Progress) -> bool:
        """Kill the process of a stage, unless it has done something since it was `seen`; whether it is gone."""
        if self.of(stage) != seen:
            return False
        try:
            # The descriptor stands for one process. So whose it is stays true, whatever ends meanwhile.
            process = os.pidfd_open(seen.pid)
        except OSError as error:
            return isinstance(error, ProcessLookupError)
        try:
            if _began(seen.pid) == seen.began:
                signal.pidfd_send_signal(process, signal.SIGKILL)
        except OSError as error:
            return isinstance(error, ProcessLookupError | FileNotFoundError)
        finally:
            os.close(process)
        return True

    def file(self, stage: str) -> Path:
        """Where the stage notes its progress."""
        return self._directory / f"{hashlib.sha256(stage.encode()).hexdigest()}.progress"


class StageProgress:
    """The progress of this process, as the stage of that name. It is noted from the beginning."""

    def __init__(self, directory: Path, stage: str) -> None:
        self._file = ProgressNotes(directory).file(stage)
        self._now = Progress(os.getpid(), _began(os.getpid()))
        self._note()

    @contextmanager
    def on(self, wanted: UnitRequest) -> Iterator[None]:
        """While the request is worked on."""
        self._now = replace(self._now, size=size_of(wanted))
        self._step()
        try:
            yield
        finally:
            self._now = replace(self._now, size=0)
            self._step()

    def stepped(self, ask: Callable[[], T]) -> Callable[[], T]:
        """`ask`, which is called after every step, with the step noted first."""

        def noted() -> T:
            self._step()
            return ask()

        return noted

    def _step(self) -> None:
        self._now = replace(self._now, count=self._now.count + 1)
        self._note()

    def _note(self) -> None:
        new = self._file.with_suffix(".new")
        try:
            new.write_bytes(self._now.to_json())
            new.replace(self._file)
        except OSError:
            # As on a full disk. The work goes on, and an old note would say that it does not.
            self._file.unlink(missing_ok=True)


def _began(pid: int) -> int:
    """When a process began, in ticks since the machine did. Raises OSError where there is no such process."""
    # The second field is the program's name in parentheses, which may hold anything; this is the 22nd.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
