"""LTX-Video: each shot one clip, over the classes of diffusers' `LTXPipeline` and its siblings that take images.

Latents and frames are the pipelines', bit for bit, for the same noise and images. Those of `LTXConditionPipeline` have
steps of their own (see `ltx_steps`). The model is told how many frames a second has.
The VAE's decoder is not causal: a frame depends on latents after it, as far as its convolutions look ahead. So a clip
is decoded whole, before its first frame is given. To stream it, the plan would have to say which later latents a piece
waits for; `vae.enable_tiling()` decodes in overlapping tiles instead, whose frames are not those of the whole clip.

A VAE with timestep conditioning (from LTX-Video 0.9.1 on) makes the last step of denoising itself. For it the
documentation of diffusers recommends a `decode_timestep` of 0.05, with which examples have a `decode_noise_scale` of
0.025: these are taken, where the pipeline's own default is 0. The noise that is mixed in travels with the checkpoint:
the decoder knows no seed.

Sources: LTX-Video (arXiv:2501.00103), diffusers 0.42.1 `pipeline_ltx.py`, `pipeline_ltx_image2video.py` and
`pipeline_ltx_condition.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
)

from videojob.families import ComponentName, FamilyName, Unit
from videojob.models.family import Conditioning, Step
from videojob.models.history import LATENTS
from videojob.models.images import check_images, image_latents, taking
from videojob.models.ltx_images import ImageEncoder, conditioned, taken
from videojob.models.ltx_steps import FRAMES_PER_LATENT, Clip, KeptImage, NoisedImages, Steps
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import NEGATIVE, PROMPT, load, load_component, read_index, require_tokens
from videojob.models.schedulers import checked
from videojob.models.sizes import require_multiples
from videojob.models.tensors import Tensors
from videojob.triton.wire import Settings

PROMPT_MASK: Final = "prompt_attention_mask"
"""Of the conditions: bool `[1, L]`."""
NEGATIVE_MASK: Final = "negative_prompt_attention_mask"
"""Of the conditions, with guidance: bool `[1, L]`."""
DECODE: Final = "decode"
"""Of a checkpoint, where the VAE has timestep conditioning: noise like the latents, float32. Also the noise's name."""
DECODE_TIMESTEP: Final = 0.05
DECODE_NOISE_SCALE: Final = 0.025

# `max_sequence_length` of the pipelines' calls.
_PROMPT_TOKENS = {LTXPipeline: 128, LTXConditionPipeline: 256}


def _index(parts: Parts) -> Mapping[str, Any]:
    """The folder's index. Raises ValueError where the model is declared to take other images than it can."""
    index = read_index(parts.directory, FamilyName.LTX, LTXPipeline, LTXImageToVideoPipeline, LTXConditionPipeline)
    check_images(parts.directory, taken(index), parts.images)
    return index


def _pipeline(index: Mapping[str, Any]) -> Any:
    """The class that encodes prompts; `LTXImageToVideoPipeline` does it as `LTXPipeline`."""
    return LTXConditionPipeline if conditioned(index) else LTXPipeline


def _vae_config(parts: Parts) -> Mapping[str, Any]:
    """Of the VAE. Raises ValueError where its frames could not be made again, or are not as many as the plan says."""
    _index(parts)
    directory: Path = parts[ComponentName.VAE].directory
    config: Mapping[str, Any] = AutoencoderKLLTXVideo.load_config(directory, local_files_only=True)
    if any(config["decoder_inject_noise"]):
        raise ValueError(
            f"{directory} draws noise while it decodes (decoder_inject_noise, as LTX-Video 0.9.1), from a stream that "
            f"does not begin anew with a resumed clip; the family {FamilyName.LTX} serves decoders that do not."
        )
    if (frames := _ratio(config, "temporal")) != FRAMES_PER_LATENT:
        raise ValueError(
            f"{directory} makes {frames} frames of a latent; the family {FamilyName.LTX} plans {FRAMES_PER_LATENT}."
        )
    return config


def _ratio(config: Mapping[str, Any], kind: str) -> int:
    """Of pixels or frames to latents, as the VAE itself computes it."""
    patch = config["patch_size" if kind == "spatial" else "patch_size_t"]
    ratio: int = config[f"{kind}_compression_ratio"] or patch * 2 ** sum(config["spatio_temporal_scaling"])
    return ratio


class Conditioner:
    """The pipeline's T5 encoder and, where the model takes images, the VAE's encoder.

    T5 attends to padding; the transformer does not, so the masks go along.
    """

    def __init__(self, parts: Parts) -> None:
        index = _index(parts)
        pipeline = _pipeline(index)
        self._pipeline = load(parts, FamilyName.LTX, pipeline, ComponentName.TEXT_ENCODER, index=index)
        self._tokens = _PROMPT_TOKENS[pipeline]
        self._images = ImageEncoder(parts, index, parts.images) if parts.images else None

    def encode(self, conditioning: Conditioning) -> Tensors:
        """See `videojob.models.family.Conditioner`."""
        conditions = dict(zip((PROMPT, PROMPT_MASK), self._encode(conditioning.prompt, "prompt"), strict=True))
        if (negative := conditioning.negative_prompt) is not None:
            conditions |= zip((NEGATIVE, NEGATIVE_MASK), self._encode(negative, "negative prompt"), strict=True)
        return conditions

    @torch.inference_mode()
    def _encode(self, text: str, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        require_tokens(self._pipeline.tokenizer, text, name, self._tokens)
        embeds, mask, *_ = self._pipeline.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=self._tokens
        )
        return embeds, mask

    def encode_images(self, unit: Unit, settings: Settings, images: Sequence[torch.Tensor]) -> Tensors:
        """See `videojob.models.family.ImageConditioner`."""
        return taking(self._images).encode(unit, settings, images)


