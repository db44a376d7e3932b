"""A checkpoint gives back the very latents that were put, bit for bit, in their own dtype."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.store.conftest import Place
from videojob.runner import latents


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
async def test_round_trip_through_the_store(place: Place, dtype: Any) -> None:
    bits = np.random.default_rng(3).integers(0, 2**16, (1, 16, 3, 8, 6), dtype=np.uint16)  # NaNs and infinities too
    values = bits.view(ml_dtypes.bfloat16).astype(dtype)
    committed = await place.job().commit_chunk(
        index=0, attempt=1, frames=1, segment=b"segment", latents=latents.pack(values), stage_seconds={}
    )
    (file,) = await place.job().read_latents([committed.record])
    back = latents.unpack(file)
    assert back.dtype == dtype
    assert back.shape == values.shape
    assert back.tobytes() == values.tobytes()
