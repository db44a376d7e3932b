"""Wan: each shot one clip, over the classes of diffusers' `WanPipeline` and `WanImageToVideoPipeline`.

Wan 2.1 T2V (1.3B and 14B), I2V and FLF2V, Wan 2.2 T2V and I2V A14B, and Wan 2.2 TI2V-5B. Latents and frames are the
pipelines', bit for bit, for the same noise and images. What the folder pins is taken as it is: the scheduler with its
shift, where the model names no other, whether each token has a timestep of its own, and from which timestep on a second
transformer takes over.

Sources: Wan (arXiv:2503.20314), diffusers 0.42.1 `pipeline_wan.py` and `pipeline_wan_i2v.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanPipeline

from videojob.families import ComponentName, FamilyName, Unit
from videojob.models.family import Step
from videojob.models.history import LATENTS
from videojob.models.images import check_images, image_latents, taking
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import PromptConditioner, load
from videojob.models.sizes import latent_shape
from videojob.models.tensors import Tensors
from videojob.models.wan_images import SEEN, Beginning, ImageEncoder, taken
from videojob.models.wan_transformers import Transformers, whole_index
from videojob.models.wan_vae import ClipDecoder
from videojob.triton.wire import Settings


def _index(directory: Path) -> Mapping[str, Any]:
    return whole_index(directory, FamilyName.WAN, WanPipeline, WanImageToVideoPipeline)


class Conditioner(PromptConditioner):
    """The pipeline's text encoder and, where the model takes images, what encodes those."""

    def __init__(self, parts: Parts) -> None:
        index = _index(parts.directory)
        check_images(parts.directory, taken(parts.directory, index), parts.images)
        super().__init__(load(parts, FamilyName.WAN, _pipeline(index), ComponentName.TEXT_ENCODER))
        self._images = ImageEncoder(parts, index, parts.images) if parts.images else None

    def encode_images(self, unit: Unit, settings: Settings, images: Sequence[torch.Tensor]) -> Tensors:
        """See `videojob.models.family.ImageConditioner`."""
        return taking(self._images).encode(unit, settings, images)


class Generator:
    """One transformer or two, two passes a step with guidance, and the folder's scheduler.

    Its sequences have no state. A checkpoint is in the dtype of the sampler, which is float32 with UniPC.
    """

    def __init__(self, parts: Parts) -> None:
        index = _index(parts.directory)
        check_images(parts.directory, taken(parts.directory, index), parts.images)
        self._transformers = Transformers(parts, FamilyName.WAN, _pipeline(index), index)
        self._images = parts.images
        self._timestep_per_token = self._transformers.pipeline.config.expand_timesteps
        # Folders from before there was a factor to configure have 8.
        vae = AutoencoderKLWan.load_config(parts[ComponentName.VAE].directory, local_files_only=True)
        self._factor = vae.get("scale_factor_spatial", 8)

    def start(self, unit: Unit, settings: Settings, past: Sequence[Tensors]) -> None:
        """See `videojob.models.family.Generator`."""
        self.latent_shape(unit, settings)

    @torch.inference_mode()
    def run(
        self,
        unit: Unit,
        settings: Settings,
        state: None,
        conditions: Tensors,
        noise: Noise,
        resume: Step | None = None,
    ) -> Iterator[Step]:
        """See `videojob.models.family.Generator`."""
        shape, beginning = self.latent_shape(unit, settings), self._beginning(conditions)
        made = resume or Step(0, {LATENTS: noise(shape)})
        yield from self._transformers.steps(unit, settings, conditions, beginning, noise, made)

    def _beginning(self, conditions: Tensors) -> Beginning:
        image = image_latents(conditions, self._images)
        patch = self._transformers.config.patch_size if self._timestep_per_token else None
        further = {"encoder_hidden_states_image": conditions[SEEN]} if SEEN in conditions else {}
        return Beginning(None if image is None else image.to(self._transformers.device), patch, further)

    def latent_shape(self, unit: Unit, settings: Settings) -> tuple[int, int, int, int, int]:
        """See `videojob.models.sizes.latent_shape`."""
        return latent_shape(unit, settings, self._transformers.config, self._factor)


class Decoder(ClipDecoder):
    """The VAE. Each clip is decoded by itself."""

    def __init__(self, parts: Parts) -> None:
        _index(parts.directory)
        super().__init__(parts[ComponentName.VAE])


def _pipeline(index: Mapping[str, Any]) -> Any:
    """The class that wrote the folder."""
    return next(each for each in (WanPipeline, WanImageToVideoPipeline) if each.__name__ == index["_class_name"])
