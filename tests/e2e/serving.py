"""The models of the system's pool. It takes long to load one, so tests of a file share theirs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.system import MODEL, System


@contextmanager
def serving(system: System, *models: str) -> Iterator[None]:
    """The pool has these models within the block, and then the usual one again."""
    serve(system, *models)
    try:
        yield
    finally:
        serve(system, MODEL)


def serve(system: System, *models: str) -> None:
    """Give the pool these models, and no others."""
    patch = json.dumps({"spec": {"models": models}})
    system.cluster.kubectl("patch", "gpupool", system.pool, "--type=merge", "--patch", patch)
