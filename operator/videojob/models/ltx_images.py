"""The images that clips of LTX-Video begin and end with: what folders take, and what becomes of them.

A folder of `LTXConditionPipeline` may have both. One of `LTXPipeline` or `LTXImageToVideoPipeline`, whose weights are
the same, may begin with an image. The pipelines draw an image's latents from what the VAE gives for it: that noise has
names here, so it is the same whoever encodes the image again.

Source: diffusers 0.42.1 `pipeline_ltx_image2video.py` and `pipeline_ltx_condition.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from diffusers import LTXConditionPipeline, LTXImageToVideoPipeline
from PIL import Image

from videojob.families import ComponentName, FamilyName, Unit
from videojob.models.images import IMAGE_LATENTS, pictures
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import load
from videojob.models.sizes import require_multiples
from videojob.models.tensors import Tensors
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.settings import Images
from videojob.triton.wire import Settings

ENCODED: Final = "encoded image"
"""Name of the noise that an image's latents are drawn with; its step is 0 for the first image, 1 for the last."""


def conditioned(index: Mapping[str, Any]) -> bool:
    """Whether the folder of that index is of `LTXConditionPipeline`."""
    return bool(index["_class_name"] == LTXConditionPipeline.__name__)


def taken(index: Mapping[str, Any]) -> Images:
    """What images the checkpoint takes, by its folder's index."""
    return Images(first="Optional", last="Optional" if conditioned(index) else None)


class ImageEncoder:
    """The VAE's encoder. Gives the latents of the images in order, `[1, C, n, h, w]`."""

    def __init__(self, parts: Parts, index: Mapping[str, Any], declared: Images) -> None:
        self._conditioned = conditioned(index)
        pipeline = LTXConditionPipeline if self._conditioned else LTXImageToVideoPipeline
        self._pipeline = load(parts, FamilyName.LTX, pipeline, ComponentName.VAE, index=index)
        self._device = parts[ComponentName.VAE].device
        self._declared = declared

    def encode(self, unit: Unit, settings: Settings, images: Sequence[torch.Tensor]) -> Tensors:
        """See `videojob.models.family.ImageConditioner`."""
        require_multiples(settings, self._pipeline.vae_spatial_compression_ratio)
        given = pictures(images, self._declared)
        if len(given) > 1 and len(unit.frames) == 1:
            raise ChunkError(ErrorCode.INVALID_REQUEST, "A clip of one frame cannot begin and end with an image.")
        noise = Noise(settings.seed, unit.shot, unit.index)
        latents = [self._latents(picture, settings, noise, place) for place, picture in enumerate(given)]
        return {IMAGE_LATENTS: torch.cat(latents, dim=2)}

    @torch.inference_mode()
    def _latents(self, picture: Image.Image, settings: Settings, noise: Noise, place: int) -> torch.Tensor:
        vae = self._pipeline.vae
        pixels = self._pipeline.video_processor.preprocess(picture, settings.height, settings.width).unsqueeze(2)
        found = vae.encode(pixels.to(self._device, vae.dtype)).latent_dist
        drawn = found.mean + found.std * noise((*found.mean.shape,), ENCODED, place).to(found.mean)
        if not self._conditioned:  # The pipelines' arithmetic: this one normalizes in float32, the other before it.
            drawn = drawn.float()
        normalized: torch.Tensor = self._pipeline._normalize_latents(drawn, vae.latents_mean, vae.latents_std)
        return normalized.float()
