"""Transformers that take turns within a unit: one is on the accelerator, the others rest in host memory."""

from collections.abc import Sequence
from typing import Any

import torch

from videojob.models.parts import HOST


class Experts:
    """Modules that work one at a time. On a CPU nothing moves; neither does a module that works there anyway."""

    def __init__(self, modules: Sequence[Any], devices: Sequence[torch.device]) -> None:
        """Of each module, the device that it works on. It comes there when it is asked for."""
        self._modules = modules
        self._devices = devices

    @torch.inference_mode(False)
    def __getitem__(self, index: int) -> Any:
        """That module, on its device. The others go before it comes: there is never room for two.

        Also from within inference mode, in which weights that torchao keeps cannot be moved.
        """
        for other in (*self._modules[:index], *self._modules[index + 1 :]):
            other.to(HOST)
        return self._modules[index].to(self._devices[index])
