"""The identity of a model's weights: of the files that diffusers loads of a pipeline folder, and of components' own.

What else lies there (a README, the cache of a downloader, whose files carry times) differs from copy to copy of the
same weights, and is not read. Neither is a component that the model takes from another folder.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from videojob.triton.settings import Adapter, Adapters, Component, Components

_BLOCK_BYTES = 1 << 20
_INDEX = "model_index.json"
_COMPONENT_CONFIG = "config.json"


class Weights(NamedTuple):
    """What a model is made of."""

    directory: Path
    """Of its pipeline."""
    components: Components = ()
    adapters: Adapters = ()


class _File(NamedTuple):
    name: str
    """Relative, as if every component were in the pipeline's folder."""
    path: Path


class Digests:
    """Digests of weights; one is computed again only where files' sizes, times or inodes are others than before."""

    def __init__(self) -> None:
        self._known: dict[Weights, tuple[object, str]] = {}
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End every computation soon, in whatever thread: a process cannot end before its threads do."""
        self._stopped.set()

    def known(self, weights: Weights) -> str:
        """Their `weights_digest` where it was computed for these very files, else empty. No weights are read.

        Raises FileNotFoundError and ValueError as `weights_digest` does.
        """
        marks, digest = self._known.get(weights, (None, ""))
        return digest if marks == _marks(weights) else ""

    def of(self, weights: Weights) -> str:
        """Their `weights_digest`, with the errors that it raises; InterruptedError once it is stopped."""
        marks = _marks(weights)
        known = self._known.get(weights)
        if known is None or known[0] != marks:
            known = self._known[weights] = (marks, weights_digest(weights, self._stopped.is_set))
        return known[1]


def _marks(weights: Weights) -> list[object]:
    files = [(path, path.stat()) for _, path in _files(weights)]
    return [(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in files]


def _files(weights: Weights) -> list[_File]:
    """`model_index.json` and every file of the components, sorted; hidden files are none of theirs.

    Raises FileNotFoundError where a folder holds no pipeline, no component or no adapter, ValueError where its index
    cannot be read, or which file is an adapter's is not clear.
    """
    own = {one.name.value: Path(one.directory) for one in weights.components if one.directory is not None}
    for name, directory in own.items():
        if not (directory / _COMPONENT_CONFIG).is_file():
            raise FileNotFoundError(f"There is no {name} in {directory}: it has no {_COMPONENT_CONFIG}.")
    folders = {name: weights.directory / name for name in _named(weights.directory / _INDEX)} | own
    found = [file for name, folder in folders.items() for file in _below(name, folder)]
    added = [_File(f"adapters/{one.name}", one.file()) for one in weights.adapters]
    return sorted([_File(_INDEX, weights.directory / _INDEX), *found, *added], key=lambda file: file.name.split("/"))


def _named(index: Path) -> Sequence[str]:
    """The components that a pipeline's index names."""
    try:
        components = json.loads(index.read_bytes())
        return [name for name, value in components.items() if isinstance(value, list) and any(value)]
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no model in {index.parent}: it has no {_INDEX}.") from None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{index} is no index of a diffusers pipeline: {error}") from error


def _below(name: str, folder: Path) -> Iterator[_File]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield _File(f"{name}/{relative.as_posix()}", path)


def weights_digest(weights: Weights, stopped: Callable[[], bool] = lambda: False) -> str:
    """`sha256:<hex>` over files' names, sizes and contents, components' formats and devices, adapters' scales.

    Equal weights have equal digests wherever they lie: a component in a folder of its own counts as one in the
    pipeline's. Raises FileNotFoundError where a folder holds no pipeline or no component, ValueError where the
    pipeline's index cannot be read, and InterruptedError as soon as `stopped` returns True.
    """
    files = _files(weights)
    digest = hashlib.sha256()
    for component in sorted(weights.components, key=lambda one: one.name):
        digest.update(_made_otherwise(component).encode())
    for adapter in sorted(weights.adapters, key=lambda one: one.name):
        digest.update(_added(adapter).encode())
    for name, path in files:
        # Lengths come first, so that no bytes can move from one field to the next unnoticed.
        digest.update(f"{len(name.encode())}:{name}:{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                if stopped():
                    raise InterruptedError(f"The digest of {weights.directory} is not computed to its end.")
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _added(adapter: Adapter) -> str:
    return f"{adapter.name}:{adapter.component}:{adapter.scale!r}\n"


def _made_otherwise(component: Component) -> str:
    """In what the component's arithmetic differs from the model's; empty where only its folder does."""
    differs = [component.format or "", "cpu" if component.on_cpu else "", *filter(None, [component.weights])]
    return f"{component.name}:{':'.join(differs)}\n" if any(differs) else ""
