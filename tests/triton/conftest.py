from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc

from tests.models.fixtures import one_thread, tiny_model
from tests.triton.server import Server, Stream, running_server
from videojob.families import FamilyName
from videojob.triton.repository import render, render_control
from videojob.triton.settings import ModelSettings, ReplicaSettings

__all__ = ["one_thread", "tiny_model"]

MODEL = "wan2.1-tiny"
"""With a dot, as names of models have: Triton's own are `MODEL.stage`."""

_NUMBERS = count()
"""Of sequences, so that none has the name of one before it."""

MODEL_REPO = Path(__file__).parents[2] / "model_repo"


@pytest.fixture(scope="session")
def settings(tiny_model: Path) -> ModelSettings:
    """The tiny model."""
    return ModelSettings(MODEL, FamilyName.ANYFLOW_FAR, str(tiny_model), "sha256:0", "float32")


@pytest.fixture(scope="session")
def control_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("control")


@pytest.fixture(scope="session")
def server(settings: ModelSettings, control_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real tritonserver that serves the tiny model."""
    replica = ReplicaSettings(str(control_dir))
    with running_server(tmp_path_factory.mktemp("triton")) as started:
        with grpc.InferenceServerClient(started.grpc) as client:
            client.load_model(render(MODEL_REPO, started.repository, settings, replica, "cpu"))
            client.load_model(render_control(MODEL_REPO, started.repository, replica))
        yield started


@pytest.fixture(scope="session")
def served(server: Server) -> str:
    """The name of the model that `stream` opens streams to."""
    return MODEL


@pytest.fixture
def stream(server: Server, served: str) -> Iterator[Callable[..., Stream]]:
    """Opens streams to the tiny model, one a sequence; ends and closes them after the test."""
    opened: list[Stream] = []

    def open_stream(sequence: str = "job", **settings: Any) -> Stream:
        opened.append(Stream(server, served, f"{next(_NUMBERS)}-{sequence}-1", **settings))
        return opened[-1]

    yield open_stream
    for each in opened:
        each.end()
        each.close()
