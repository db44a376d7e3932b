"""What a model family has to do, and where its implementation is found.

To add a family: a module with three classes like those of `anyflow_far`, a line in `_MODULES`, and its arithmetic facts
in `videojob.families`.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from videojob.families import FamilyName

Cancelled = Callable[[], bool]
"""Returns whether to stop. Called between two steps of work."""


class TextEncoder(Protocol):
    """Turns a prompt into what the denoiser conditions on."""

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None: ...

    def encode(self, prompt: str) -> torch.Tensor:
        """Embeddings `[1, L, D]` of one text, the empty one included.

        Raises ChunkError (PromptTooLong) with both counts where the text has more tokens than the model takes.
        """
        ...


class Denoiser(Protocol):
    """Makes the latents of a chunk, as a pure function of its arguments."""

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None: ...

    def latent_shape(self, latents: int, height: int, width: int) -> tuple[int, int, int, int, int]:
        """`[1, C, T, h, w]` of a chunk of `latents` latents at `height` x `width` pixels.

        Raises ChunkError (InvalidRequest) where the model cannot make that size.
        """
        ...

    def denoise(
        self,
        prompt_embeds: torch.Tensor,
        memory: Sequence[torch.Tensor],
        noise: torch.Tensor,
        *,
        steps: int,
        guidance_scale: float,
        cancelled: Cancelled,
    ) -> torch.Tensor:
        """Latents `[1, C, T, h, w]` of a chunk.

        Args:
            prompt_embeds: `[B, L, D]`; B is 2 (negative, positive) where `guidance_scale` is above 1, else 1.
            memory: latents `[1, C, Tm, h, w]` of the remembered chunks, in order.
            noise: `[1, C, T, h, w]` float32.
            steps: denoising steps.
            guidance_scale: strength of classifier-free guidance.
            cancelled: called between two steps; raises ChunkError (Cancelled) once it returns True.
        """
        ...


class VideoDecoder(Protocol):
    """Decodes latents to frames, latent by latent, exactly as the whole clip would be decoded at once."""

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None: ...

    @property
    def look_back(self) -> int:
        """Latents that, decoded again, make a cache equal to that of an unbroken decode, bit for bit."""
        ...

    def new_cache(self) -> Any:
        """Feature cache of a video's start. One per sequence; `decode` changes it."""
        ...

    def decode(self, latents: torch.Tensor, cache: Any, cancelled: Cancelled) -> torch.Tensor:
        """Frames `[1, 3, F, H, W]` in -1..1 of the next latents `[1, C, T, h, w]`.

        `cancelled` is called between two latents; raises ChunkError (Cancelled) once it returns True.
        """
        ...


class _FamilyModule(Protocol):
    TextEncoder: type[TextEncoder]
    Denoiser: type[Denoiser]
    VideoDecoder: type[VideoDecoder]


_MODULES = {FamilyName.ANYFLOW_FAR: "videojob.models.anyflow_far"}


def family_module(name: FamilyName) -> _FamilyModule:
    """The classes `TextEncoder`, `Denoiser` and `VideoDecoder` of a family."""
    return cast("_FamilyModule", import_module(_MODULES[name]))
