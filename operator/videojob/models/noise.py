"""The noise that a chunk starts from."""

import hashlib
import struct

import torch


def chunk_noise(seed: int, shot: int, chunk: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Normal noise of `shape`, float32 on the CPU, that depends on nothing but the arguments.

    Not drawn from a stream: a chunk gets the same noise whether or not the chunks before it were made here.
    """
    digest = hashlib.sha256(struct.pack("<qqq", seed, shot, chunk)).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
