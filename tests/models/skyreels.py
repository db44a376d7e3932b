"""Windows of SkyReels-V2, and the same video in the pipeline's own loop."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.models.jobs import Model
from videojob.families import FAMILIES, Chunking, FamilyName, Shot, Unit, Video
from videojob.models.noise import Noise
from videojob.models.skyreels_v2 import ADDED_NOISE, CONDITION
from videojob.triton.wire import Settings

TEXT, AWAY = "a  cat &amp; a dog", "blurred"
FAMILY = FamilyName.SKYREELS_V2_DIFFUSION_FORCING
CHUNKING = Chunking(first=1, later=3, sink=1, window=5)
"""Windows of 5 latents, 17 frames, of which 2 (5 frames) are those of the window before."""
FRAMES = 37
"""10 latents: a window of 5, one that adds 3, one that adds 2."""


def units(*shots: Shot, steps: int = 3) -> Sequence[Unit]:
    return FAMILIES[FAMILY].plan(CHUNKING, Video(shots or (Shot(FRAMES),), 24, steps)).units


def whole_video(
    monkeypatch: pytest.MonkeyPatch, model: Model, settings: Settings, frames: int = FRAMES, **given: Any
) -> torch.Tensor:
    """Latents of the pipeline's own loop, with the noise that the family draws, and what else the pipeline is given."""
    plan = units(Shot(frames))
    noises = [Noise(settings.seed, 0, unit.index) for unit in plan]
    window = -1
    drawn: list[int] = []

    def randn_tensor(shape: tuple[int, ...], **_: Any) -> torch.Tensor:
        nonlocal window
        window += 1
        drawn.append(0)
        new = noises[window]((*shape[:2], len(plan[window].latents), *shape[3:]))
        return torch.cat([torch.full((*shape[:2], shape[2] - new.shape[2], *shape[3:]), torch.nan), new], dim=2)

    def randn_like(tensor: torch.Tensor) -> torch.Tensor:
        drawn[window] += 1
        return noises[window](tuple(tensor.shape), CONDITION, drawn[window]).to(tensor)

    monkeypatch.setattr(f"{type(model.pipeline).__module__}.randn_tensor", randn_tensor)
    monkeypatch.setattr(torch, "randn_like", randn_like)
    latents: torch.Tensor = model.pipeline(
        prompt=TEXT,
        negative_prompt=AWAY,
        height=settings.height,
        width=settings.width,
        num_frames=frames,
        num_inference_steps=plan[0].steps,
        guidance_scale=settings.guidance_scale,
        overlap_history=5,
        addnoise_condition=ADDED_NOISE,
        base_num_frames=17,
        fps=settings.fps,
        output_type="latent",
        **given,
    ).frames
    monkeypatch.undo()
    # The pipeline draws for what a window begins with: an overlap, or an image.
    assert drawn == [plan[0].steps if given or unit.index else 0 for unit in plan]
    return latents
