"""What schedulers of diffusers take from one step to the next, so that a unit goes on from any of its steps.

A few-step checkpoint is good for one ladder of timesteps. Wan's pipelines take none: it comes from the scheduler's
class and shift, and the same number of steps is another ladder with another class. DMD students (FastWan, CausVid) have
a list of their own, and new noise between its steps: at timestep t they see (1 - t / 1000) x + t / 1000 noise.
FastVideo looks t / 1000 up in a table of 1000 shifted values, and takes the nearest.

Sources: UniPC (arXiv:2302.04867), DMD2 (arXiv:2405.14867), FastVideo `denoising_dmd_strategy.py`, diffusers 0.42.1
`scheduling_unipc_multistep.py`, `scheduling_flow_match_euler_discrete.py`, `scheduling_flow_match_lcm.py` and
`scheduling_helios.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, HeliosScheduler, UniPCMultistepScheduler
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift

from videojob.families import FamilyName, SamplerName, Unit
from videojob.models.tensors import Tensors
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.settings import Sampling

_UNIPC = ("model_outputs", "timestep_list", "last_sample", "lower_order_nums", "this_order")
_MEMORY: Final[Mapping[type, tuple[str, ...]]] = {
    UniPCMultistepScheduler: _UNIPC,
    HeliosScheduler: ("_step_index", *_UNIPC),  # it heeds no begin index
    FlowMatchEulerDiscreteScheduler: (),
    FlowMatchLCMScheduler: (),
}
"""What the known schedulers remember, beside the step's number."""


def sampler(sampling: Sampling) -> Any:
    """The scheduler of that name. With timesteps of its own it has no shift: they are where the sigmas are."""
    match sampling.scheduler:
        case SamplerName.UNIPC:
            return UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=sampling.shift
            )
        case SamplerName.FLOW_MATCH_EULER:
            return FlowMatchEulerDiscreteScheduler(shift=sampling.shift)
        case SamplerName.FLOW_MATCH_LCM:
            return FlowMatchLCMScheduler(shift=1.0 if sampling.timesteps else sampling.shift)


def take_steps(scheduler: Any, unit: Unit, sampling: Sampling | None, device: torch.device) -> None:
    """Have the scheduler space the unit's steps. Raises ChunkError (InvalidRequest) where it has another number."""
    timesteps = sampling.timesteps if sampling else ()
    if not timesteps:
        scheduler.set_timesteps(unit.steps, device=device)
    elif len(timesteps) == unit.steps:
        scheduler.set_timesteps(timesteps=list(timesteps), device=device)
    else:
        raise ChunkError(
            ErrorCode.INVALID_REQUEST, f"The model has {len(timesteps)} timesteps, so it makes no {unit.steps} steps."
        )


def step(
    scheduler: Any, predicted: torch.Tensor, t: torch.Tensor, latents: torch.Tensor, drawn: torch.Generator
) -> torch.Tensor:
    """The latents after a step from t; a scheduler that adds noise has it from `drawn`."""
    noise = {"generator": drawn} if isinstance(scheduler, FlowMatchLCMScheduler) else {}
    made: torch.Tensor = scheduler.step(predicted, t, latents, return_dict=False, **noise)[0]
    return made


def checked(directory: Path, family: FamilyName, scheduler: Any, *served: type) -> Any:
    """The scheduler, where a unit that is made with it can go on after any step, as if it had never stopped.

    Raises ValueError where it is none of `served`, all of which are known here, or draws noise of its own.
    """
    if type(scheduler) not in served or scheduler.config.get("stochastic_sampling"):
        *others, last = (each.__name__ for each in served)
        known = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(
            f"{directory} samples with {type(scheduler).__name__}; the family {family} serves {known}, without "
            "stochastic_sampling: it knows what they remember between steps."
        )
    return scheduler


def dynamic_shift(scheduler: Any, tokens: int) -> float:
    """The shift for so many tokens, as the scheduler's folder configures it: `mu` of its `set_timesteps`."""
    config = scheduler.config
    mu: float = calculate_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    return mu


def remembered(scheduler: Any) -> Tensors:
    """What the scheduler takes to its next step, by name: items of lists as `NAME.INDEX`, numbers as int64 scalars."""
    kept: dict[str, torch.Tensor] = {}
    for name in _MEMORY[type(scheduler)]:
        match getattr(scheduler, name, None):
            case None:
                pass
            case list() as items:
                kept |= {f"{name}.{index}": item for index, item in enumerate(items) if item is not None}
            case value:
                kept[name] = torch.as_tensor(value)
    return kept


def restore(scheduler: Any, kept: Tensors, device: torch.device) -> None:
    """Have the scheduler remember it again, after `set_timesteps`. What is not of its memory counts for nothing."""
    for key, tensor in kept.items():
        name, _, index = key.partition(".")
        if name not in _MEMORY[type(scheduler)]:
            continue
        if index:
            getattr(scheduler, name)[int(index)] = tensor.to(device)
        else:
            setattr(scheduler, name, tensor.to(device) if tensor.ndim else tensor.item())
