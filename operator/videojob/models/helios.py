"""Helios: long video chunk by chunk from a history of three resolutions, over diffusers' `HeliosPipeline`.

A chunk of 9 latents, 33 frames, is made from the first latent of its stream and the 19 before it: the last one as it
is, two before at half and 16 at a quarter of the resolution. The VAE decodes each chunk by itself. Latents and frames
are the pipeline's, bit for bit, for the same noise; but the pipeline drops up to three frames at the end of a video of
several chunks, to have 4k+1, where here a shot has the frames it asks for.

A shot that is refreshed keeps the first latent, and its history is empty: so the pipeline begins where it is given
`image_latents` alone. Served is Helios-Base; the pyramid of Helios-Mid and -Distilled is another pipeline.

Sources: Helios (arXiv:2603.04379), diffusers 0.42.1 `pipeline_helios.py`.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from diffusers import HeliosPipeline, HeliosScheduler

from videojob.families import ComponentName, FamilyName, Unit
from videojob.models.family import Step
from videojob.models.guidance import guided
from videojob.models.history import LATENTS, History, recent, remember, require_size, started
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import NEGATIVE, PROMPT, PromptConditioner, load, read_index
from videojob.models.schedulers import checked, dynamic_shift, remembered, restore
from videojob.models.sizes import latent_shape
from videojob.models.tensors import Tensors
from videojob.models.wan_vae import ClipDecoder
from videojob.triton.wire import Settings

HISTORY_SIZES: Final = (16, 2, 1)
"""Latents at a quarter, at half and at full resolution, oldest first: `history_sizes` of the pipeline."""

_SPATIAL_FACTOR = 8
_SAMPLERS = ("unipc", "euler")


class Conditioner(PromptConditioner):
    """The pipeline's text encoder."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(load(parts, FamilyName.HELIOS, HeliosPipeline, ComponentName.TEXT_ENCODER))


class Generator:
    """The transformer, two passes a step with guidance. Its state: latents of the units that the next one needs.

    A checkpoint has those of its chunk, in the dtype of the sampler, which is float32 with UniPC.
    """

    def __init__(self, parts: Parts) -> None:
        pipeline = load(parts, FamilyName.HELIOS, HeliosPipeline, ComponentName.TRANSFORMER)
        self._transformer = pipeline.transformer
        self._scheduler = checked(parts.directory, FamilyName.HELIOS, pipeline.scheduler, HeliosScheduler)
        config = self._scheduler.config
        if config.stages != 1 or config.scheduler_type not in _SAMPLERS:
            raise ValueError(
                f"{parts.directory} samples with {config.scheduler_type} in {config.stages} stages; the family "
                f"{FamilyName.HELIOS} serves {' or '.join(_SAMPLERS)} in 1, as Helios-Base has."
            )
        self._device = self._transformer.device

    def start(self, unit: Unit, settings: Settings, past: Sequence[Tensors]) -> History:
        """See `videojob.models.family.Generator`."""
        return started(unit, past, self.latent_shape(unit, settings))

    @torch.inference_mode()
    def run(
        self,
        unit: Unit,
        settings: Settings,
        state: History,
        conditions: Tensors,
        noise: Noise,
        resume: Step | None = None,
    ) -> Iterator[Step]:
        """See `videojob.models.family.Generator`."""
        shape, dtype = self.latent_shape(unit, settings), self._transformer.dtype
        require_size(state, shape)
        history = self._history(unit, state, shape)
        made = resume or Step(0, {LATENTS: noise(shape)})
        scheduler = self._scheduled(unit, shape)
        restore(scheduler, made.tensors, self._device)
        latents = made.tensors[LATENTS].to(self._device)
        embeds = [conditions[name].to(self._device, dtype) for name in (PROMPT, NEGATIVE) if name in conditions]
        yield made

        for step, t in enumerate(scheduler.timesteps[made.done :], made.done + 1):
            predict = partial(self._predict, latents, t, history)
            predicted = guided(predict, embeds, settings.guidance_scale)
            latents = scheduler.step(predicted, t, latents, return_dict=False)[0]
            made = Step(step, {LATENTS: latents, **(remembered(scheduler) if step < unit.steps else {})})
            yield made
        remember(state, unit, made.tensors[LATENTS])

    def _history(self, unit: Unit, state: History, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """What the transformer is given of the past: latents `[1, C, T, h, w]`, and their places before the chunk's.

        Zeros stand for what there is not.
        """
        past = torch.zeros((*shape[:2], sum(HISTORY_SIZES), *shape[3:]), device=self._device)
        if (latents := recent(state, unit)) is not None:
            past = torch.cat([past, latents.to(past)], dim=2)[:, :, -sum(HISTORY_SIZES) :]
        first = state[unit.needs[0]][:, :, :1].to(past) if unit.needs else torch.zeros_like(past[:, :, :1])
        long, mid, last = torch.split(past, [*HISTORY_SIZES], dim=2)
        dtype = self._transformer.dtype
        places = torch.split(torch.arange(1 + sum(HISTORY_SIZES) + shape[2]), [1, *HISTORY_SIZES, shape[2]])
        return {
            "latents_history_long": long.to(dtype),
            "latents_history_mid": mid.to(dtype),
            "latents_history_short": torch.cat([first, last], dim=2).to(dtype),
            "indices_latents_history_long": places[1].unsqueeze(0),
            "indices_latents_history_mid": places[2].unsqueeze(0),
            "indices_latents_history_short": torch.cat([places[0], places[3]]).unsqueeze(0),
            "indices_hidden_states": places[4].unsqueeze(0),
        }

    def _scheduled(self, unit: Unit, shape: tuple[int, ...]) -> Any:
        """The scheduler for as many steps, whose shift depends on the number of tokens."""
        scheduler = deepcopy(self._scheduler)  # as loaded: it remembers the unit before
        across_time, down, across = self._transformer.config.patch_size
        tokens = shape[2] * shape[3] * shape[4] // (across_time * down * across)
        sigmas = np.linspace(0.999, 0.0, unit.steps + 1)[:-1]
        mu = dynamic_shift(scheduler, tokens)
        scheduler.set_timesteps(unit.steps, device=self._device, sigmas=sigmas, mu=mu)
        return scheduler

    def _predict(
        self, latents: torch.Tensor, t: torch.Tensor, history: dict[str, torch.Tensor], embeds: torch.Tensor
    ) -> torch.Tensor:
        predicted: torch.Tensor
        (predicted,) = self._transformer(
            hidden_states=latents.to(self._transformer.dtype),
            timestep=t.expand(1),
            encoder_hidden_states=embeds,
            return_dict=False,
            **history,
        )
        return predicted

    def latent_shape(self, unit: Unit, settings: Settings) -> tuple[int, int, int, int, int]:
        """See `videojob.models.sizes.latent_shape`."""
        return latent_shape(unit, settings, self._transformer.config, _SPATIAL_FACTOR)


class Decoder(ClipDecoder):
    """The VAE. Each chunk is decoded by itself."""

    def __init__(self, parts: Parts) -> None:
        read_index(parts.directory, FamilyName.HELIOS, HeliosPipeline)
        super().__init__(parts[ComponentName.VAE])
