"""Which models are on the accelerator when not all of them fit. Pure: what is loaded and used is passed in.

Memory is what VideoModels declare: their weights, and so much for each job that runs on them. A model that a
job uses stays; of the others the least recently used makes room.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Resident:
    """A model as the decision sees it."""

    name: str
    weights_bytes: int
    per_job_bytes: int
    loaded: bool = False
    """It is on the accelerator, or is meant to be."""
    jobs: int = 0
    """That use it."""
    used: float = 0.0
    """When a job last used it, in seconds of a monotonic clock; -inf for a model that does not load."""


def preload(models: Sequence[Resident], memory: float) -> tuple[str, ...]:
    """Models, of those not loaded, to load before a job asks: in order, each that fits with room for one job of any."""
    loaded = [model for model in models if model.loaded]
    chosen = []
    for model in models:
        if model.loaded:
            continue
        together = [*loaded, model]
        spare = max(other.per_job_bytes for other in together)
        if _bytes(together) + (0 if any(other.jobs for other in together) else spare) <= memory:
            loaded.append(model)
            chosen.append(model.name)
    return tuple(chosen)


def make_room(name: str, models: Sequence[Resident], memory: float) -> tuple[str, ...] | None:
    """Models to unload so that one more job can run on the model `name`: the least recently used first, if any.

    None where it does not fit beside the jobs that run.
    """
    wanted = next(model for model in models if model.name == name)
    needed = wanted.per_job_bytes + (0 if wanted.loaded else wanted.weights_bytes)
    free = memory - _bytes([model for model in models if model.loaded])
    idle = sorted(
        (model for model in models if model.loaded and not model.jobs and model is not wanted),
        key=lambda model: model.used,
    )
    leaving = []
    for model in idle:
        if needed <= free:
            break
        leaving.append(model.name)
        free += model.weights_bytes
    return tuple(leaving) if needed <= free else None


def _bytes(models: Sequence[Resident]) -> int:
    return sum(model.weights_bytes + model.jobs * model.per_job_bytes for model in models)
