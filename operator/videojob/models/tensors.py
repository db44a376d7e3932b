"""A family's named tensors as bytes and back: conditions and checkpoints, whose contents only the family knows."""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from videojob.triton.contract import ChunkError, ErrorCode

Tensors = Mapping[str, torch.Tensor]
"""By name, any dtype, on any device."""


def pack(tensors: Tensors) -> bytes:
    """The bytes of a safetensors file. Equal tensors give equal bytes."""
    return save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})


def unpack(file: bytes, what: str) -> Tensors:
    """The tensors, on the CPU. Raises ChunkError (InvalidRequest), which names `what`, where these are none."""
    try:
        return load(file)
    except SafetensorError as error:
        raise ChunkError(ErrorCode.INVALID_REQUEST, f"{what} is no safetensors file: {error}.") from error
