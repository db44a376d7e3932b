"""The images that clips of Wan begin and end with: what checkpoints take, and what becomes of them.

There are four kinds of checkpoint. Wan 2.1 I2V begins with an image, which an image encoder sees as well; its FLF2V
begins and ends with one. Wan 2.2 I2V A14B has no image encoder, and may end with one. Wan 2.2 TI2V-5B, whose tokens
have timesteps of their own, may begin with an image; the pipeline would take a last one and show nothing of it.

Source: diffusers 0.42.1 `pipeline_wan_i2v.py`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import WanImageToVideoPipeline

from videojob.families import ComponentName, FamilyName, Unit
from videojob.models.images import IMAGE_LATENTS, pictures
from videojob.models.parts import Parts
from videojob.models.pipelines import load
from videojob.models.tensors import Tensors
from videojob.triton.settings import Images
from videojob.triton.wire import Settings

SEEN: Final = "image_embeds"
"""Of the conditions: what an image encoder makes of the images, `[n, L, D]`."""


def taken(directory: Path, index: Mapping[str, Any]) -> Images | None:
    """What images the checkpoint takes, by its folder and that one's index."""
    if index.get("expand_timesteps"):
        return Images(first="Optional")
    if index["_class_name"] != WanImageToVideoPipeline.__name__:
        return None
    config = json.loads((directory / ComponentName.TRANSFORMER / "config.json").read_text())
    if config.get("image_dim") is None:
        return Images(first="Required", last="Optional")
    return Images(first="Required", last="Required" if config.get("pos_embed_seq_len") else None)


class Beginning:
    """How a clip begins: from noise alone, beside the latents of an image, or from those, which stay as they are."""

    def __init__(
        self, image: torch.Tensor | None = None, patch: Sequence[int] | None = None, further: Tensors | None = None
    ) -> None:
        """`image` is IMAGE_LATENTS, if there is one; `patch` the size of a token in latents where each has a timestep.

        The image's latents are those of a clip that is black but for its images, behind a mask of those, float32
        `[1, 4 + C, T, h, w]`; or, where each token has its timestep, those of the first image alone, `[1, C, 1, h, w]`.
        `further` is what else the transformer sees at each step, by the names of its arguments.
        """
        self._image = image
        self._patch = patch
        self.further = further or {}

    def shown(self, latents: torch.Tensor) -> torch.Tensor:
        """What the transformer sees of the latents `[1, C, T, h, w]`, beside an image with more channels."""
        if self._image is None or self._patch is not None:
            return self.kept(latents)
        return torch.cat([latents, self._image], dim=1)

    def kept(self, latents: torch.Tensor) -> torch.Tensor:
        """The latents, where an image stays with its own in place of the first."""
        if self._image is None or self._patch is None:
            return latents
        noisy = self._noisy(latents)
        return (1 - noisy) * self._image + noisy * latents

    def timestep(self, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """`[1]`, or float32 `[1, N]`: of each of the N tokens, 0 for those of an image."""
        if self._patch is None:
            return t.expand(1)
        _, down, across = self._patch
        return (self._noisy(latents)[0, 0, :, ::down, ::across] * t).flatten().unsqueeze(0)

    def _noisy(self, latents: torch.Tensor) -> torch.Tensor:
        """Float32 `[1, 1, T, h, w]`: 0 for those of an image, else 1."""
        mask = torch.ones((1, 1, *latents.shape[2:]), dtype=torch.float32, device=latents.device)
        if self._image is not None:
            mask[:, :, 0] = 0
        return mask


class ImageEncoder:
    """The VAE's encoder and, where the checkpoint has one, the image encoder."""

    def __init__(self, parts: Parts, index: Mapping[str, Any], declared: Images) -> None:
        seeing = [ComponentName.IMAGE_ENCODER] if any(index.get(ComponentName.IMAGE_ENCODER) or ()) else []
        names = [ComponentName.VAE, *seeing]
        self._pipeline = load(parts, FamilyName.WAN, WanImageToVideoPipeline, *names, index=index)
        self._sees = bool(seeing)
        self._device = parts[ComponentName.VAE].device
        self._declared = declared

    @torch.inference_mode()
    def encode(self, unit: Unit, settings: Settings, images: Sequence[torch.Tensor]) -> Tensors:
        """See `videojob.models.family.ImageConditioner`: the arithmetic is the pipeline's own."""
        given = pictures(images, self._declared)
        pipeline, size = self._pipeline, (settings.height, settings.width)
        first, *last = (
            pipeline.video_processor.preprocess(picture, *size).to(self._device, dtype=torch.float32)
            for picture in given
        )
        _, condition, *_ = pipeline.prepare_latents(
            first,
            batch_size=1,
            height=settings.height,
            width=settings.width,
            num_frames=len(unit.frames),
            dtype=torch.float32,
            device=self._device,
            latents=torch.empty(0),  # those of the clip, which are drawn elsewhere
            last_image=next(iter(last), None),
        )
        seen = {SEEN: pipeline.encode_image(given, self._device)} if self._sees else {}
        return {IMAGE_LATENTS: condition, **seen}
