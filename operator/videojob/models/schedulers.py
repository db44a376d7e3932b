"""What schedulers of diffusers take from one step to the next, so that a unit goes on from any of its steps.

Sources: UniPC (arXiv:2302.04867), diffusers 0.42.1 `scheduling_unipc_multistep.py` and
`scheduling_flow_match_euler_discrete.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from videojob.families import FamilyName
from videojob.models.tensors import Tensors

_MEMORY: Final[Mapping[type, tuple[str, ...]]] = {
    UniPCMultistepScheduler: ("model_outputs", "timestep_list", "last_sample", "lower_order_nums", "this_order"),
    FlowMatchEulerDiscreteScheduler: (),
}
"""What the known schedulers remember, beside the step's number."""


def checked(directory: Path, family: FamilyName, scheduler: Any, *served: type) -> Any:
    """The scheduler, where a unit that is made with it can go on after any step, as if it had never stopped.

    Raises ValueError where it is none of `served`, all of which are known here, or draws noise of its own.
    """
    if type(scheduler) not in served or scheduler.config.get("stochastic_sampling"):
        known = " or ".join(each.__name__ for each in served)
        raise ValueError(
            f"{directory} samples with {type(scheduler).__name__}; the family {family} serves {known}, without "
            "stochastic_sampling: it knows what they remember between steps."
        )
    return scheduler


def remembered(scheduler: Any) -> Tensors:
    """What the scheduler takes to its next step, by name: items of lists as `NAME.INDEX`, numbers as int64 scalars."""
    kept: dict[str, torch.Tensor] = {}
    for name in _MEMORY[type(scheduler)]:
        match getattr(scheduler, name):
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
