"""What control plane, runner and models agree on about the model families: how each cuts a video. Imports no model.

The models themselves are in `videojob.models`; here is only arithmetic, so that a plan can be made and a resume
prepared where torch is not installed.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Protocol

from videojob.families.causal import CausalChunks
from videojob.families.clips import WholeClips
from videojob.families.continued import ContinuedClips
from videojob.families.history import ChunksWithHistory
from videojob.families.plan import Chunking, Memory, Piece, Plan, Shot, ShotPlan, Unit, Video
from videojob.families.rate import NTSC, frame_rate
from videojob.families.windows import OverlappingWindows

__all__ = [
    "ADAPTED",
    "BEGUN_WITH_IMAGES",
    "FAMILIES",
    "NTSC",
    "SAMPLED",
    "WITH_TWO_TRANSFORMERS",
    "Chunking",
    "ComponentName",
    "Family",
    "FamilyName",
    "Memory",
    "Piece",
    "Plan",
    "SamplerName",
    "Shot",
    "ShotPlan",
    "Unit",
    "Video",
    "frame_rate",
]


class FamilyName(StrEnum):
    """The diffusers families that can be served."""

    ANYFLOW_FAR = "AnyFlowFAR"
    """`AnyFlowFARPipeline`: causal, chunk by chunk, Wan 2.1 VAE."""
    HELIOS = "Helios"
    """`HeliosPipeline`: chunk by chunk from the first latent and a history of 19, Wan 2.1 VAE."""
    LTX = "LTX"
    """`LTXPipeline`, `LTXImageToVideoPipeline`, `LTXConditionPipeline`: from text, or from an image or two as well, a
    whole clip a shot, 8k+1 frames, a VAE that is not causal."""
    SKYREELS_V2_DIFFUSION_FORCING = "SkyReelsV2DiffusionForcing"
    """`SkyReelsV2DiffusionForcingPipeline`, `SkyReelsV2DiffusionForcingImageToVideoPipeline`: from text, or from an
    image as well, window by window over the last latents of the one before, Wan 2.1 VAE."""
    WAN = "Wan"
    """`WanPipeline`, `WanImageToVideoPipeline`: from text, or from an image or two as well, a whole clip a shot, one
    transformer or two, VAE of Wan 2.1 or of 2.2."""
    WAN_VACE = "WanVACE"
    """`WanVACEPipeline`: clip by clip from the last frames of the one before, one transformer or two, Wan 2.1 VAE."""


class ComponentName(StrEnum):
    """The components with weights of pipelines. Each is the work of one stage."""

    TEXT_ENCODER = "text_encoder"
    TRANSFORMER = "transformer"
    TRANSFORMER_2 = "transformer_2"
    """Of the last steps, where a pipeline has two."""
    VAE = "vae"
    IMAGE_ENCODER = "image_encoder"
    """Of models that see an image as well as begin with it."""


class SamplerName(StrEnum):
    """Schedulers of diffusers that a model can be sampled with in place of its folder's."""

    UNIPC = "UniPC"
    """`UniPCMultistepScheduler` over flow sigmas."""
    FLOW_MATCH_EULER = "FlowMatchEuler"
    """`FlowMatchEulerDiscreteScheduler`."""
    FLOW_MATCH_LCM = "FlowMatchLCM"
    """`FlowMatchLCMScheduler`: each step goes to the end, and then back by new noise, as DMD students are trained."""


SAMPLED: Final = (FamilyName.WAN, FamilyName.WAN_VACE)
"""The families whose models can be sampled otherwise than their folders say."""


ADAPTED: Final = (FamilyName.WAN, FamilyName.WAN_VACE)
"""The families whose models may have adapters."""


WITH_TWO_TRANSFORMERS: Final = (FamilyName.WAN, FamilyName.WAN_VACE)
"""The families that have models with a second transformer, which makes the last steps."""


BEGUN_WITH_IMAGES: Final = (FamilyName.LTX, FamilyName.SKYREELS_V2_DIFFUSION_FORCING, FamilyName.WAN)
"""The families that have models whose shots begin with an image."""


class Family(Protocol):
    """The arithmetic of one family."""

    @property
    def memories(self) -> tuple[Memory, ...]:
        """What a shot may take over from those before it; the first is what it does where nothing is said."""
        ...

    def plan(self, chunking: Chunking, video: Video) -> Plan:
        """The shots, units and pieces of a video. The memory of each shot, but for the first, is one of `memories`."""
        ...

    def most_frames(self, chunking: Chunking, fps: int) -> int:
        """How many frames the largest piece of any video of at most `fps` frames per second has."""
        ...


FAMILIES: Final[Mapping[FamilyName, Family]] = {
    # 38 latents, for the four stages and two residual blocks of a Wan 2.1 VAE: `look_back` of the decoder counts them.
    FamilyName.ANYFLOW_FAR: CausalChunks(frames_per_latent=4, tail_latents=38),
    FamilyName.HELIOS: ChunksWithHistory(frames_per_latent=4, latents=9, history=19),
    FamilyName.LTX: WholeClips(frames_per_latent=8),
    FamilyName.SKYREELS_V2_DIFFUSION_FORCING: OverlappingWindows(frames_per_latent=4, tail_latents=38),
    FamilyName.WAN: WholeClips(frames_per_latent=4),
    FamilyName.WAN_VACE: ContinuedClips(frames_per_latent=4),
}
