"""What is remembered of a pool between cycles, beside the objects that the API server has."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from videojob.api.gpupool import LastScaling
from videojob.planner.scaling import History


@dataclass(frozen=True, slots=True)
class Applied:
    """A Deployment as it was last applied."""

    body: str = ""
    generation: int = 0
    """The Deployment's, after that."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a Deployment was not taken."""

    message: str
    at: float
    """Monotonic seconds."""
    pool_generation: int


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """Of one managed pool."""

    history: History = field(default_factory=History)
    cold_start_seconds: float | None = None
    last_scaling: LastScaling | None = None
    applied: Applied = field(default_factory=Applied)
    refused: Refusal | None = None
    costs_at: float | None = None
    """When deletion costs were last decided on, where somebody else scales the pool."""


Memories = Mapping[str, PoolMemory]
