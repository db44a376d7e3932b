"""SkyReels-V2 with diffusion forcing: a long video window by window, over `SkyReelsV2DiffusionForcingPipeline`.

Each window denoises new latents beside the last ones of the window before, which stay as they are: the overlap. Every
latent has a scheduler of its own. The pipeline makes all windows in one call and decodes at the end; here a window is a
unit, and the decoder goes on from unit to unit. Latents and frames are the pipeline's, bit for bit, for the same noise.

What the pipeline takes as arguments: `base_num_frames` and `overlap_history` are the plan's, `fps` and the scale of
guidance the job's. `addnoise_condition` is the 20 that its documentation recommends for long videos, where the
pipeline's own default is 0. `ar_step` is its default, 0: all new latents of a window are denoised side by side. With
more, a window has more steps than the job asks for, and attention in causal blocks, whose size no folder pins.

Sources: SkyReels-V2 (arXiv:2504.13074), Diffusion Forcing (arXiv:2407.01392), diffusers 0.42.1
`pipeline_skyreels_v2_diffusion_forcing.py`.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Final

import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, UniPCMultistepScheduler

from videojob.families import ComponentName, FamilyName, Unit
from videojob.models.family import Step
from videojob.models.guidance import guided
from videojob.models.history import LATENTS, History, recent, remember, require_size, started
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import NEGATIVE, PROMPT, PromptConditioner, load, read_index
from videojob.models.schedulers import checked, remembered, restore
from videojob.models.sizes import latent_shape
from videojob.models.tensors import Tensors
from videojob.models.wan_vae import StreamDecoder
from videojob.triton.wire import Settings

ADDED_NOISE: Final = 20
"""`addnoise_condition`: thousandths of noise in what is seen of the overlap, and the timestep that is told of it."""
CONDITION: Final = "condition"
"""Name of the noise that is added to the overlap, at each step."""

_FAMILY = FamilyName.SKYREELS_V2_DIFFUSION_FORCING
_PIPELINE = SkyReelsV2DiffusionForcingPipeline
_SPATIAL_FACTOR = 8


class Conditioner(PromptConditioner):
    """The pipeline's text encoder."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(load(parts, _FAMILY, _PIPELINE, ComponentName.TEXT_ENCODER))


class Generator:
    """The transformer, two passes a step with guidance. Its state: latents of the units that the next one overlaps.

    A checkpoint has the new latents of its window, in float32.
    """

    def __init__(self, parts: Parts) -> None:
        pipeline = load(parts, _FAMILY, _PIPELINE, ComponentName.TRANSFORMER)
        self._transformer = pipeline.transformer
        if (block := self._transformer.config.num_frame_per_block) != 1:
            raise ValueError(
                f"{parts.directory} has attention in causal blocks of {block} latents; the family {_FAMILY} serves "
                "num_frame_per_block 1, where all latents of a window see each other."
            )
        self._scheduler = checked(parts.directory, _FAMILY, pipeline.scheduler, UniPCMultistepScheduler)
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
        shape, device, dtype = self.latent_shape(unit, settings), self._device, self._transformer.dtype
        require_size(state, shape)
        overlap = recent(state, unit)
        made = resume or Step(0, {LATENTS: noise(shape)})
        latents = made.tensors[LATENTS].to(device, copy=True)
        if overlap is not None:
            latents = torch.cat([overlap.to(device, dtype).to(latents.dtype), latents], dim=2)
        begun, count = unit.history, unit.history + shape[2]
        embeds = [conditions[name].to(device, dtype) for name in (PROMPT, NEGATIVE) if name in conditions]
        schedulers = self._schedulers(unit, made, range(begun, count))
        timesteps = next(iter(schedulers.values())).timesteps
        yield made

        for step, t in enumerate(timesteps[made.done :], made.done + 1):
            timestep = torch.zeros((1, count), dtype=torch.int64, device=device)
            timestep[:, :begun], timestep[:, begun:] = ADDED_NOISE, t
            seen = latents.to(dtype, copy=True)
            if begun:
                added = noise((*shape[:2], begun, *shape[3:]), CONDITION, step).to(device, dtype)
                factor = 0.001 * ADDED_NOISE
                seen[:, :, :begun] = seen[:, :, :begun] * (1.0 - factor) + added * factor
            predict = partial(self._predict, seen, timestep, settings)
            predicted = guided(predict, embeds, settings.guidance_scale)
            for index, scheduler in schedulers.items():
                # As the pipeline does it, in place: what UniPC keeps of the first sample becomes the second one.
                latents[:, :, index] = scheduler.step(
                    predicted[:, :, index], t, latents[:, :, index], return_dict=False
                )[0]
            made = Step(step, _checkpoint(latents[:, :, begun:], schedulers if step < unit.steps else {}))
            yield made
        remember(state, unit, made.tensors[LATENTS])

    def _schedulers(self, unit: Unit, made: Step, indexes: range) -> dict[int, Any]:
        """A scheduler for each new latent, by its position in the window, that goes on after this step."""
        schedulers = {}
        for place, index in enumerate(indexes):
            scheduler = schedulers[index] = deepcopy(self._scheduler)
            scheduler.set_timesteps(unit.steps, device=self._device)
            scheduler.set_begin_index(made.done)
            prefix = f"{place}/"
            own = {key.removeprefix(prefix): each for key, each in made.tensors.items() if key.startswith(prefix)}
            restore(scheduler, own, self._device)
        return schedulers

    def _predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, settings: Settings, embeds: torch.Tensor
    ) -> torch.Tensor:
        predicted: torch.Tensor
        (predicted,) = self._transformer(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=embeds,
            enable_diffusion_forcing=True,
            fps=[0 if settings.fps == 16 else 1],
            return_dict=False,
        )
        return predicted

    def latent_shape(self, unit: Unit, settings: Settings) -> tuple[int, int, int, int, int]:
        """See `videojob.models.sizes.latent_shape`."""
        return latent_shape(unit, settings, self._transformer.config, _SPATIAL_FACTOR)


class Decoder(StreamDecoder):
    """The VAE, with one feature cache per video: its state."""

    def __init__(self, parts: Parts) -> None:
        read_index(parts.directory, _FAMILY, _PIPELINE)
        super().__init__(parts[ComponentName.VAE])


def _checkpoint(latents: torch.Tensor, schedulers: dict[int, Any]) -> Tensors:
    """Copies: what is given away must not change with the next step. Names of schedulers' begin with their place."""
    kept = {LATENTS: latents.clone()}
    for place, scheduler in enumerate(schedulers.values()):
        kept |= {f"{place}/{name}": tensor.clone() for name, tensor in remembered(scheduler).items()}
    return kept
