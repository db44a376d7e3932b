"""SkyReels-V2 with diffusion forcing: a long video window by window, over `SkyReelsV2DiffusionForcingPipeline`.

Each window denoises new latents beside the last ones of the window before, which stay as they are: the overlap. Every
latent has a scheduler of its own. The pipeline makes all windows in one call and decodes at the end; here a window is a
unit, and the decoder goes on from unit to unit. Latents and frames are the pipeline's, bit for bit, for the same noise.

The first window may begin with an image, as in `SkyReelsV2DiffusionForcingImageToVideoPipeline`: its first latent is
that of the image and stays as it is, like an overlap. The weights are the same, so a folder of either pipeline is taken
with and without. A last image is not served: the pipeline shows it to the last window as a latent after its end, drops
as many latents there as the window overlaps, and so loses frames of a long video.

What the pipeline takes as arguments: `base_num_frames` and `overlap_history` are the plan's, `fps` and the scale of
guidance the job's. `addnoise_condition` is the 20 that its documentation recommends for long videos, where the
pipeline's own default is 0. `ar_step` is its default, 0: all new latents of a window are denoised side by side. With
more, a window has more steps than the job asks for, and attention in causal blocks, whose size no folder pins.

Sources: SkyReels-V2 (arXiv:2504.13074), Diffusion Forcing (arXiv:2407.01392), diffusers 0.42.1
`pipeline_skyreels_v2_diffusion_forcing.py` and `pipeline_skyreels_v2_diffusion_forcing_i2v.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Final

import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    UniPCMultistepScheduler,
)

from videojob.families import ComponentName, FamilyName, Unit
from videojob.models.family import Step
from videojob.models.guidance import guided
from videojob.models.history import LATENTS, History, recent, remember, require_size, started
from videojob.models.images import IMAGE_LATENTS, check_images, image_latents, pictures, taking
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import NEGATIVE, PROMPT, PromptConditioner, load, read_index
from videojob.models.schedulers import checked, remembered, restore
from videojob.models.sizes import latent_shape
from videojob.models.tensors import Tensors
from videojob.models.wan_vae import StreamDecoder
from videojob.triton.settings import Images
from videojob.triton.wire import Settings

ADDED_NOISE: Final = 20
"""`addnoise_condition`: thousandths of noise in what is seen of the overlap, and the timestep that is told of it."""
CONDITION: Final = "condition"
"""Name of the noise that is added to the overlap, or to an image, at each step."""
TAKEN: Final = Images(first="Optional")
"""What images every checkpoint takes."""

_FAMILY = FamilyName.SKYREELS_V2_DIFFUSION_FORCING
_PIPELINE = SkyReelsV2DiffusionForcingPipeline
_FROM_IMAGE = SkyReelsV2DiffusionForcingImageToVideoPipeline
_SPATIAL_FACTOR = 8


def _index(parts: Parts) -> Mapping[str, Any]:
    """The folder's index. Raises ValueError where the model is declared to take other images than it can."""
    index = read_index(parts.directory, _FAMILY, _PIPELINE, _FROM_IMAGE)
    check_images(parts.directory, TAKEN, parts.images)
    return index


class Conditioner(PromptConditioner):
    """The pipeline's text encoder and, where the model takes images, the VAE's encoder."""

    def __init__(self, parts: Parts) -> None:
        index = _index(parts)
        super().__init__(load(parts, _FAMILY, _PIPELINE, ComponentName.TEXT_ENCODER, index=index))
        self._images = _ImageEncoder(parts, index, parts.images) if parts.images else None

    def encode_images(self, unit: Unit, settings: Settings, images: Sequence[torch.Tensor]) -> Tensors:
        """See `videojob.models.family.ImageConditioner`. A unit that goes on from others sees nothing of an image."""
        encoder = taking(self._images)
        return {} if unit.history else encoder.encode(unit, settings, images)


