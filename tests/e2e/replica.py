"""A replica of the pool, as processes."""

import os
import signal
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.e2e.faults import Faults, Stage
from tests.e2e.processes import children


@dataclass
class Replica:
    """A tritonserver and the runner beside it."""

    name: str
    folder: Path
    ports: list[int]
    faults: Faults
    log_start: int = 0
    """Where the runner's log was when the test began."""
    triton: subprocess.Popen[bytes] | None = None
    runner: subprocess.Popen[bytes] | None = None
    runner_began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def log(self) -> Path:
        """The runner's log."""
        return self.folder / "runner.log"

    @property
    def logged(self) -> str:
        """What the runner has logged since the test began."""
        return self.log.read_text()[self.log_start :]

    def clear_marks(self) -> None:
        """Remove the marks of sequences that a kill has kept from their end."""
        for mark in (self.folder / "repository" / ".control").glob("*.mark"):
            mark.unlink(missing_ok=True)

    def kill_stage(self, model: str, stage: Stage) -> None:
        """Kill the process of a stage of a model, as the kernel does where memory is short."""
        assert self.triton is not None
        (process,) = children(self.triton.pid, f"/{model}.{stage}/")
        os.kill(process, signal.SIGKILL)
