"""Checkpoints on their way are those that a model made, bit for bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from videojob.models.tensors import pack, unpack
from videojob.triton.contract import ChunkError, ErrorCode


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_tensors_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    bits = torch.randint(0, 2**16, (1, 16, 3, 8, 6)).to(torch.int16)  # NaNs and infinities too
    values = bits.view(torch.bfloat16).to(dtype) if dtype.is_floating_point else bits.to(dtype)
    tensors = {"latents": values, "more": torch.zeros(2, 0, dtype=dtype)}

    packed = pack(tensors)
    back = unpack(packed, "PAST")

    assert pack(back) == packed
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in back.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()
    }
    raw = torch.int32 if dtype == torch.float32 else torch.int16 if dtype == torch.bfloat16 else dtype
    assert torch.equal(back["latents"].view(raw), values.view(raw))


def test_a_view_is_packed_as_what_it_shows() -> None:
    whole = torch.arange(24.0).view(2, 3, 4)
    assert pack({"a": whole.permute(2, 0, 1)[1:]}) == pack({"a": whole.permute(2, 0, 1)[1:].clone()})


@given(st.binary(max_size=200))
def test_bytes_of_another_kind_are_refused_with_a_sentence(file: bytes) -> None:
    with pytest.raises(ChunkError, match="PAST is no safetensors file") as raised:
        unpack(file, "PAST")
    assert raised.value.reason is ErrorCode.INVALID_REQUEST
