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
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.pipelines import PromptEncoder, load, read_index
from videojob.models.tensors import Tensors
from videojob.models.wan_vae import StreamingVAE
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import Settings

EMBEDS: Final = "prompt_embeds"
"""The conditions: `[B, L, D]`, B = 2 (negative, positive) with guidance, else 1."""
LATENTS: Final = "latents"
"""A unit's checkpoint: `[1, C, T, h, w]`, in the transformer's dtype."""

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
    """The FAR transformer with the flow-map Euler sampler. Its state: latents of the chunks that it remembers."""

    def __init__(self, parts: Parts) -> None:
        pipeline = _pipeline(parts, ComponentName.TRANSFORMER)
        self._transformer = pipeline.transformer
        self._attention = Attention(self._transformer)
        self._scheduler = pipeline.scheduler
        self._device = self._transformer.device

    def start(self, unit: Unit, settings: Settings, past: Sequence[Tensors]) -> dict[int, torch.Tensor]:
        """See `videojob.models.family.Generator`."""
        shape = self.latent_shape(unit, settings)
        memory = dict(zip(unit.needs, (checkpoint.get(LATENTS) for checkpoint in past), strict=True))
        return {index: _checked(f"The checkpoint of unit {index}", shape, latents) for index, latents in memory.items()}

    @torch.inference_mode()
    def run(
        self,
        unit: Unit,
        settings: Settings,
        state: dict[int, torch.Tensor],
        conditions: Tensors,
        noise: Noise,
        resume: Step | None = None,
    ) -> Iterator[Step]:
        """See `videojob.models.family.Generator`."""
        shape = self.latent_shape(unit, settings)
        if any(memory.shape[3:] != shape[3:] for memory in state.values()):
            raise ChunkError(ErrorCode.INVALID_REQUEST, "Width and height may not change within a sequence.")
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
        for forgotten in state.keys() - {*unit.needs}:
            del state[forgotten]
        state[unit.index] = made.tensors[LATENTS]

    def latent_shape(self, unit: Unit, settings: Settings) -> tuple[int, int, int, int, int]:
        """`[1, C, T, h, w]` of a unit. Raises ChunkError (InvalidRequest) where the model cannot make that size."""
        config, height, width = self._transformer.config, settings.height, settings.width
        multiple = _SPATIAL_FACTOR * config.patch_size[1]
        least = _SPATIAL_FACTOR * config.compressed_patch_size[1]
        if height % multiple or width % multiple or min(height, width) < least:
            raise ChunkError(
                ErrorCode.INVALID_REQUEST,
                f"Width and height must be multiples of {multiple} and at least {least}, not {width} x {height}.",
            )
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


class Decoder:
    """The VAE, with one feature cache per video: its state."""

    def __init__(self, parts: Parts) -> None:
        read_index(parts.directory, FamilyName.ANYFLOW_FAR, AnyFlowFARPipeline)
        self._vae = StreamingVAE(parts[ComponentName.VAE])

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


def _step(done: int, latents: torch.Tensor) -> Step:
    """Of latents `[1, T, C, h, w]`."""
    return Step(done, {LATENTS: latents.permute(0, 2, 1, 3, 4).contiguous()})


def _checked(what: str, shape: tuple[int, ...], latents: torch.Tensor | None) -> torch.Tensor:
    """The latents, where they are as those of `shape` but for their number."""
    found = [] if latents is None else list(latents.shape)
    if latents is None or len(found) != len(shape) or [*found[:2], *found[3:]] != [*shape[:2], *shape[3:]]:
        expected = [*shape[:2], "T", *shape[3:]]
        raise ChunkError(ErrorCode.INVALID_REQUEST, f"{what} must have latents of shape {expected}, not {found}.")
    return latents
