"""The identity of a model's weights: of the files that diffusers loads of a pipeline folder.

What else lies there (a README, the cache of a downloader, whose files carry times) differs from copy to copy of the
same weights, and is not read.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

_BLOCK_BYTES = 1 << 20
_INDEX = "model_index.json"


class Digests:
    """Digests of folders; one is computed again only where its files' sizes, times or inodes are others than before."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, str]] = {}
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End every computation soon, in whatever thread: a process cannot end before its threads do."""
        self._stopped.set()

    def known(self, directory: Path) -> str:
        """The folder's `weights_digest` where it was computed for these very files, else empty. No weights are read.

        Raises what `pipeline_files` raises.
        """
        marks, digest = self._known.get(directory, (None, ""))
        return digest if marks == _marks(directory) else ""

    def of(self, directory: Path) -> str:
        """The folder's `weights_digest`, with the errors that it raises; InterruptedError once it is stopped."""
        marks = _marks(directory)
        known = self._known.get(directory)
        if known is None or known[0] != marks:
            known = self._known[directory] = (marks, weights_digest(directory, self._stopped.is_set))
        return known[1]


def _marks(directory: Path) -> list[object]:
    files = [(path, path.stat()) for path in pipeline_files(directory)]
    return [(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in files]


def pipeline_files(directory: Path) -> list[Path]:
    """`model_index.json` and every file of the components that it names, sorted; hidden files are none of theirs.

    Raises FileNotFoundError where the folder holds no pipeline, ValueError where its index cannot be read.
    """
    index = directory / _INDEX
    try:
        components = json.loads(index.read_bytes())
        names = [name for name, value in components.items() if isinstance(value, list) and any(value)]
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no model in {directory}: it has no {_INDEX}.") from None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{index} is no index of a diffusers pipeline: {error}") from error
    found = [path for name in names for path in (directory / name).rglob("*") if path.is_file()]
    return sorted([index, *(path for path in found if not _is_hidden(path.relative_to(directory)))])


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def weights_digest(directory: Path, stopped: Callable[[], bool] = lambda: False) -> str:
    """`sha256:<hex>` over the relative paths, sizes and contents of `pipeline_files`.

    Equal pipelines have equal digests wherever they lie. Raises what `pipeline_files` raises, and InterruptedError as
    soon as `stopped` returns True.
    """
    files = [(path.relative_to(directory).as_posix(), path) for path in pipeline_files(directory)]
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