class Generator:
    """The transformer, with both prompts in one batch, and flow matching. Its sequences have no state.

    A checkpoint is in float32.
    """

    def __init__(self, parts: Parts) -> None:
        index = _index(parts)
        pipeline = load(parts, FamilyName.LTX, _pipeline(index), ComponentName.TRANSFORMER, index=index)
        self._transformer = pipeline.transformer
        self._steps: type[Steps] = NoisedImages if conditioned(index) else KeptImage
        self._scheduler = checked(parts.directory, FamilyName.LTX, pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
        if conditioned(index) and self._scheduler.config.use_dynamic_shifting:
            raise ValueError(
                f"{parts.directory} has a scheduler with use_dynamic_shifting, for which LTXConditionPipeline gives no "
                "shift: set it to false in scheduler/scheduler_config.json."
            )
        self._images = parts.images
        config = _vae_config(parts)
        self._factor = _ratio(config, "spatial")
        self._noise_to_decode = config["timestep_conditioning"]
        self._device = self._transformer.device

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
        guided = settings.guidance_scale > 1.0
        embeds = self._batch(conditions, (NEGATIVE, PROMPT))
        mask = self._batch(conditions, (NEGATIVE_MASK, PROMPT_MASK))
        clip = self._clip(unit, settings, conditions)
        steps = self._steps(clip)
        scheduler = deepcopy(self._scheduler)
        steps.space(scheduler, unit.steps, self._device)
        made = resume or Step(0, {LATENTS: noise(shape)})
        scheduler.set_begin_index(made.done)
        tokens = steps.begin(made.tensors[LATENTS].to(self._device))
        yield made

        for step, t in enumerate(scheduler.timesteps[made.done :], made.done + 1):
            tokens = steps.shown(tokens, t, noise, step)
            model_input = (torch.cat([tokens] * 2) if guided else tokens).to(self._transformer.dtype)
            (predicted,) = self._transformer(
                hidden_states=model_input,
                encoder_hidden_states=embeds,
                encoder_attention_mask=mask,
                **steps.told(t, len(model_input)),
                return_dict=False,
            )
            if steps.guided_in_float32:
                predicted = predicted.float()
            if guided:
                away, predicted = predicted.chunk(2)
                predicted = away + settings.guidance_scale * (predicted - away)
            tokens = steps.step(scheduler, predicted, t, tokens)
            tensors = {LATENTS: clip.unpacked(tokens[:, steps.beside :])}
            if step == unit.steps and self._noise_to_decode:
                tensors[DECODE] = noise(shape, DECODE)
            yield Step(step, tensors)

    def _clip(self, unit: Unit, settings: Settings, given: Tensors) -> Clip:
        images, config = image_latents(given, self._images), self._transformer.config
        return Clip(
            self.latent_shape(unit, settings),
            len(unit.frames),
            settings.fps,
            self._factor,
            (config.patch_size, config.patch_size_t),
            None if images is None else images.to(self._device),
        )

    def _batch(self, conditions: Tensors, names: Sequence[str]) -> torch.Tensor:
        """Of those that there are."""
        return torch.cat([conditions[name] for name in names if name in conditions]).to(self._device)

    def latent_shape(self, unit: Unit, settings: Settings) -> tuple[int, int, int, int, int]:
        """`[1, C, T, h, w]` of a unit. Raises ChunkError (InvalidRequest) where the model cannot make that size."""
        config = self._transformer.config
        require_multiples(settings, self._factor * config.patch_size)
        channels = config.in_channels // (config.patch_size**2 * config.patch_size_t)
        return (1, channels, len(unit.latents), settings.height // self._factor, settings.width // self._factor)


class Decoder:
    """The VAE. Each clip is decoded by itself and at once, so its sequences have no state."""

    def __init__(self, parts: Parts) -> None:
        _vae_config(parts)
        part = parts[ComponentName.VAE]
        self._vae = load_component(part, AutoencoderKLLTXVideo)
        self._device, self._dtype = part.device, part.dtype

    def start(self, unit: Unit, past: Sequence[Tensors]) -> None:
        """See `videojob.models.family.Decoder`."""

    @torch.inference_mode()
    def run(self, checkpoint: Tensors, state: None) -> Iterator[torch.Tensor]:
        """See `videojob.models.family.Decoder`: all frames at once."""
        latents = LTXPipeline._denormalize_latents(
            checkpoint[LATENTS].to(self._device),
            self._vae.latents_mean,
            self._vae.latents_std,
            self._vae.config.scaling_factor,
        ).to(self._dtype)
        timestep = None
        if self._vae.config.timestep_conditioning:
            # The pipeline's arithmetic: a scale in the model's dtype.
            scale = torch.tensor(DECODE_NOISE_SCALE, device=self._device, dtype=self._dtype)
            latents = (1 - scale) * latents + scale * checkpoint[DECODE].to(latents)
            timestep = torch.tensor([DECODE_TIMESTEP], device=self._device, dtype=self._dtype)
        yield self._vae.decode(latents, timestep, return_dict=False)[0].clamp(-1.0, 1.0)
