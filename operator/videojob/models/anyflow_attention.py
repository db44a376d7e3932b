"""AnyFlow's self-attention: over flex_attention as diffusers has it, or over scaled_dot_product_attention.

Flex that is not compiled writes all scores of a layer to memory: on a CPU that is how the pipeline computes, and its
bytes are kept; on CUDA, at 832 x 480 and 12 heads, they would be 3.8 GB a step and layer.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from diffusers.models.transformers.transformer_anyflow_far import AnyFlowCausalAttnProcessor
from torch.nn.attention.flex_attention import create_mask


def dense_on(device: torch.device) -> bool:
    """Whether masks are dense on that device.

    By its type alone: so all replicas of a pool, whose accelerator class never changes, compute in one way, and with
    them all units of a job, which stays with its pool.
    """
    return device.type == "cuda"


class _DenseProcessor(AnyFlowCausalAttnProcessor):
    """All steps of diffusers' own, padding among them, over scaled_dot_product_attention."""

    _attention_backend = "native"
    _SUPPORTED_BACKENDS = ("native", "_native_math")


class Attention:
    """The self-attention of a transformer, and the masks that its passes over remembered chunks take."""

    def __init__(self, transformer: Any) -> None:
        self._transformer = transformer
        self._dense = dense_on(transformer.device)
        if self._dense:
            processor: Any = _DenseProcessor  # diffusers has no types
            for block in transformer.blocks:
                block.attn1.set_processor(processor())
        # One: it is the same for every chunk of a long video, and may have 150 MB.
        self._last = lru_cache(maxsize=1)(self._build)

    def cache_mask(self, partition: Sequence[int], height: int, width: int) -> Any:
        """Of the pass over chunks of so many latents: each sees itself and those before it."""
        return self._last(tuple(partition), height, width)

    def _build(self, partition: tuple[int, ...], height: int, width: int) -> Any:
        device = self._transformer.device
        mask = self._transformer.build_attention_mask(
            chunk_partition=list(partition), height=height, width=width, device=device, mode="cache"
        )
        if not self._dense:
            return mask
        rows, columns = mask.seq_lengths
        return create_mask(mask.mask_mod, None, None, rows, columns, str(device))
