"""What a model is made of: where each component lies, in which number format, and on which device it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from videojob.families import ComponentName
from videojob.models.runtime import DTYPES
from videojob.triton.contract import WeightFormat
from videojob.triton.settings import Adapters, Components, Images, ModelSettings, Sampling

HOST: Final = torch.device("cpu")


@dataclass(frozen=True)
class Part:
    """One component."""

    directory: Path
    """What its own `save_pretrained` wrote."""
    device: torch.device
    dtype: torch.dtype
    """Of its arithmetic."""
    weights: WeightFormat | None = None
    """Number format that the weights of its linear layers are kept in, if it is another."""


@dataclass(frozen=True)
class Parts:
    """A pipeline's folder, and how its components are loaded."""

    directory: Path
    device: torch.device
    dtype: torch.dtype
    components: Components = ()
    """Those that differ from this."""
    adapters: Adapters = ()
    sampling: Sampling | None = None
    images: Images | None = None

    @classmethod
    def of(cls, model: ModelSettings, device: str) -> "Parts":
        """Of a model whose stages run on that device."""
        return cls(
            directory=Path(model.directory),
            device=torch.device(device),
            dtype=DTYPES[model.precision],
            components=model.components,
            adapters=model.adapters,
            sampling=model.sampling,
            images=model.images,
        )

    def __getitem__(self, name: ComponentName) -> Part:
        """The component of that name."""
        own = next((one for one in self.components if one.name is name), None)
        return Part(
            directory=Path(own.directory) if own and own.directory else self.directory / name,
            device=HOST if own and own.on_cpu else self.device,
            dtype=DTYPES[own.format] if own and own.format else self.dtype,
            weights=own.weights if own else None,
        )
