"""How the pipelines of LTX-Video make their steps, over tokens, the first of which may be those of images.

`LTXImageToVideoPipeline` keeps the latents of an image as they are; without an image its steps are those of
`LTXPipeline`. `LTXConditionPipeline` has another ladder of timesteps. Before each step it adds noise to the latents of
images, less as t goes down (`image_cond_noise_scale`, here its default), and a last image is no part of the clip: its
tokens stand before those of the clip, with the position of the clip's last frame.

Source: diffusers 0.42.1 `pipeline_ltx.py`, `pipeline_ltx_image2video.py` and `pipeline_ltx_condition.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import torch
from diffusers import LTXConditionPipeline, LTXPipeline
from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule

from videojob.models.noise import Noise
from videojob.models.schedulers import dynamic_shift

FRAMES_PER_LATENT: Final = 8
IMAGE_NOISE_SCALE: Final = 0.15
IMAGE_NOISE: Final = "image"
"""Name of the noise that is added to the latents of images, at each step."""


@dataclass(frozen=True)
class Clip:
    """A clip that is made."""

    shape: tuple[int, int, int, int, int]
    """Of its latents, `[1, C, T, h, w]`."""
    frames: int
    fps: float
    factor: int
    """Pixels of a latent's side."""
    patch: tuple[int, int]
    """Of a token in latents: of its side, and in time."""
    images: torch.Tensor | None
    """The latents of the first image and, if there is one, of the last, float32 `[1, C, n, h, w]`."""

    def packed(self, latents: torch.Tensor) -> torch.Tensor:
        """Tokens `[1, S, D]` of latents `[1, C, T, h, w]`."""
        packed: torch.Tensor = LTXPipeline._pack_latents(latents, *self.patch)
        return packed

    def unpacked(self, tokens: torch.Tensor) -> torch.Tensor:
        """The clip's latents of its tokens."""
        side, duration = self.patch
        time, height, width = self.shape[2] // duration, *(each // side for each in self.shape[3:])
        unpacked: torch.Tensor = LTXPipeline._unpack_latents(tokens, time, height, width, side, duration)
        return unpacked.contiguous()

    def joined(self, images: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        """All tokens of the clip, those of an image first, in memory as `packed` has them.

        That is the pipelines' order: last bits of a product in bfloat16 depend on it.
        """
        return self.packed(self.unpacked(torch.cat([images, rest], dim=1)))


class Steps(Protocol):
    """The steps of one clip."""

    guided_in_float32: ClassVar[bool]
    """Whether the prediction is converted before its guidance."""
    beside: int
    """Tokens that are no part of the clip, before those that are."""

    def __init__(self, clip: Clip) -> None: ...

    def space(self, scheduler: Any, steps: int, device: torch.device) -> None:
        """Have the scheduler space so many."""
        ...

    def begin(self, latents: torch.Tensor) -> torch.Tensor:
        """Tokens `[1, S, D]` of latents `[1, C, T, h, w]`, with those of the images."""
        ...

    def shown(self, tokens: torch.Tensor, t: torch.Tensor, noise: Noise, number: int) -> torch.Tensor:
        """The tokens that the step of that number begins with."""
        ...

    def told(self, t: torch.Tensor, batch: int) -> Mapping[str, Any]:
        """What the transformer is told of timesteps and positions."""
        ...

    def step(self, scheduler: Any, predicted: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The tokens after the step."""
        ...


class KeptImage:
    """As `LTXPipeline` and `LTXImageToVideoPipeline`. The shift may depend on the number of latents."""

    guided_in_float32: ClassVar[bool] = True

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self.beside = 0
        self._kept = 0 if clip.images is None else clip.packed(clip.images).shape[1]

    def space(self, scheduler: Any, steps: int, device: torch.device) -> None:
        """See `Steps`."""
        _, _, time, height, width = self._clip.shape
        mu = dynamic_shift(scheduler, time * height * width)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), device=device, mu=mu)

    def begin(self, latents: torch.Tensor) -> torch.Tensor:
        """See `Steps`."""
        images = self._clip.images
        return self._clip.packed(latents if images is None else torch.cat([images, latents[:, :, 1:]], dim=2))

    def shown(self, tokens: torch.Tensor, t: torch.Tensor, noise: Noise, number: int) -> torch.Tensor:
        """See `Steps`."""
        return tokens

    def told(self, t: torch.Tensor, batch: int) -> Mapping[str, Any]:
        """See `Steps`."""
        _, _, time, height, width = self._clip.shape
        timestep = t.expand(batch)
        if self._kept:
            timestep = timestep.unsqueeze(-1) * _noisy(self._clip, self._kept, 0, t.device)
        return {
            "timestep": timestep,
            "num_frames": time,
            "height": height,
            "width": width,
            "rope_interpolation_scale": (FRAMES_PER_LATENT / self._clip.fps, self._clip.factor, self._clip.factor),
        }

    def step(self, scheduler: Any, predicted: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """See `Steps`."""
        kept = self._kept
        stepped: torch.Tensor = scheduler.step(predicted[:, kept:], t, tokens[:, kept:], return_dict=False)[0]
        return self._clip.joined(tokens[:, :kept], stepped) if kept else stepped


class NoisedImages:
    """As `LTXConditionPipeline`, with images of strength 1. Each token has a timestep: 0 for those of images."""

    guided_in_float32: ClassVar[bool] = False

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        images = [] if clip.images is None else [clip.packed(image) for image in torch.split(clip.images, 1, dim=2)]
        self._images = torch.cat(images[::-1], dim=1) if images else None
        self.beside = sum(last.shape[1] for last in images[1:])
        self._kept = 0 if self._images is None else self._images.shape[1]

    def space(self, scheduler: Any, steps: int, device: torch.device) -> None:
        """See `Steps`."""
        scheduler.set_timesteps(timesteps=linear_quadratic_schedule(steps) * 1000, device=device)

    def begin(self, latents: torch.Tensor) -> torch.Tensor:
        """See `Steps`."""
        tokens = self._clip.packed(latents)
        return tokens if self._images is None else self._joined(self._images, tokens[:, self._kept - self.beside :])

    def shown(self, tokens: torch.Tensor, t: torch.Tensor, noise: Noise, number: int) -> torch.Tensor:
        """See `Steps`."""
        if self._images is None:
            return tokens
        drawn = noise((*self._images.shape,), IMAGE_NOISE, number).to(tokens)
        noised = self._images + IMAGE_NOISE_SCALE * drawn * ((t / 1000.0) ** 2)
        return self._joined(noised, tokens[:, self._kept :])

    def told(self, t: torch.Tensor, batch: int) -> Mapping[str, Any]:
        """See `Steps`."""
        positions = self._positions(t.device)
        return {
            "timestep": self._timestep(t).expand(batch, -1),
            "video_coords": positions.expand(batch, -1, -1),
        }

    def step(self, scheduler: Any, predicted: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """See `Steps`."""
        of_token = self._timestep(t)
        stepped: torch.Tensor = scheduler.step(-predicted, t, tokens, per_token_timesteps=of_token, return_dict=False)[
            0
        ]
        return self._joined(tokens[:, : self._kept], stepped[:, self._kept :]) if self._kept else stepped

    def _joined(self, images: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        return torch.cat([images, rest], dim=1) if self.beside else self._clip.joined(images, rest)

    def _timestep(self, t: torch.Tensor) -> torch.Tensor:
        """Float32 `[1, S]`, or `[1, 1]` without an image."""
        timestep = t.reshape(1, 1).float()
        if self._images is None:
            return timestep
        return torch.min(timestep, _noisy(self._clip, self._kept, self.beside, t.device) * 1000.0)

    def _positions(self, device: torch.device) -> torch.Tensor:
        """Seconds, and pixels down and across, float32 `[1, 3, S]`."""
        last = [self._positions_of(1, self._clip.frames - 1, device)] if self.beside else []
        positions = torch.cat([*last, self._positions_of(self._clip.shape[2], 0, device)], dim=2).float()
        positions[:, 0] = positions[:, 0] * (1.0 / self._clip.fps)
        return positions

    def _positions_of(self, time: int, frame: int, device: torch.device) -> torch.Tensor:
        """Of so many latents that begin with that frame."""
        *_, height, width = self._clip.shape
        ids = LTXConditionPipeline._prepare_video_ids(1, time, height, width, *self._clip.patch, device)
        scaled: torch.Tensor = LTXConditionPipeline._scale_video_ids(
            ids, self._clip.factor, FRAMES_PER_LATENT, frame, device
        )
        return scaled


def _noisy(clip: Clip, kept: int, beside: int, device: torch.device) -> torch.Tensor:
    """Float32 `[1, S]`: 0 for tokens of images, else 1."""
    side, duration = clip.patch
    _, _, time, height, width = clip.shape
    noisy = torch.ones((1, beside + (time // duration) * (height // side) * (width // side)), device=device)
    noisy[:, :kept] = 0
    return noisy
