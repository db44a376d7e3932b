"""Fixtures over the tiny model, for the conftest of any folder that needs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dev.tiny_model import SIZES, make_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny AnyFlow-FAR pipeline folder."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    make_model(directory, SIZES["tiny"])
    return directory


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The number of threads the models run with in these tests: last bits depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
