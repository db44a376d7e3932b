"""Wan text-to-video: each shot one clip, over the classes of diffusers' `WanPipeline`.

Wan 2.1 T2V (1.3B and 14B), Wan 2.2 T2V A14B, and Wan 2.2 TI2V-5B from text alone. Latents and frames are the
pipeline's, bit for bit, for the same noise. What the folder pins is taken as it is: the scheduler with its shift, where
the model names no other, whether each token has a timestep of its own, and from which timestep on a second transformer
takes over.

Sources: Wan (arXiv:2503.20314), diffusers 0.42.1 `pipeline_wan.py`.
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
from videojob.models.wan_vae import ClipDecoder
from videojob.triton.wire import Settings

RENOISED: Final = "renoised"
"""The noise that a scheduler adds after a step."""


def _index(directory: Path) -> Mapping[str, Any]:
    """The folder's index. Raises ValueError where it has one transformer of two, or nothing says when they change."""
    index = read_index(directory, FamilyName.WAN, WanPipeline)
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
    """The pipeline's text encoder."""

    def __init__(self, parts: Parts) -> None:
        _index(parts.directory)
        super().__init__(load(parts, FamilyName.WAN, WanPipeline, ComponentName.TEXT_ENCODER))


class Generator:
    """One transformer or two, two passes a step with guidance, and the folder's scheduler.

    Its sequences have no state. A checkpoint is in the dtype of the sampler, which is float32 with UniPC.
    """

    def __init__(self, parts: Parts) -> None:
        second = any(_index(parts.directory).get(ComponentName.TRANSFORMER_2) or ())
        names = (ComponentName.TRANSFORMER, ComponentName.TRANSFORMER_2)[: 1 + second]
        pipeline = load(parts, FamilyName.WAN, WanPipeline, *names, resting=names[1:])
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
        shape = self.latent_shape(unit, settings)
        embeds = [conditions[name] for name in (PROMPT, NEGATIVE) if name in conditions]
        scheduler = deepcopy(self._scheduler)  # as loaded: it remembers the unit before
        take_steps(scheduler, unit, self._sampling, self._device)
        made = resume or Step(0, {LATENTS: noise(shape)})
        scheduler.set_begin_index(made.done)
        restore(scheduler, made.tensors, self._device)
        latents = made.tensors[LATENTS].to(self._device)
        yield made

        for number, t in enumerate(scheduler.timesteps[made.done :], made.done + 1):
            expert = self._experts[int(self._boundary is not None and bool(t < self._boundary))]
            timestep = self._timestep(t, shape)
            self._adapters.choose(settings.adapters)  # here: another unit may be made in between
            # The pipeline's arithmetic: the prediction and its guidance in the model's dtype, the step in float32.
            predicted = guided(partial(_predict, expert, latents, timestep), embeds, settings.guidance_scale)
            latents = step(scheduler, predicted.to(self._device), t, latents, noise.generator(RENOISED, number))
            yield Step(number, {LATENTS: latents, **(remembered(scheduler) if number < unit.steps else {})})

    def _timestep(self, t: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """`[1]`, or float32 `[1, N]`: the same for each of the N tokens, none of which is an image's."""
        if not self._timestep_per_token:
            return t.expand(1)
        across_time, down, across = self._config.patch_size
        tokens = (shape[2] // across_time) * (shape[3] // down) * (shape[4] // across)
        return t.to(torch.float32).expand(1, tokens)

    def latent_shape(self, unit: Unit, settings: Settings) -> tuple[int, int, int, int, int]:
        """See `videojob.models.sizes.latent_shape`."""
        return latent_shape(unit, settings, self._config, self._factor)


class Decoder(ClipDecoder):
    """The VAE. Each clip is decoded by itself."""

    def __init__(self, parts: Parts) -> None:
        _index(parts.directory)
        super().__init__(parts[ComponentName.VAE])


def _predict(expert: Any, latents: torch.Tensor, timestep: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """In the expert's dtype."""
    predicted: torch.Tensor
    (predicted,) = expert(
        hidden_states=latents.to(expert.device, expert.dtype),
        timestep=timestep.to(expert.device),
        encoder_hidden_states=embeds.to(expert.device, expert.dtype),
        return_dict=False,
    )
    return predicted
