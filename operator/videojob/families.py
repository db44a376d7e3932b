"""Arithmetic facts of the model families, for control plane and runner, which import no model.

The models themselves are in `videojob.models`; this table holds only arithmetic facts, so that a plan can be made and a
resume prepared where torch is not installed.
"""

from dataclasses import dataclass
from enum import StrEnum


class FamilyName(StrEnum):
    """The diffusers families that can be served."""

    ANYFLOW_FAR = "AnyFlowFAR"
    """`AnyFlowFARPipeline`: causal, chunk by chunk, Wan 2.1 VAE."""


@dataclass(frozen=True)
class Family:
    """Arithmetic facts of one family."""

    frames_per_latent: int
    """Frames that one latent becomes; the first latent of a video becomes a single frame (causal VAE)."""

    tail_latents: int
    """Latents that, decoded again, rebuild the VAE decoder's feature cache bit for bit: as far as its convolutions look
    back (`VideoDecoder.look_back` counts them; 38 for the four stages and two residual blocks of a Wan 2.1 VAE)."""


FAMILIES: dict[FamilyName, Family] = {
    FamilyName.ANYFLOW_FAR: Family(frames_per_latent=4, tail_latents=38),
}
