"""Inputs of requests to Triton."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput
from tritonclient.utils import np_to_triton_dtype

Array = NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """An input of a request."""

    name: str
    values: Array

    @classmethod
    def binary(cls, name: str, *values: bytes) -> "Tensor":
        """A BYTES input of these elements."""
        return cls(name, np.array(values, dtype=np.object_))

    def to_triton(self) -> InferInput:
        """As tritonclient wants it."""
        tensor = InferInput(self.name, list(self.values.shape), np_to_triton_dtype(self.values.dtype))
        tensor.set_data_from_numpy(self.values)
        return tensor
