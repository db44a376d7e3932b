"""Decoded frames as people see them."""

import torch


def to_uint8(frames: torch.Tensor) -> torch.Tensor:
    """RGB frames `[F, H, W, 3]` uint8 of decoded ones `[1, 3, F, H, W]` in -1..1, as diffusers makes images of them."""
    scaled = (frames[0].permute(1, 2, 3, 0).float() / 2 + 0.5).clamp(0, 1)
    return (scaled * 255).round().to(torch.uint8).contiguous()
