"""The transformers of Wan's pipelines, one or two of them, and the scheduler that they make the steps of a clip with.

From which timestep on the second one takes over is the folder's affair, and so is the scheduler with its shift, where
the model names no other.

Source: diffusers 0.42.1 `pipeline_wan.py`.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, UniPCMultistepScheduler

from videojob.families import ComponentName, FamilyName, Unit
from videojob.models.adapters import Adapters
from videojob.models.experts import Experts
from videojob.models.family import Step
from videojob.models.guidance import guided
from videojob.models.history import LATENTS
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import NEGATIVE, PROMPT, load, read_index
from videojob.models.schedulers import checked, remembered, restore, sampler, step, take_steps
from videojob.models.tensors import Tensors
from videojob.models.wan_images import Beginning
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import Settings

RENOISED: Final = "renoised"
"""The noise that a scheduler adds after a step."""


def whole_index(directory: Path, family: FamilyName, *pipelines: type) -> Mapping[str, Any]:
    """The folder's index. Raises ValueError where it has one transformer of two, or nothing says when they change.

    Also where none of these pipelines wrote it, as `read_index` does.
    """
    index = read_index(directory, family, *pipelines)
    ratio, second = index.get("boundary_ratio"), any(index.get(ComponentName.TRANSFORMER_2) or ())
    if second and ratio is None:
        raise ValueError(
            f"{directory} has a transformer_2, but its model_index.json has no boundary_ratio, which says at which "
            "timestep that takes over: set it (Wan 2.2 T2V A14B has 0.875), or remove transformer_2."
        )
    if ratio is not None and not (second and any(index.get(ComponentName.TRANSFORMER) or ())):
        raise ValueError(
            f"{directory} has a boundary_ratio, but not both transformers: the family {family} serves whole pipelines, "
            "which make all steps of a clip. Bring transformer and transformer_2 into one folder."
        )
    return index


class Transformers:
    """One transformer or two, with their adapters, and the scheduler. On an accelerator one of the two is there."""

    def __init__(
        self, parts: Parts, family: FamilyName, pipeline: Any, index: Mapping[str, Any], *beside: ComponentName
    ) -> None:
        """Load them, and the components `beside` them, as a pipeline of that class. The index is a whole one."""
        second = any(index.get(ComponentName.TRANSFORMER_2) or ())
        names = (ComponentName.TRANSFORMER, ComponentName.TRANSFORMER_2)[: 1 + second]
        self.pipeline = load(parts, family, pipeline, *names, *beside, resting=names[1:], index=index)
        modules = {name: getattr(self.pipeline, name) for name in names}
        self.config = modules[ComponentName.TRANSFORMER].config
        self.device = parts[ComponentName.TRANSFORMER].device
        self._experts = Experts([*modules.values()], [parts[name].device for name in names])
        self._adapters = Adapters(self.pipeline, parts.adapters, modules)
        self._sampling = parts.sampling
        self._scheduler = checked(
            parts.directory,
            family,
            sampler(parts.sampling) if parts.sampling else self.pipeline.scheduler,
            UniPCMultistepScheduler,
            FlowMatchEulerDiscreteScheduler,
            FlowMatchLCMScheduler,
        )
        ratio = self.pipeline.config.boundary_ratio
        self._boundary = None if ratio is None else ratio * self._scheduler.config.num_train_timesteps

    def steps(
        self, unit: Unit, settings: Settings, conditions: Tensors, beginning: Beginning, noise: Noise, made: Step
    ) -> Iterator[Step]:
        """Make a clip from `made` on, which comes first: see `videojob.models.family.Generator`.

        Its latents `[1, C, T, h, w]` are in the dtype of the sampler, which is float32 with UniPC. Raises ChunkError
        (InvalidRequest) where guidance is for a second transformer that is not there.
        """
        scales = self._scales(settings)
        embeds = [conditions[name] for name in (PROMPT, NEGATIVE) if name in conditions]
        scheduler = deepcopy(self._scheduler)  # as loaded: it remembers the unit before
        take_steps(scheduler, unit, self._sampling, self.device)
        scheduler.set_begin_index(made.done)
        restore(scheduler, made.tensors, self.device)
        latents = made.tensors[LATENTS].to(self.device)
        yield made

        for number, t in enumerate(scheduler.timesteps[made.done :], made.done + 1):
            second = self._boundary is not None and bool(t < self._boundary)
            expert, scale = self._experts[int(second)], scales[int(second)]
            hidden, timestep = beginning.shown(latents), beginning.timestep(t, latents)
            self._adapters.choose(settings.adapters)  # here: another unit may be made in between
            # The pipeline's arithmetic: the prediction and its guidance in the model's dtype, the step in float32.
            predicted = guided(partial(_predict, expert, hidden, timestep, beginning.further), embeds, scale)
            latents = step(scheduler, predicted.to(self.device), t, latents, noise.generator(RENOISED, number))
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


def _predict(
    expert: Any, hidden: torch.Tensor, timestep: torch.Tensor, further: Tensors, embeds: torch.Tensor
) -> torch.Tensor:
    """In the expert's dtype."""
    predicted: torch.Tensor
    (predicted,) = expert(
        hidden_states=hidden.to(expert.device, expert.dtype),
        timestep=timestep.to(expert.device),
        encoder_hidden_states=embeds.to(expert.device, expert.dtype),
        **{name: tensor.to(expert.device, expert.dtype) for name, tensor in further.items()},
        return_dict=False,
    )
    return predicted
