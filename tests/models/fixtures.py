"""Fixtures over the tiny model, for the conftest of any folder that needs it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dev.tiny_model import SIZES, make_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny AnyFlow-FAR pipeline folder."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    make_model(directory, SIZES["tiny"])
    return directory


def whole_clip(pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
    """Frames of the pipeline's own decoding, before they become images."""
    config = pipeline.vae.config
    latents = latents.to(pipeline.vae.dtype)
    mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1).to(latents)
    inverse_std = 1.0 / torch.tensor(config.latents_std).view(1, -1, 1, 1, 1).to(latents)
    with torch.no_grad():
        frames: torch.Tensor = pipeline.vae.decode(latents / inverse_std + mean).sample
    return frames


def change(path: Path, **fields: Any) -> None:
    """Other values for fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def with_scheduler(folder: Path, scheduler: Any) -> None:
    """Another scheduler for a pipeline's folder."""
    scheduler.save_pretrained(folder / "scheduler")
    change(folder / "model_index.json", scheduler=["diffusers", type(scheduler).__name__])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The number of threads the models run with in these tests: last bits depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
