"""Wan: each shot one clip, over the classes of diffusers' `WanPipeline` and `WanImageToVideoPipeline`.

Wan 2.1 T2V (1.3B and 14B), I2V and FLF2V, Wan 2.2 T2V and I2V A14B, and Wan 2.2 TI2V-5B. Latents and frames are the
pipelines', bit for bit, for the same noise and images. What the folder pins is taken as it is: the scheduler with its
shift, where the model names no other, whether each token has a timestep of its own, and from which timestep on a second
transformer takes over.

Sources: Wan (arXiv:2503.20314), diffusers 0.42.1 `pipeline_wan.py` and `pipeline_wan_i2v.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
)

from videojob.families import ComponentName, FamilyName, Unit
from videojob.models.adapters import Adapters
from videojob.models.experts import Experts
from videojob.models.family import Step
from videojob.models.guidance import guided
from videojob.models.history import LATENTS
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import NEGATIVE, PROMPT, PromptConditioner, load, read_index
from videojob.models.schedulers import checked, remembered, restore, sampler, step, take_steps
from videojob.models.sizes import latent_shape
from videojob.models.tensors import Tensors
from videojob.models.wan_images import CONDITION, SEEN, Beginning, ImageEncoder, check_images
from videojob.models.wan_vae import ClipDecoder
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import Settings

RENOISED: Final = "renoised"
"""The noise that a scheduler adds after a step."""


def _index(directory: Path) -> Mapping[str, Any]:
    """The folder's index. Raises ValueError where it has one transformer of two, or nothing says when they change."""
    index = read_index(directory, FamilyName.WAN, WanPipeline, WanImageToVideoPipeline)
    ratio, second = index.get("boundary_ratio"), any(index.get(ComponentName.TRANSFORMER_2) or ())
    if second and ratio is None:
        raise ValueError(
            f"{directory} has a transformer_2, but its model_index.json has no boundary_ratio, which says at which "
            "timestep that takes over: set it (Wan 2.2 T2V A14B has 0.875), or remove transformer_2."
        )
    if ratio is not None and not (second and any(index.get(ComponentName.TRANSFORMER) or ())):
        raise ValueError(
            f"{directory} has a boundary_ratio, but not both transformers: the family Wan serves whole pipelines, "
            "which make all steps of a clip. Bring transformer and transformer_2 into one folder."
        )
    return index


class Conditioner(PromptConditioner):
    """The pipeline's text encoder and, where the model takes images, what encodes those."""

    def __init__(self, parts: Parts) -> None:
        index = _index(parts.directory)
        check_images(parts.directory, index, parts.images)
        super().__init__(load(parts, FamilyName.WAN, _pipeline(index), ComponentName.TEXT_ENCODER))
        self._images = ImageEncoder(parts, index) if parts.images else None

    def encode_images(self, unit: Unit, settings: Settings, images: Sequence[torch.Tensor]) -> Tensors:
        """See `videojob.models.family.ImageConditioner`."""
        if self._images is None:
            raise ChunkError(ErrorCode.INVALID_REQUEST, "This model takes no images.")
        return self._images.encode(unit, settings, images)


