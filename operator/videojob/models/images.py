"""Images that clips begin and end with: what a model is declared to take of what its checkpoint can, and what comes."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final, TypeVar

import torch
from PIL import Image

from videojob.models.tensors import Tensors
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.settings import Images

Encoder = TypeVar("Encoder")

IMAGE_LATENTS: Final = "image_latents"
"""Of the conditions: what the VAE makes of the images, float32 `[1, C, T, h, w]`; how, is the family's."""


def check_images(directory: Path, able: Images | None, declared: Images | None) -> None:
    """Raises ValueError where the model is declared to take other images than its checkpoint, which is able to."""
    for name in ("first", "last"):
        use, wanted = getattr(able, name, None), getattr(declared, name, None)
        if (use == "Required" and wanted != use) or (wanted is not None and use is None):
            found = asdict(able) if able else {}
            takes = ", ".join(f"{key}: {value}" for key, value in found.items() if value)
            correct = f"images has to be {{{takes}}}" if takes else "leave images out"
            raise ValueError(f"{directory} takes {takes or 'no images'}: in the VideoModel, {correct}.")


def taking(encoder: Encoder | None) -> Encoder:
    """What encodes images. Raises ChunkError (InvalidRequest) where the model is declared to take none."""
    if encoder is None:
        raise ChunkError(ErrorCode.INVALID_REQUEST, "This model takes no images.")
    return encoder


def pictures(images: Sequence[torch.Tensor], declared: Images) -> list[Image.Image]:
    """The images, uint8 `[H, W, 3]`, as pipelines take them.

    Raises ChunkError (InvalidRequest) where the model takes more or fewer.
    """
    most, least = 1 + (declared.last is not None), 1 + (declared.last == "Required")
    if not least <= len(images) <= most:
        raise ChunkError(ErrorCode.INVALID_REQUEST, f"IMAGES holds {len(images)}; the model takes {least} to {most}.")
    return [Image.fromarray(image.numpy()) for image in images]


def image_latents(conditions: Tensors, declared: Images | None) -> torch.Tensor | None:
    """IMAGE_LATENTS, where there is one. Raises ChunkError (InvalidRequest) where the model cannot begin without."""
    latents = conditions.get(IMAGE_LATENTS)
    if latents is None and declared is not None and declared.first == "Required":
        raise ChunkError(ErrorCode.INVALID_REQUEST, "This model begins with an image: IMAGES must come.")
    return latents
