"""Wan VACE: a long video clip by clip, each from the last frames of the one before, over `WanVACEPipeline`.

Wan 2.1 VACE (1.3B and 14B), and folders of two transformers, as VACE-Fun of Wan 2.2. VACE makes what a mask leaves
open. The first clip of a stream is open everywhere. In a later one the first frames are given and closed: the last ones
of the clip before, as a viewer saw them, in uint8. Where that clip added fewer than it takes, the earliest of them are
that clip's own copy of what it was given. Latents and frames are those of the pipeline called so for each clip, bit for
bit, for the same noise; the frames that were given come out of it too, and are left out.

The pipeline conditions on frames, so the stage that denoises holds the VAE as well, a second copy of its weights.
Before a clip it decodes the one before, which the decoder's stage does too, and it encodes two videos of the clip's
length: what is given and what is open. A checkpoint has latents alone, so a sequence can start with any clip.

`conditioning_scale` is the pipeline's own, 1. Reference images are not served.

Sources: VACE (arXiv:2503.07598), diffusers 0.42.1 `pipeline_wan_vace.py`.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLWan, WanVACEPipeline

from videojob.families import ComponentName, FamilyName, Unit
from videojob.families.cuts import frames_of
from videojob.models.family import Step
from videojob.models.frames import to_uint8
from videojob.models.history import LATENTS, History, needed, remember, require_size, started
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import PromptConditioner, load, load_component
from videojob.models.sizes import latent_shape
from videojob.models.tensors import Tensors
from videojob.models.wan_images import Beginning
from videojob.models.wan_transformers import Transformers, whole_index
from videojob.models.wan_vae import StreamingVAE
from videojob.triton.wire import Settings

_Frames = npt.NDArray[np.float32]
"""Of a video, `[1, F, H, W, C]` in 0..1: what the pipeline takes."""


def _index(directory: Path) -> Mapping[str, Any]:
    return whole_index(directory, FamilyName.WAN_VACE, WanVACEPipeline)


class Conditioner(PromptConditioner):
    """The pipeline's text encoder."""

    def __init__(self, parts: Parts) -> None:
        _index(parts.directory)
        super().__init__(load(parts, FamilyName.WAN_VACE, WanVACEPipeline, ComponentName.TEXT_ENCODER))


class Generator:
    """One transformer or two, two passes a step with guidance, and the VAE. Its state: latents of the clip before.

    A checkpoint has all latents of its clip, also those of the frames that it went on from, in the dtype of the
    sampler, which is float32 with UniPC.
    """

    def __init__(self, parts: Parts) -> None:
        family, index = FamilyName.WAN_VACE, _index(parts.directory)
        self._transformers = Transformers(parts, family, WanVACEPipeline, index, ComponentName.VAE)
        self._pipeline = self._transformers.pipeline
        self._vae = StreamingVAE(self._pipeline.vae)

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
        shape = self.latent_shape(unit, settings)
        require_size(state, shape)
        control = self._control(unit, settings, needed(state, unit))
        beginning = Beginning(further={"control_hidden_states": control})
        begun = resume or Step(0, {LATENTS: noise(shape)})
        for made in self._transformers.steps(unit, settings, conditions, beginning, noise, begun):
            yield made
        remember(state, unit, made.tensors[LATENTS])

    def _control(self, unit: Unit, settings: Settings, before: torch.Tensor | None) -> torch.Tensor:
        """What is given of the clip, what is open, and the mask, `[1, 2 C + 64, T, h, w]`: the pipeline's own work."""
        height, width, frames = settings.height, settings.width, self._frames(len(unit.latents))
        given = None if before is None else self._last_frames(before, unit.history)
        video, mask, references = self._pipeline.preprocess_conditions(
            video=None if given is None else _beginning_with(given, frames, 0.5),  # grey, which is 0 in -1..1
            mask=None if given is None else _beginning_with(np.zeros_like(given[..., :1]), frames, 1.0),
            height=height,
            width=width,
            num_frames=frames,
            dtype=torch.float32,
            device=self._vae.device,
        )
        latents = self._pipeline.prepare_video_latents(video, mask, references, device=self._vae.device)
        return torch.cat([latents, self._pipeline.prepare_masks(mask, references)], dim=1)

    def _last_frames(self, latents: torch.Tensor, history: int) -> _Frames:
        """The last frames of a clip of these latents, as many as `history` latents make."""
        parts = deque(self._vae.decode(latents, self._vae.new_cache()), maxlen=history)
        frames = to_uint8(torch.cat([*parts], dim=2))[-self._frames(history) :]
        return frames.cpu().numpy().astype(np.float32)[None] / np.float32(255)

    def _frames(self, latents: int) -> int:
        return frames_of(latents, self._pipeline.vae_scale_factor_temporal)

    def latent_shape(self, unit: Unit, settings: Settings) -> tuple[int, int, int, int, int]:
        """See `videojob.models.sizes.latent_shape`."""
        return latent_shape(unit, settings, self._transformers.config, self._pipeline.vae_scale_factor_spatial)


class Decoder:
    """The VAE. Each clip is decoded by itself. Its state: how many latents' frames are left out, as not new."""

    def __init__(self, parts: Parts) -> None:
        _index(parts.directory)
        self._vae = StreamingVAE(load_component(parts[ComponentName.VAE], AutoencoderKLWan))

    def start(self, unit: Unit, past: Sequence[Tensors]) -> int:
        """See `videojob.models.family.Decoder`."""
        return unit.history

    def run(self, checkpoint: Tensors, state: int) -> Iterator[torch.Tensor]:
        """See `videojob.models.family.Decoder`: the frames of one latent at a time."""
        return islice(self._vae.decode(checkpoint[LATENTS], self._vae.new_cache()), state, None)


def _beginning_with(given: _Frames, frames: int, rest: float) -> _Frames:
    """So many frames: those that are given, and others of which every value is `rest`."""
    missing = np.full((1, frames - given.shape[1], *given.shape[2:]), rest, np.float32)
    return np.concatenate([given, missing], axis=1)
