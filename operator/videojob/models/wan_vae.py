"""The Wan VAE (2.1, and the residual, patched one of 2.2), decoded latent by latent."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

from videojob.families import Unit
from videojob.models.history import LATENTS
from videojob.models.parts import Part
from videojob.models.pipelines import load_component
from videojob.models.tensors import Tensors
from videojob.triton.contract import ChunkError, ErrorCode


class StreamingVAE:
    """The decoder with a feature cache for each clip.

    `AutoencoderKLWan.decode` forgets its cache after every call, so decoding part by part with it loses frames. Its
    decoder takes the cache as an argument: kept by the caller, the frames are those of decoding the whole clip, bit for
    bit.
    """

    def __init__(self, vae: Any) -> None:
        """Over an `AutoencoderKLWan`, where it is and in its number format. diffusers has no types."""
        self._vae = vae
        self._vae.clear_cache()  # counts the convolutions that cache
        # The pipelines' arithmetic: they divide by the inverse.
        self._mean = self._channels(torch.tensor(self._vae.config.latents_mean))
        self._inverse_std = 1.0 / self._channels(torch.tensor(self._vae.config.latents_std))

    def _channels(self, values: torch.Tensor) -> torch.Tensor:
        return values.view(1, self._vae.config.z_dim, 1, 1, 1).to(self._vae.device, self._vae.dtype)

    @property
    def device(self) -> torch.device:
        """Where it works."""
        device: torch.device = self._vae.device
        return device

    @property
    def look_back(self) -> int:
        """Latents that, decoded again, make a cache equal to that of an unbroken decode: 38 for a Wan 2.1 VAE.

        Each causal convolution over three frames sees two earlier ones, at the frame rate of its stage: one at the
        start, two in each residual block (two blocks in the middle, one more than configured in each stage), one
        where a stage doubles the rate, and one at the end.
        """
        config = self._vae.config
        latents, rate = 2.0 + 2 * 4, 1
        for doubles in (*reversed(config.temperal_downsample), False):
            latents += (config.num_res_blocks + 1) * 4 / rate
            if doubles:
                latents += 2 / rate
                rate *= 2
        return math.ceil(latents + 2 / rate)

    def new_cache(self) -> list[Any]:
        """What is remembered before the first latent of a clip."""
        return [None] * self._vae._conv_num

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor, cache: list[Any]) -> Iterator[torch.Tensor]:
        """Frames `[1, 3, F, H, W]` in -1..1 of each of the latents `[1, C, T, h, w]` in turn. Changes the cache."""
        latents = latents.to(self._vae.device, self._vae.dtype)
        features = self._vae.post_quant_conv(latents / self._inverse_std + self._mean)
        for index in range(features.shape[2]):
            frames = self._vae.decoder(
                features[:, :, index : index + 1],
                feat_cache=cache,
                feat_idx=[0],
                first_chunk=cache[0] is None,
            )
            if self._vae.config.patch_size is not None:
                frames = unpatchify(frames, self._vae.config.patch_size)
            yield frames.clamp(-1.0, 1.0)


class StreamDecoder:
    """Decodes units that are one stream, with one feature cache for it: its state."""

    def __init__(self, part: Part) -> None:
        self._vae = StreamingVAE(load_component(part, AutoencoderKLWan))

    @property
    def look_back(self) -> int:
        """Latents that, decoded again, make a state equal to that of an unbroken decode."""
        return self._vae.look_back

    def start(self, unit: Unit, past: Sequence[Tensors]) -> list[Any]:
        """See `videojob.models.family.Decoder`."""
        least = min(unit.latents.start, self.look_back)
        found = sum(checkpoint[LATENTS].shape[2] for checkpoint in past if LATENTS in checkpoint)
        if not least <= found <= unit.latents.start:
            raise ChunkError(
                ErrorCode.INVALID_REQUEST,
                f"A sequence that starts at unit {unit.index} needs checkpoints of {least} to {unit.latents.start} "
                f"latents for the decoder, not {found}.",
            )
        return self._vae.new_cache()

    def run(self, checkpoint: Tensors, state: list[Any]) -> Iterator[torch.Tensor]:
        """See `videojob.models.family.Decoder`: the frames of one latent at a time."""
        return self._vae.decode(checkpoint[LATENTS], state)


class ClipDecoder:
    """Decodes units each by itself. Each begins with an empty feature cache, so sequences have no state."""

    def __init__(self, part: Part) -> None:
        self._vae = StreamingVAE(load_component(part, AutoencoderKLWan))

    def start(self, unit: Unit, past: Sequence[Tensors]) -> None:
        """See `videojob.models.family.Decoder`."""

    def run(self, checkpoint: Tensors, state: None) -> Iterator[torch.Tensor]:
        """See `videojob.models.family.Decoder`: the frames of one latent at a time."""
        return self._vae.decode(checkpoint[LATENTS], self._vae.new_cache())