class Generator:
    """One transformer or two, two passes a step with guidance, and the folder's scheduler.

    Its sequences have no state. A checkpoint is in the dtype of the sampler, which is float32 with UniPC.
    """

    def __init__(self, parts: Parts) -> None:
        index = _index(parts.directory)
        check_images(parts.directory, index, parts.images)
        second = any(index.get(ComponentName.TRANSFORMER_2) or ())
        names = (ComponentName.TRANSFORMER, ComponentName.TRANSFORMER_2)[: 1 + second]
        pipeline = load(parts, FamilyName.WAN, _pipeline(index), *names, resting=names[1:])
        self._experts = Experts([getattr(pipeline, name) for name in names], [parts[name].device for name in names])
        self._adapters = Adapters(pipeline, parts.adapters, {name: getattr(pipeline, name) for name in names})
        self._config = pipeline.transformer.config
        self._sampling = parts.sampling
        self._scheduler = checked(
            parts.directory,
            FamilyName.WAN,
            sampler(parts.sampling) if parts.sampling else pipeline.scheduler,
            UniPCMultistepScheduler,
            FlowMatchEulerDiscreteScheduler,
            FlowMatchLCMScheduler,
        )
        self._images = parts.images
        self._timestep_per_token = pipeline.config.expand_timesteps
        ratio = pipeline.config.boundary_ratio
        self._boundary = None if ratio is None else ratio * self._scheduler.config.num_train_timesteps
        # Folders from before there was a factor to configure have 8.
        vae = AutoencoderKLWan.load_config(parts[ComponentName.VAE].directory, local_files_only=True)
        self._factor = vae.get("scale_factor_spatial", 8)
        self._device = parts[ComponentName.TRANSFORMER].device

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
        shape, scales = self.latent_shape(unit, settings), self._scales(settings)
        beginning = self._beginning(conditions)
        embeds = [conditions[name] for name in (PROMPT, NEGATIVE) if name in conditions]
        scheduler = deepcopy(self._scheduler)  # as loaded: it remembers the unit before
        take_steps(scheduler, unit, self._sampling, self._device)
        made = resume or Step(0, {LATENTS: noise(shape)})
        scheduler.set_begin_index(made.done)
        restore(scheduler, made.tensors, self._device)
        latents = made.tensors[LATENTS].to(self._device)
        yield made

        for number, t in enumerate(scheduler.timesteps[made.done :], made.done + 1):
            second = self._boundary is not None and bool(t < self._boundary)
            expert, scale = self._experts[int(second)], scales[int(second)]
            hidden, timestep = beginning.shown(latents), beginning.timestep(t, latents)
            self._adapters.choose(settings.adapters)  # here: another unit may be made in between
            # The pipeline's arithmetic: the prediction and its guidance in the model's dtype, the step in float32.
            predicted = guided(partial(_predict, expert, hidden, timestep, conditions.get(SEEN)), embeds, scale)
            latents = step(scheduler, predicted.to(self._device), t, latents, noise.generator(RENOISED, number))
            if number == unit.steps:
                latents = beginning.kept(latents)
            yield Step(number, {LATENTS: latents, **(remembered(scheduler) if number < unit.steps else {})})

    def _scales(self, settings: Settings) -> tuple[float, float]:
        """Of guidance, for each of two transformers."""
        first, second = settings.guidance_scale, settings.guidance_scale_2
        if second is not None and self._boundary is None:
            raise ChunkError(
                ErrorCode.INVALID_REQUEST,
                "guidanceScale2 is for a second transformer, which this model has not: remove it from the VideoModel.",
            )
        return first, first if second is None else second

    def _beginning(self, conditions: Tensors) -> Beginning:
        image = conditions.get(CONDITION)
        if image is None and self._images is not None and self._images.first == "Required":
            raise ChunkError(ErrorCode.INVALID_REQUEST, "This model begins with an image: IMAGES must come.")
        patch = self._config.patch_size if self._timestep_per_token else None
        return Beginning(None if image is None else image.to(self._device), patch)

    def latent_shape(self, unit: Unit, settings: Settings) -> tuple[int, int, int, int, int]:
        """See `videojob.models.sizes.latent_shape`."""
        return latent_shape(unit, settings, self._config, self._factor)


class Decoder(ClipDecoder):
    """The VAE. Each clip is decoded by itself."""

    def __init__(self, parts: Parts) -> None:
        _index(parts.directory)
        super().__init__(parts[ComponentName.VAE])


def _pipeline(index: Mapping[str, Any]) -> Any:
    """The class that wrote the folder."""
    return next(each for each in (WanPipeline, WanImageToVideoPipeline) if each.__name__ == index["_class_name"])


def _predict(
    expert: Any, hidden: torch.Tensor, timestep: torch.Tensor, seen: torch.Tensor | None, embeds: torch.Tensor
) -> torch.Tensor:
    """In the expert's dtype."""
    predicted: torch.Tensor
    (predicted,) = expert(
        hidden_states=hidden.to(expert.device, expert.dtype),
        timestep=timestep.to(expert.device),
        encoder_hidden_states=embeds.to(expert.device, expert.dtype),
        encoder_hidden_states_image=None if seen is None else seen.to(expert.device, expert.dtype),
        return_dict=False,
    )
    return predicted
