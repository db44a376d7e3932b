"""AnyFlow-FAR: causal video diffusion, chunk by chunk, over the classes of diffusers' `AnyFlowFARPipeline`.

The pipeline makes a whole video in one call. Here its loop is taken apart into three pieces that run in different
processes. Up to the memory's length the latents equal the pipeline's bit for bit; beyond it a chunk attends to the
chunks it is given (sink and window), whose positions count from the first of them, so that its cost does not grow.

Sources: AnyFlow (arXiv:2605.13724), FAR (arXiv:2503.19325), diffusers 0.42.1 `pipeline_anyflow_far.py`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from diffusers import AnyFlowFARPipeline

from videojob.families import ComponentName, FamilyName, Unit
from videojob.models.anyflow_attention import Attention
from videojob.models.family import Conditioning, Step
from videojob.models.history import LATENTS, History, remember, require_size, started
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import PromptEncoder, load, read_index
from videojob.models.sizes import require_multiples
from videojob.models.tensors import Tensors
from videojob.models.wan_vae import StreamDecoder
from videojob.triton.wire import Settings

EMBEDS: Final = "prompt_embeds"
"""The conditions: `[B, L, D]`, B = 2 (negative, positive) with guidance, else 1."""

_SPATIAL_FACTOR = 8

KVCache = dict[int, dict[str, torch.Tensor]]


def _pipeline(parts: Parts, wanted: ComponentName) -> Any:
    return load(parts, FamilyName.ANYFLOW_FAR, AnyFlowFARPipeline, wanted)


class Conditioner:
    """The pipeline's text encoder."""

    def __init__(self, parts: Parts) -> None:
        self._encoder = PromptEncoder(_pipeline(parts, ComponentName.TEXT_ENCODER))

    def encode(self, conditioning: Conditioning) -> Tensors:
        """See `videojob.models.family.Conditioner`."""
        embeds = [self._encoder.embeds(conditioning.prompt)]
        if conditioning.negative_prompt is not None:
            embeds.insert(0, self._encoder.embeds(conditioning.negative_prompt, "negative prompt"))
        return {EMBEDS: torch.cat(embeds)}


