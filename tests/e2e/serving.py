"""The models of the system's pool. It takes long to load one, so tests of a file share theirs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.tiny_model import SIZES, make_model
from tests.e2e.system import MODEL, System


@contextmanager
def serving(system: System, *models: str) -> Iterator[None]:
    """The pool has these models within the block, and then the usual one again."""
    serve(system, *models)
    try:
        yield
    finally:
        serve(system, MODEL)


def apply_wan(system: System, directory: Path, kind: str, **spec: object) -> None:
    """A VideoModel called like the kind, a tiny Wan of that kind in the directory."""
    make_model(directory, SIZES["tiny"], kind)
    system.cluster.apply(
        {
            "apiVersion": "videojob.dev/v1alpha1",
            "kind": "VideoModel",
            "metadata": {"name": kind},
            "spec": {
                "family": "Wan",
                "source": {"directory": str(directory)},
                "precision": "float32",
                "memory": {"weightsBytes": 1, "perJobBytes": 1},
                "limits": {"maxWidth": 256, "maxHeight": 256, "maxSeconds": 5, "maxFrames": 81},
                "defaults": {"width": 64, "height": 48, "fps": 12, "steps": 2},
                **spec,
            },
        }
    )


def serve(system: System, *models: str) -> None:
    """Give the pool these models, and no others."""
    patch = json.dumps({"spec": {"models": models}})
    system.cluster.kubectl("patch", "gpupool", system.pool, "--type=merge", "--patch", patch)
