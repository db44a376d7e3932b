"""The state of sequences that go on from latents of earlier units: by unit, `[1, C, T, h, w]`."""

from collections.abc import Sequence
from typing import Final

import torch

from videojob.families import Unit
from videojob.models.tensors import Tensors
from videojob.triton.contract import ChunkError, ErrorCode

LATENTS: Final = "latents"
"""Of a checkpoint."""

History = dict[int, torch.Tensor]


def started(unit: Unit, past: Sequence[Tensors], shape: tuple[int, ...]) -> History:
    """The history of a sequence that starts with the unit, from the checkpoints of what it needs.

    Raises ChunkError (InvalidRequest) where their latents are not as those of `shape`, but for their number.
    """
    history = {}
    for index, checkpoint in zip(unit.needs, past, strict=True):
        latents = checkpoint.get(LATENTS)
        found = [] if latents is None else list(latents.shape)
        if latents is None or len(found) != len(shape) or [*found[:2], *found[3:]] != [*shape[:2], *shape[3:]]:
            raise ChunkError(
                ErrorCode.INVALID_REQUEST,
                f"The checkpoint of unit {index} must have latents of shape {[*shape[:2], 'T', *shape[3:]]}, "
                f"not {found}.",
            )
        history[index] = latents
    return history


def require_size(history: History, shape: tuple[int, ...]) -> None:
    """Raises ChunkError (InvalidRequest) where latents are of another size than those of `shape`."""
    if any(latents.shape[3:] != shape[3:] for latents in history.values()):
        raise ChunkError(ErrorCode.INVALID_REQUEST, "Width and height may not change within a sequence.")


def needed(history: History, unit: Unit) -> torch.Tensor | None:
    """All latents of the units that the unit goes on from, in order; None where there are none.

    Raises ChunkError (InvalidRequest) where these have fewer than it goes on from.
    """
    if not unit.history:
        return None
    latents = torch.cat([history[index] for index in unit.needs], dim=2)
    if latents.shape[2] < unit.history:
        raise ChunkError(
            ErrorCode.INVALID_REQUEST,
            f"Unit {unit.index} goes on from {unit.history} latents; those before it have {latents.shape[2]}.",
        )
    return latents


def recent(history: History, unit: Unit) -> torch.Tensor | None:
    """The latents just before the unit, as many as it goes on from; None where there are none. Raises as `needed`."""
    latents = needed(history, unit)
    return None if latents is None else latents[:, :, -unit.history :]


def remember(history: History, unit: Unit, latents: torch.Tensor) -> None:
    """Keep what the unit needed, and the unit: the next one needs nothing else."""
    for forgotten in history.keys() - {*unit.needs}:
        del history[forgotten]
    history[unit.index] = latents