class _ImageEncoder:
    """Gives the latents of an image, `[1, C, 1, h, w]`."""

    def __init__(self, parts: Parts, index: Mapping[str, Any], declared: Images) -> None:
        self._pipeline = load(parts, _FAMILY, _FROM_IMAGE, ComponentName.VAE, index=index)
        self._device = parts[ComponentName.VAE].device
        self._declared = declared

    @torch.inference_mode()
    def encode(self, unit: Unit, settings: Settings, images: Sequence[torch.Tensor]) -> Tensors:
        """See `videojob.models.family.ImageConditioner`: the arithmetic is the pipeline's own."""
        (picture,) = pictures(images, self._declared)
        preprocess = self._pipeline.video_processor.preprocess
        *_, latents, _ = self._pipeline.prepare_latents(
            preprocess(picture, settings.height, settings.width).to(self._device, dtype=torch.float32),
            batch_size=1,
            height=settings.height,
            width=settings.width,
            num_frames=len(unit.frames),
            dtype=torch.float32,
            device=self._device,
            latents=torch.empty(0),  # those of the window, which are drawn elsewhere
        )
        return {IMAGE_LATENTS: latents}


class Generator:
    """The transformer, two passes a step with guidance. Its state: latents of the units that the next one overlaps.

    A checkpoint has the new latents of its window, in float32.
    """

    def __init__(self, parts: Parts) -> None:
        pipeline = load(parts, _FAMILY, _PIPELINE, ComponentName.TRANSFORMER, index=_index(parts))
        self._transformer = pipeline.transformer
        if (block := self._transformer.config.num_frame_per_block) != 1:
            raise ValueError(
                f"{parts.directory} has attention in causal blocks of {block} latents; the family {_FAMILY} serves "
                "num_frame_per_block 1, where all latents of a window see each other."
            )
        self._scheduler = checked(parts.directory, _FAMILY, pipeline.scheduler, UniPCMultistepScheduler)
        self._images = parts.images
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
        kept = self._kept(unit, state, conditions)
        made = resume or Step(0, {LATENTS: noise(shape)})
        latents = made.tensors[LATENTS].to(device, copy=True)
        begun, own = 0 if kept is None else kept.shape[2], unit.history
        if kept is not None:
            # An overlap comes before the unit's own latents, an image in place of the first of them.
            new = latents[:, :, begun - own :]
            latents = torch.cat([kept.to(device, dtype).to(latents.dtype), new], dim=2)
        count = own + shape[2]
        embeds = [conditions[name].to(device, dtype) for name in (PROMPT, NEGATIVE) if name in conditions]
        timesteps, schedulers = self._schedulers(unit, made, range(begun, count))
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
            made = Step(step, _checkpoint(latents[:, :, own:], schedulers if step < unit.steps else {}))
            yield made
        remember(state, unit, made.tensors[LATENTS])

    def _kept(self, unit: Unit, state: History, conditions: Tensors) -> torch.Tensor | None:
        """What the window begins with that stays as it is: its overlap, or the latents of an image, if there is one."""
        return recent(state, unit) if unit.history else image_latents(conditions, self._images)

    def _schedulers(self, unit: Unit, made: Step, indexes: range) -> tuple[torch.Tensor, dict[int, Any]]:
        """The timesteps, and a scheduler for each new latent, by its position in the window, that goes on from here."""
        spaced = deepcopy(self._scheduler)
        spaced.set_timesteps(unit.steps, device=self._device)
        spaced.set_begin_index(made.done)
        schedulers = {}
        for place, index in enumerate(indexes):
            scheduler = schedulers[index] = deepcopy(spaced)
            prefix = f"{place}/"
            own = {key.removeprefix(prefix): each for key, each in made.tensors.items() if key.startswith(prefix)}
            restore(scheduler, own, self._device)
        return spaced.timesteps, schedulers

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
        _index(parts)
        super().__init__(parts[ComponentName.VAE])


def _checkpoint(latents: torch.Tensor, schedulers: dict[int, Any]) -> Tensors:
    """Copies: what is given away must not change with the next step. Names of schedulers' begin with their place."""
    kept = {LATENTS: latents.clone()}
    for place, scheduler in enumerate(schedulers.values()):
        kept |= {f"{place}/{name}": tensor.clone() for name, tensor in remembered(scheduler).items()}
    return kept
