"""Marks by which the stages of a server stop a sequence.

A gRPC cancel does not reach the models inside an ensemble (triton-inference-server/server #6739), and each model is a
process of its own: a file in a folder that they share is what all of them can see between two denoising steps.
"""

import hashlib
from pathlib import Path


class CancelMarks:
    """Marked correlation ids, one empty file each in `directory`. File names are hashes: no id reaches a path."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def mark(self, correlation_id: str) -> None:
        """Ask the stages to stop making chunks of this sequence."""
        self._file(correlation_id).touch()

    def marked(self, correlation_id: str) -> bool:
        """Whether the sequence is to stop."""
        return self._file(correlation_id).exists()

    def clear(self, correlation_id: str) -> None:
        """Forget the mark: the sequence has ended."""
        self._file(correlation_id).unlink(missing_ok=True)

    def sweep(self, before: float) -> None:
        """Forget marks set before the Unix time `before` (seconds), whose sequences never saw their END."""
        for file in self._directory.glob("*.cancelled"):
            try:
                if file.stat().st_mtime < before:
                    file.unlink()
            except FileNotFoundError:
                continue  # its END came just now

    def _file(self, correlation_id: str) -> Path:
        return self._directory / f"{hashlib.sha256(correlation_id.encode()).hexdigest()}.cancelled"
