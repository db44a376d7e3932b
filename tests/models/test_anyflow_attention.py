"""AnyFlow's attention on CUDA, computed on a CPU: the same as flex_attention but for the last bits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_anyflow_far import AnyFlowCausalAttnProcessor

from videojob.families import FAMILIES, Chunking, FamilyName, Shot, Video
from videojob.models import anyflow_attention
from videojob.models.anyflow_attention import dense_on
from videojob.models.anyflow_far import Conditioner, Generator
from videojob.models.family import Conditioning
from videojob.models.history import LATENTS
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.triton.wire import Settings

CPU = torch.device("cpu")
SETTINGS = Settings("a cat", seed=7, width=48, height=64, fps=16.0, guidance_scale=1.0)
PLAN = FAMILIES[FamilyName.ANYFLOW_FAR].plan(Chunking(1, 3, sink=1, window=12), Video((Shot(100),), 16, 2)).units[:8]
"""Memories of no chunk, of some in full, of some that are compressed, and, in the end, of a window that moves."""

pytestmark = pytest.mark.usefixtures("one_thread")


def processors(generator: Any) -> list[Any]:
    return [block.attn1.processor for block in generator._transformer.blocks]


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0], ids=["plain", "guided"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)], ids=["f32", "bf16"])
def test_every_unit_is_that_of_flex_attention_within_rounding(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, guidance_scale: float
) -> None:
    """Both start from the same memory, so that differences do not add up. Latents have a spread of about 1."""
    parts, settings = Parts(tiny_model, CPU, dtype), replace(SETTINGS, guidance_scale=guidance_scale)
    flex = Generator(parts)
    monkeypatch.setattr(anyflow_attention, "dense_on", lambda device: True)
    dense = Generator(parts)
    assert type(processors(flex)[0]) is AnyFlowCausalAttnProcessor is not type(processors(dense)[0])
    conditions = Conditioner(parts).encode(Conditioning("a cat", "" if guidance_scale > 1 else None))
    state: dict[int, torch.Tensor] = {}
    for unit in PLAN:
        made = [
            [*generator.run(unit, settings, dict(state), conditions, Noise(7, 0, unit.index))][-1].tensors[LATENTS]
            for generator in (flex, dense)
        ]
        difference = (made[0].float() - made[1].float()).abs().max().item()
        assert difference <= tolerance, unit
        state = {index: state[index] for index in unit.needs} | {unit.index: made[0]}


def test_a_mask_is_the_one_that_flex_gets(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same function, for every memory that a video has; the last is kept."""
    flex = Generator(Parts(tiny_model, CPU, torch.float32))
    monkeypatch.setattr(anyflow_attention, "dense_on", lambda device: True)
    dense = Generator(Parts(tiny_model, CPU, torch.float32))
    for unit in PLAN[1:]:
        partition = [len(PLAN[index].latents) for index in unit.needs]
        block, mask = (each._attention.cache_mask(partition, 8, 6) for each in (flex, dense))
        rows, columns = (torch.arange(length) for length in block.seq_lengths)
        assert torch.equal(mask[0, 0], block.mask_mod(0, 0, rows[:, None], columns[None, :]))
        assert mask is dense._attention.cache_mask(partition, 8, 6)


@pytest.mark.parametrize(("device", "dense"), [("cuda", True), ("cuda:1", True), ("cpu", False), ("meta", False)])
def test_masks_are_dense_on_cuda_alone(device: str, dense: bool) -> None:
    assert dense_on(torch.device(device)) is dense
