"""Wan text-to-video: each shot one clip, over the classes of diffusers' `WanPipeline`.

Wan 2.1 T2V (1.3B and 14B), and Wan 2.2 TI2V-5B from text alone. Latents and frames are the pipeline's, bit for bit, for
the same noise. What the folder pins is taken as it is: the scheduler with its shift, and whether each token has a
timestep of its own.

Sources: Wan (arXiv:2503.20314), UniPC (arXiv:2302.04867), diffusers 0.42.1 `pipeline_wan.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
)

from videojob.families import ComponentName, FamilyName, Unit
from videojob.models.family import Conditioning, Step
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import PromptEncoder, load, read_index
from videojob.models.tensors import Tensors
from videojob.models.wan_vae import StreamingVAE
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import Settings

PROMPT: Final = "prompt_embeds"
"""Of the conditions: `[1, L, D]`."""
NEGATIVE: Final = "negative_prompt_embeds"
"""Of the conditions, with guidance: `[1, L, D]`."""
LATENTS: Final = "latents"
"""A unit's checkpoint: `[1, C, T, h, w]`, in the dtype of the sampler, which is float32 with UniPC."""

_MEMORY: Final[Mapping[type, tuple[str, ...]]] = {
    UniPCMultistepScheduler: ("model_outputs", "timestep_list", "last_sample", "lower_order_nums", "this_order"),
    FlowMatchEulerDiscreteScheduler: (),
}
"""What the known schedulers take from one step to the next, beside the step's number."""


def _check_folder(directory: Path) -> None:
    index = read_index(directory, FamilyName.WAN, WanPipeline)
    if index.get("boundary_ratio") is not None or any(index.get("transformer_2") or ()):
        raise ValueError(
            f"{directory} has a second transformer for the last steps, as Wan 2.2 A14B has; the family Wan serves "
            "pipelines of one: Wan 2.1 T2V and Wan 2.2 TI2V-5B."
        )


def _pipeline(parts: Parts, wanted: ComponentName) -> Any:
    _check_folder(parts.directory)
    return load(parts, FamilyName.WAN, WanPipeline, wanted)


class Conditioner:
    """The pipeline's text encoder."""

    def __init__(self, parts: Parts) -> None:
        self._encoder = PromptEncoder(_pipeline(parts, ComponentName.TEXT_ENCODER))

    def encode(self, conditioning: Conditioning) -> Tensors:
        """See `videojob.models.family.Conditioner`."""
        conditions = {PROMPT: self._encoder.embeds(conditioning.prompt)}
        if conditioning.negative_prompt is not None:
            conditions[NEGATIVE] = self._encoder.embeds(conditioning.negative_prompt, "negative prompt")
        return conditions


