"""A replica of the pool, as processes."""

import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.e2e.faults import Faults


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