class Generator:
    """The FAR transformer with the flow-map Euler sampler. Its state: latents of the chunks that it remembers.

    A checkpoint has those of its chunk, in the transformer's dtype.
    """

    def __init__(self, parts: Parts) -> None:
        pipeline = _pipeline(parts, ComponentName.TRANSFORMER)
        self._transformer = pipeline.transformer
        self._attention = Attention(self._transformer)
        self._scheduler = pipeline.scheduler
        self._device = self._transformer.device

    def start(self, unit: Unit, settings: Settings, past: Sequence[Tensors]) -> History:
        """See `videojob.models.family.Generator`."""
        return started(unit, past, self.latent_shape(unit, settings))

    @torch.inference_mode()
    def run(
        self,
        unit: Unit,
        settings: Settings,
        state: History,
        conditions: Tensors,
        noise: Noise,
        resume: Step | None = None,
    ) -> Iterator[Step]:
        """See `videojob.models.family.Generator`."""
        shape = self.latent_shape(unit, settings)
        require_size(state, shape)
        guided = settings.guidance_scale > 1.0
        dtype = self._transformer.dtype
        embeds = conditions[EMBEDS].to(self._device, dtype)
        # The transformer takes [B, T, C, h, w].
        begin, initial = (resume.done, resume.tensors[LATENTS]) if resume else (0, noise(shape))
        latents = initial.to(self._device, dtype).permute(0, 2, 1, 3, 4)
        remembered = [state[index].to(self._device, dtype).permute(0, 2, 1, 3, 4) for index in unit.needs]
        partition = [chunk.shape[1] for chunk in remembered]

        kv_cache = self._empty_cache(embeds.shape[0], partition, latents)
        if remembered:
            self._fill_cache(kv_cache, torch.cat(remembered, dim=1), partition, embeds)
        made = _step(begin, latents)
        yield made

        self._scheduler.set_timesteps(unit.steps, device=self._device)
        for step, t in enumerate(self._scheduler.timesteps[begin:], begin):
            r = self._scheduler.sigmas[step + 1] * self._scheduler.config.num_train_timesteps
            if t == r:
                continue
            model_input = torch.cat([latents] * 2) if guided else latents
            velocity, _ = self._transformer(
                hidden_states=model_input,
                timestep=t.expand(model_input.shape[:2]),
                r_timestep=r.expand(model_input.shape[:2]),
                encoder_hidden_states=embeds,
                return_dict=False,
                chunk_partition=[*partition, latents.shape[1]],
                kv_cache=kv_cache,
                kv_cache_flag={"num_cached_chunks": len(partition), "is_cache_step": False},
            )
            if guided:
                negative, velocity = velocity.chunk(2)
                velocity = negative + settings.guidance_scale * (velocity - negative)
            latents = self._scheduler.step(velocity, t, latents, return_dict=False)[0]
            made = _step(step + 1, latents)
            yield made
        remember(state, unit, made.tensors[LATENTS])

    def latent_shape(self, unit: Unit, settings: Settings) -> tuple[int, int, int, int, int]:
        """`[1, C, T, h, w]` of a unit. Raises ChunkError (InvalidRequest) where the model cannot make that size."""
        config, height, width = self._transformer.config, settings.height, settings.width
        least = _SPATIAL_FACTOR * config.compressed_patch_size[1]
        require_multiples(settings, _SPATIAL_FACTOR * config.patch_size[1], least)
        return (1, config.in_channels, len(unit.latents), height // _SPATIAL_FACTOR, width // _SPATIAL_FACTOR)

    def _empty_cache(self, batch: int, partition: list[int], latents: torch.Tensor) -> KVCache:
        """Room for the keys and values of the memory: its last chunks in full, older ones compressed."""
        config = self._transformer.config
        compressed = partition[: max(0, len(partition) - (config.full_chunk_limit - 1))]
        full = partition[len(compressed) :]

        def room(latent_frames: int, patch: Sequence[int]) -> torch.Tensor:
            tokens = latent_frames * (latents.shape[3] // patch[1]) * (latents.shape[4] // patch[2])
            shape = (2, batch, config.num_attention_heads, tokens, config.attention_head_dim)
            return torch.empty(shape, device=latents.device, dtype=latents.dtype)

        return {
            layer: {
                "full_cache": room(sum(full), config.patch_size),
                "compressed_cache": room(sum(compressed), config.compressed_patch_size),
            }
            for layer in range(config.num_layers)
        }

    def _fill_cache(self, kv_cache: KVCache, latents: torch.Tensor, partition: list[int], embeds: torch.Tensor) -> None:
        """Write keys and values of the remembered latents `[1, T, C, h, w]`: one pass at timestep 0.

        For every chunk anew: with each one, an older chunk enters compressed, or leaves, and what attends to it gets
        other keys from the second layer on. What is kept would not be what a resumed sequence computes.
        """
        model_input = torch.cat([latents] * embeds.shape[0])
        timestep = torch.zeros(model_input.shape[:2], dtype=torch.int64, device=latents.device)
        self._transformer(
            hidden_states=model_input,
            chunk_partition=partition,
            timestep=timestep,
            r_timestep=timestep,
            encoder_hidden_states=embeds,
            attention_mask=self._attention.cache_mask(partition, *latents.shape[-2:]),
            return_dict=False,
            kv_cache=kv_cache,
            kv_cache_flag={"num_cached_chunks": len(partition) - 1, "is_cache_step": True},
        )


class Decoder(StreamDecoder):
    """The VAE, with one feature cache per video: its state."""

    def __init__(self, parts: Parts) -> None:
        read_index(parts.directory, FamilyName.ANYFLOW_FAR, AnyFlowFARPipeline)
        super().__init__(parts[ComponentName.VAE])


def _step(done: int, latents: torch.Tensor) -> Step:
    """Of latents `[1, T, C, h, w]`."""
    return Step(done, {LATENTS: latents.permute(0, 2, 1, 3, 4).contiguous()})