class Generator:
    """The transformer, two passes a step with guidance, and the folder's scheduler. Its sequences have no state."""

    def __init__(self, parts: Parts) -> None:
        pipeline = _pipeline(parts, ComponentName.TRANSFORMER)
        self._transformer = pipeline.transformer
        self._scheduler = _checked(parts.directory, pipeline.scheduler)
        self._timestep_per_token = pipeline.config.expand_timesteps
        # Folders from before there was a factor to configure have 8.
        vae = AutoencoderKLWan.load_config(parts[ComponentName.VAE].directory, local_files_only=True)
        self._factor = vae.get("scale_factor_spatial", 8)
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
        shape, dtype = self.latent_shape(unit, settings), self._transformer.dtype
        prompt = conditions[PROMPT].to(self._device, dtype)
        negative = conditions[NEGATIVE].to(self._device, dtype) if settings.guidance_scale > 1.0 else None
        scheduler = deepcopy(self._scheduler)  # as loaded: it remembers the unit before
        scheduler.set_timesteps(unit.steps, device=self._device)
        made = resume or Step(0, {LATENTS: noise(shape)})
        scheduler.set_begin_index(made.done)
        _restore(scheduler, made.tensors, self._device)
        latents = made.tensors[LATENTS].to(self._device)
        yield made

        for step, t in enumerate(scheduler.timesteps[made.done :], made.done + 1):
            timestep = self._timestep(t, shape)
            # The pipeline's arithmetic: the prediction and its guidance in the model's dtype, the step in float32.
            predicted = self._predict(latents.to(dtype), timestep, prompt)
            if negative is not None:
                away = self._predict(latents.to(dtype), timestep, negative)
                predicted = away + settings.guidance_scale * (predicted - away)
            latents = scheduler.step(predicted, t, latents, return_dict=False)[0]
            yield Step(step, {LATENTS: latents, **(_remembered(scheduler) if step < unit.steps else {})})

    def _predict(self, latents: torch.Tensor, timestep: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        predicted: torch.Tensor
        (predicted,) = self._transformer(
            hidden_states=latents, timestep=timestep, encoder_hidden_states=embeds, return_dict=False
        )
        return predicted

    def _timestep(self, t: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """`[1]`, or float32 `[1, N]`: the same for each of the N tokens, none of which is an image's."""
        if not self._timestep_per_token:
            return t.expand(1)
        across_time, down, across = self._transformer.config.patch_size
        tokens = (shape[2] // across_time) * (shape[3] // down) * (shape[4] // across)
        return t.to(torch.float32).expand(1, tokens)

    def latent_shape(self, unit: Unit, settings: Settings) -> tuple[int, int, int, int, int]:
        """`[1, C, T, h, w]` of a unit. Raises ChunkError (InvalidRequest) where the model cannot make that size."""
        config, height, width = self._transformer.config, settings.height, settings.width
        multiple = self._factor * config.patch_size[1]
        if height % multiple or width % multiple or min(height, width) < multiple:
            raise ChunkError(
                ErrorCode.INVALID_REQUEST,
                f"Width and height must be multiples of {multiple}, not {width} x {height}.",
            )
        return (1, config.in_channels, len(unit.latents), height // self._factor, width // self._factor)


class Decoder:
    """The VAE. Each clip begins with an empty feature cache, so its sequences have no state."""

    def __init__(self, parts: Parts) -> None:
        _check_folder(parts.directory)
        self._vae = StreamingVAE(parts[ComponentName.VAE])

    def start(self, unit: Unit, past: Sequence[Tensors]) -> None:
        """See `videojob.models.family.Decoder`."""

    def run(self, checkpoint: Tensors, state: None) -> Iterator[torch.Tensor]:
        """See `videojob.models.family.Decoder`: the frames of one latent at a time."""
        return self._vae.decode(checkpoint[LATENTS], self._vae.new_cache())


def _checked(directory: Path, scheduler: Any) -> Any:
    """The scheduler, where a unit that is made with it can go on after any step, as if it had never stopped."""
    if type(scheduler) not in _MEMORY or scheduler.config.get("stochastic_sampling"):
        known = " or ".join(each.__name__ for each in _MEMORY)
        raise ValueError(
            f"{directory} samples with {type(scheduler).__name__}; the family Wan serves {known}, without "
            "stochastic_sampling: it knows what they remember between steps."
        )
    return scheduler


def _remembered(scheduler: Any) -> Tensors:
    """What the scheduler takes to its next step, by name: items of lists as `NAME.INDEX`, numbers as int64 scalars."""
    kept: dict[str, torch.Tensor] = {}
    for name in _MEMORY[type(scheduler)]:
        match getattr(scheduler, name):
            case list() as items:
                kept |= {f"{name}.{index}": item for index, item in enumerate(items) if item is not None}
            case value:
                kept[name] = torch.as_tensor(value)
    return kept


def _restore(scheduler: Any, kept: Tensors, device: torch.device) -> None:
    """Have the scheduler remember it again, after `set_timesteps`."""
    for key, tensor in kept.items():
        name, _, index = key.partition(".")
        if name not in _MEMORY[type(scheduler)]:
            continue
        if index:
            getattr(scheduler, name)[int(index)] = tensor.to(device)
        else:
            setattr(scheduler, name, tensor.to(device) if tensor.ndim else tensor.item())
