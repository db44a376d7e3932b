"""Sizes of videos that a model can make. Pipelines of diffusers round some of the others; here each is refused."""

from typing import Any

from videojob.families import Unit
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import Settings


def latent_shape(unit: Unit, settings: Settings, config: Any, factor: int) -> tuple[int, int, int, int, int]:
    """`[1, C, T, h, w]` of a unit for the transformer of that configuration, over a VAE of that spatial factor.

    Raises ChunkError (InvalidRequest) where the model cannot make that size.
    """
    require_multiples(settings, factor * config.patch_size[1])
    return (1, config.out_channels, len(unit.latents), settings.height // factor, settings.width // factor)


def require_multiples(settings: Settings, multiple: int, least: int = 0) -> None:
    """Raises ChunkError (InvalidRequest) where width or height is no multiple, or too small, with the nearest sizes."""
    least = max(least, multiple)
    width, height = settings.width, settings.height
    if not (width % multiple or height % multiple or min(width, height) < least):
        return
    below = [max(least, each // multiple * multiple) for each in (width, height)]
    above = [max(least, -(-each // multiple) * multiple) for each in (width, height)]
    nearest = " and ".join(f"{w} x {h}" for w, h in dict.fromkeys([(*below,), (*above,)]))
    at_least = f" and at least {least}" if least > multiple else ""
    raise ChunkError(
        ErrorCode.INVALID_REQUEST,
        f"Width and height must be multiples of {multiple}{at_least}, not {width} x {height}. Nearest: {nearest}.",
    )
