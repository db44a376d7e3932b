"""Latents `[1, C, T, h, w]` between Triton's answers and the store, float32 or bfloat16, as safetensors."""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import TensorSpec, deserialize, serialize

Array = NDArray[Any]

TENSOR = "latents"
_DTYPES: dict[str, Any] = {"F32": np.float32, "BF16": ml_dtypes.bfloat16}
_NAMES = {np.dtype(np.float32): "float32", np.dtype(ml_dtypes.bfloat16): "bfloat16"}


def pack(values: Array) -> bytes:
    """Latents as a safetensors file, in their own dtype."""
    values = np.ascontiguousarray(values)  # Referenced until serialize returns, which reads it through the pointer.
    spec = TensorSpec(
        dtype=_NAMES[values.dtype], shape=list(values.shape), data_ptr=values.ctypes.data, data_len=values.nbytes
    )
    return bytes(serialize({TENSOR: spec}))


def unpack(file: bytes) -> Array:
    """Latents from a safetensors file. Raises ValueError where it holds none."""
    for name, tensor in deserialize(file):  # type: ignore[no-untyped-call]
        if name == TENSOR:
            values: Array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            return values
    raise ValueError(f"The checkpoint holds no tensor called {TENSOR}.")


def join(parts: Sequence[Array]) -> Array | None:
    """Latents of consecutive chunks as one tensor, along time; None for no chunk."""
    return np.concatenate(parts, axis=2) if parts else None
