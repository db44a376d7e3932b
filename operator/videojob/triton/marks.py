"""Marks by which the stages of a server stop a sequence.

A gRPC cancel does not reach the models inside an ensemble (triton-inference-server/server #6739), and each model is a
process of its own: a file in a folder that they share is what all of them can see between two denoising steps.

A sequence that failed is run again under its id. A mark is for one run, and those before it: one that nobody cleared,
because the process that should have has ended, stops none that comes later.
"""

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from videojob.triton.contract import Mark


@dataclass(frozen=True)
class _Marked:
    mark: Mark
    run: int | None
    """The last one that it is for; None where it is for any."""


class Marks:
    """Marked correlation ids, a file each in `directory`. File names are hashes: no id reaches a path."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def mark(self, correlation_id: str, mark: Mark, run: int | None = None) -> None:
        """Ask the stages to stop this sequence, in that run and those before it, or in any."""
        new = self._directory / f".mark-{secrets.token_hex(4)}"
        new.write_text(json.dumps(asdict(_Marked(mark, run))))
        new.replace(self._file(correlation_id))

    def marked(self, correlation_id: str, run: int) -> Mark | None:
        """How the sequence is to stop in that run, if it is."""
        found = self._read(correlation_id)
        return found.mark if found is not None and (found.run is None or run <= found.run) else None

    def clear(self, correlation_id: str, run: int) -> None:
        """Forget the mark, unless it is for a later run: this one has ended, and those before it."""
        found = self._read(correlation_id)
        if found is not None and (found.run is None or found.run <= run):
            self._file(correlation_id).unlink(missing_ok=True)

    def sweep(self, before: float) -> None:
        """Forget marks set before the Unix time `before` (seconds), whose sequences never saw their END."""
        for file in self._directory.glob("*.mark"):
            try:
                if file.stat().st_mtime < before:
                    file.unlink()
            except FileNotFoundError:
                continue  # its END came just now

    def _read(self, correlation_id: str) -> _Marked | None:
        try:
            found = json.loads(self._file(correlation_id).read_bytes())
            return _Marked(Mark(found["mark"]), found["run"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # None, or one that a power failure has torn.
            return None

    def _file(self, correlation_id: str) -> Path:
        return self._directory / f"{hashlib.sha256(correlation_id.encode()).hexdigest()}.mark"
