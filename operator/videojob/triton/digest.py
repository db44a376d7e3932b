"""The identity of a model's weights."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

_BLOCK_BYTES = 1 << 20


class Digests:
    """Digests of folders; one is computed again only where its files' sizes, times or inodes are others than before."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, str]] = {}
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End every computation soon, in whatever thread: a process cannot end before its threads do."""
        self._stopped.set()

    def of(self, directory: Path) -> str:
        """The folder's `weights_digest`. Raises FileNotFoundError where there is no file.

        And InterruptedError once it is stopped.
        """
        files = [(path, path.stat()) for path in sorted(directory.rglob("*")) if path.is_file()]
        marks = [(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in files]
        known = self._known.get(directory)
        if known is None or known[0] != marks:
            known = self._known[directory] = (marks, weights_digest(directory, self._stopped.is_set))
        return known[1]


def weights_digest(directory: Path, stopped: Callable[[], bool] = lambda: False) -> str:
    """`sha256:<hex>` over the relative paths, sizes and contents of all files below `directory`, in sorted order.

    Equal folders have equal digests wherever they lie. Raises FileNotFoundError where there is no file, and
    InterruptedError as soon as `stopped` returns True.
    """
    files = sorted((path.relative_to(directory).as_posix(), path) for path in directory.rglob("*") if path.is_file())
    if not files:
        raise FileNotFoundError(f"There is no model in {directory}: the folder is missing or empty.")
    digest = hashlib.sha256()
    for name, path in files:
        # Lengths come first, so that no bytes can move from one field to the next unnoticed.
        digest.update(f"{len(name.encode())}:{name}:{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                if stopped():
                    raise InterruptedError(f"The digest of {directory} is not computed to its end.")
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"
