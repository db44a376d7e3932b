"""Adapters: low-rank weights (LoRA) that are added to a transformer's for the units of jobs that name them.

All are loaded with the model, and none is merged into its weights: without adapters a unit is made by the very weights
that were loaded, whatever the unit before it had.

Sources: LoRA (arXiv:2106.09685), diffusers 0.42.1 `loaders/lora_pipeline.py`, which knows the formats in which others
publish them (lightx2v, CausVid and more), peft.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from safetensors import SafetensorError

from videojob.families import ComponentName
from videojob.triton import settings
from videojob.triton.contract import ChunkError, ErrorCode


class Adapters:
    """Those of a pipeline's transformers."""

    def __init__(self, pipeline: Any, adapters: settings.Adapters, modules: Mapping[ComponentName, Any]) -> None:
        """Load them. Raises ValueError where one does not fit."""
        self._modules = modules
        # Names are people's; peft takes no dots in its own.
        self._known = {one.name: (f"adapter{number}", one) for number, one in enumerate(adapters)}
        self._chosen: Sequence[str] | None = None
        for own, adapter in self._known.values():
            _load(pipeline, own, adapter, modules)
        self._adapted = {adapter.component for adapter in adapters}

    def choose(self, names: Sequence[str]) -> None:
        """What is made from here on is made with these, added in this order. Raises ChunkError (InvalidRequest)."""
        if names == self._chosen:
            return
        if unknown := [name for name in names if name not in self._known]:
            known = ", ".join(self._known) or "none"
            raise ChunkError(
                ErrorCode.INVALID_REQUEST, f"The model has no adapter {', '.join(unknown)}. It has {known}."
            )
        self._chosen = None
        for component in self._adapted:
            module = self._modules[component]
            chosen = [self._known[name] for name in names if self._known[name][1].component is component]
            if chosen:
                module.enable_lora()
                module.set_adapters([own for own, _ in chosen], [adapter.scale for _, adapter in chosen])
            else:
                module.disable_lora()
        self._chosen = tuple(names)


def _load(pipeline: Any, own: str, adapter: settings.Adapter, modules: Mapping[ComponentName, Any]) -> None:
    """Raises ValueError where it is no adapter, or of another model: diffusers would leave out what does not fit."""
    file = adapter.file()
    if adapter.component not in modules:
        raise ValueError(f"The adapter {adapter.name} is for {adapter.component}, which this model does not have.")
    try:
        weights = pipeline.lora_state_dict(str(file.parent), weight_name=file.name, local_files_only=True)
        second = adapter.component is ComponentName.TRANSFORMER_2
        with warnings.catch_warnings():
            # That there are several is what is wanted.
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            pipeline.load_lora_weights(weights, adapter_name=own, load_into_transformer_2=second)
    except (ValueError, RuntimeError, KeyError, IndexError, TypeError, OSError, SafetensorError) as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"The adapter {adapter.name} ({file}) does not fit: {why}") from error
    module = modules[adapter.component]
    loaded = sum(1 for name, _ in module.named_parameters() if f".{own}." in name and ".lora_" in name)
    wanted = sum(1 for name in weights if ".lora_" in name)
    if loaded != wanted:
        raise ValueError(
            f"The adapter {adapter.name} ({file}) is of another model: of its {wanted} tensors {loaded} fit."
        )
