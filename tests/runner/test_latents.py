"""Latents in the store are those that Triton made, bit for bit."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from videojob.runner.latents import join, pack, unpack


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_pack_and_unpack(dtype: type) -> None:
    values: NDArray[Any] = np.random.default_rng(1).standard_normal((1, 16, 3, 4, 6)).astype(dtype)

    packed = pack(values)

    assert np.array_equal(unpack(packed), values) and unpack(packed).dtype == values.dtype
    assert pack(values) == packed


def test_the_file_is_one_that_torch_reads_and_writes() -> None:
    values = torch.randn(1, 16, 1, 4, 6).to(torch.bfloat16)
    bits = values.view(torch.int16)

    packed = pack(unpack(save({"latents": values})))

    assert torch.equal(load(packed)["latents"].view(torch.int16), bits)


def test_a_file_without_latents_is_refused() -> None:
    with pytest.raises(ValueError, match="no tensor called latents"):
        unpack(save({"other": torch.zeros(1)}))


def test_chunks_are_joined_along_time() -> None:
    first, second = np.zeros((1, 2, 1, 4, 4), np.float32), np.ones((1, 2, 3, 4, 4), np.float32)

    joined = join([first, second])

    assert joined is not None
    assert joined.shape == (1, 2, 4, 4, 4)
    assert (joined[:, :, :1] == 0).all() and (joined[:, :, 1:] == 1).all()
    assert join([]) is None
