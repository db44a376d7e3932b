"""Make a small model with random weights: a real `save_pretrained` folder, for demo, tests and benchmark.

    python -m dev.tiny_model DIR [--size tiny|bench] [--kind KIND]

The same size and kind give the same bytes every time, so the folder's digest can be written down. Random weights make
coloured noise, not a picture; shapes, files and arithmetic are those of a trained model.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeliosPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

_SEED = 2026
_TEXT_DIM = 32
_PROMPT_TOKENS = 512
_TIMESTEP: Final[Mapping[str, Any]] = {"timestep_conditioning": True, "decoder_inject_noise": (False,) * 5}
"""Of a VAE of LTX-Video that makes the last step itself."""
_PAD, _END = "<pad>", "</s>"


@dataclass(frozen=True)
class Size:
    """How much work a chunk is: `tiny` for tests and demo, `bench` over a second, half of it decode, on one core."""

    heads: int
    head_dim: int
    layers: int
    vae_dim: int


SIZES = {
    "tiny": Size(heads=2, head_dim=16, layers=2, vae_dim=8),
    "bench": Size(heads=12, head_dim=32, layers=8, vae_dim=12),
}


def make_model(directory: Path, size: Size, kind: str = "anyflow-far") -> None:
    """Write the pipeline folder to `directory`, which is made where missing."""
    torch.manual_seed(_SEED)
    KINDS[kind](size).save_pretrained(directory)
    # Some writers make files that only their owner can read; a pod has another user.
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _anyflow_far(size: Size) -> Any:
    return AnyFlowFARPipeline(
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(),
        transformer=AnyFlowFARTransformer3DModel(**_transformer(size)),
        vae=_vae(size.vae_dim),
        scheduler=FlowMapEulerDiscreteScheduler(shift=5.0),
    )


def _wan(size: Size) -> Any:
    """As Wan 2.1 T2V 1.3B."""
    return WanPipeline(
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(),
        transformer=WanTransformer3DModel(**_transformer(size)),
        vae=_vae(size.vae_dim),
        scheduler=_unipc(shift=3.0),
    )


def _wan_a14b(size: Size) -> Any:
    """As Wan 2.2 T2V A14B: one transformer down to a timestep of 875, another below it."""
    return WanPipeline(
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(),
        transformer=WanTransformer3DModel(**_transformer(size)),
        transformer_2=WanTransformer3DModel(**_transformer(size)),
        vae=_vae(size.vae_dim),
        scheduler=_unipc(shift=3.0),
        boundary_ratio=0.875,
    )


def _wan_ti2v(size: Size) -> Any:
    """As Wan 2.2 TI2V-5B."""
    channels = 48
    return WanPipeline(
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(),
        transformer=WanTransformer3DModel(**_transformer(size), in_channels=channels, out_channels=channels),
        vae=AutoencoderKLWan(
            base_dim=size.vae_dim,
            z_dim=channels,
            dim_mult=[1, 2, 4, 4],
            latents_mean=torch.linspace(-0.5, 0.5, channels).tolist(),
            latents_std=torch.linspace(0.4, 1.2, channels).tolist(),
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
        ),
        scheduler=_unipc(shift=5.0),
        expand_timesteps=True,
    )


def _wan_i2v(size: Size, **transformer: Any) -> Any:
    """As Wan 2.1 I2V 14B: an image encoder sees the image."""
    return WanImageToVideoPipeline(
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(),
        image_encoder=CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=_TEXT_DIM,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=32,
                patch_size=16,
            )
        ),
        image_processor=CLIPImageProcessor(crop_size=32, size={"shortest_edge": 32}),
        transformer=WanTransformer3DModel(
            **_transformer(size),
            in_channels=36,
            out_channels=16,
            image_dim=_TEXT_DIM,
            added_kv_proj_dim=size.heads * size.head_dim,
            **transformer,
        ),
        vae=_vae(size.vae_dim),
        scheduler=_unipc(shift=3.0),
    )


def _wan_flf2v(size: Size) -> Any:
    """As Wan 2.1 FLF2V 14B: it sees two images, of 5 tokens each here."""
    return _wan_i2v(size, pos_embed_seq_len=2 * 5)


def _wan_i2v_a14b(size: Size) -> Any:
    """As Wan 2.2 I2V A14B."""
    channels = {"in_channels": 36, "out_channels": 16}
    return WanImageToVideoPipeline(
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(),
        transformer=WanTransformer3DModel(**_transformer(size), **channels),
        transformer_2=WanTransformer3DModel(**_transformer(size), **channels),
        vae=_vae(size.vae_dim),
        scheduler=_unipc(shift=3.0),
        boundary_ratio=0.9,
    )


def _wan_vace(size: Size) -> Any:
    """As Wan 2.1 VACE 1.3B: every second layer sees what is given."""
    return WanVACEPipeline(
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(),
        transformer=_vace_transformer(size),
        vae=_vae(size.vae_dim),
        scheduler=_unipc(shift=3.0),
    )


def _wan_vace_a14b(size: Size) -> Any:
    """As VACE-Fun of Wan 2.2 A14B, with two transformers."""
    return WanVACEPipeline(
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(),
        transformer=_vace_transformer(size),
        transformer_2=_vace_transformer(size),
        vae=_vae(size.vae_dim),
        scheduler=_unipc(shift=3.0),
        boundary_ratio=0.875,
    )


def _helios(size: Size) -> Any:
    """As Helios-Base."""
    pair = size.head_dim // 4 - size.head_dim // 4 % 2
    return HeliosPipeline(
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(),
        transformer=HeliosTransformer3DModel(**_transformer(size), rope_dim=(size.head_dim - 2 * pair, pair, pair)),
        vae=_vae(size.vae_dim),
        scheduler=HeliosScheduler(stages=1, use_dynamic_shifting=True),
    )


def _ltx(size: Size, pipeline: Any = LTXPipeline, *, dynamic_shift: bool = True, **decoder: Any) -> Any:
    """As LTX-Video 0.9.0."""
    inner = size.heads * size.head_dim
    return pipeline(
        tokenizer=_tokenizer(),
        text_encoder=T5EncoderModel(
            T5Config(vocab_size=258, d_model=_TEXT_DIM, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        ),
        transformer=LTXVideoTransformer3DModel(
            num_attention_heads=size.heads,
            attention_head_dim=size.head_dim,
            cross_attention_dim=inner,
            num_layers=size.layers,
            caption_channels=_TEXT_DIM,
        ),
        vae=AutoencoderKLLTXVideo(
            block_out_channels=(size.vae_dim,) * 4,
            layers_per_block=(1,) * 5,
            decoder_block_out_channels=(size.vae_dim,) * 4,
            decoder_layers_per_block=(1,) * 5,
            **decoder,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.95,
            max_shift=2.05,
            base_image_seq_len=1024,
            max_image_seq_len=4096,
            shift_terminal=0.1,
        )
        if dynamic_shift
        else FlowMatchEulerDiscreteScheduler(),
    )


def _ltx_i2v(size: Size) -> Any:
    """The same weights, as the pipeline writes them that begins with an image."""
    return _ltx(size, LTXImageToVideoPipeline)


def _ltx_timestep(size: Size) -> Any:
    """Whose VAE has timestep conditioning, as that of LTX-Video 0.9.5."""
    return _ltx(size, **_TIMESTEP)


def _ltx_condition(size: Size) -> Any:
    """As LTX-Video 0.9.5: images at any frame, and a ladder of timesteps of the pipeline's own."""
    return _ltx(size, LTXConditionPipeline, dynamic_shift=False, **_TIMESTEP)


def _skyreels_v2_df(size: Size, pipeline: Any = SkyReelsV2DiffusionForcingPipeline) -> Any:
    """As SkyReels-V2 DF 1.3B."""
    return pipeline(
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(),
        transformer=SkyReelsV2Transformer3DModel(**_transformer(size), inject_sample_info=True),
        vae=_vae(size.vae_dim),
        scheduler=_unipc(shift=8.0),
    )


def _skyreels_v2_df_i2v(size: Size) -> Any:
    """The same weights, as the pipeline writes them that begins with an image."""
    return _skyreels_v2_df(size, SkyReelsV2DiffusionForcingImageToVideoPipeline)


KINDS: Final[Mapping[str, Callable[[Size], Any]]] = {
    "anyflow-far": _anyflow_far,
    "helios": _helios,
    "ltx": _ltx,
    "ltx-condition": _ltx_condition,
    "ltx-i2v": _ltx_i2v,
    "ltx-timestep": _ltx_timestep,
    "skyreels-v2-df": _skyreels_v2_df,
    "skyreels-v2-df-i2v": _skyreels_v2_df_i2v,
    "wan": _wan,
    "wan-a14b": _wan_a14b,
    "wan-flf2v": _wan_flf2v,
    "wan-i2v": _wan_i2v,
    "wan-i2v-a14b": _wan_i2v_a14b,
    "wan-ti2v": _wan_ti2v,
    "wan-vace": _wan_vace,
    "wan-vace-a14b": _wan_vace_a14b,
}


def _text_encoder() -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(vocab_size=258, d_model=_TEXT_DIM, d_kv=8, d_ff=64, num_layers=2, num_heads=4))


def _transformer(size: Size) -> dict[str, int]:
    return {
        "num_attention_heads": size.heads,
        "attention_head_dim": size.head_dim,
        "text_dim": _TEXT_DIM,
        "freq_dim": 64,
        "ffn_dim": 4 * size.heads * size.head_dim,
        "num_layers": size.layers,
    }


def _vace_transformer(size: Size) -> WanVACETransformer3DModel:
    return WanVACETransformer3DModel(**_transformer(size), vace_layers=[*range(0, size.layers, 2)], vace_in_channels=96)


def _unipc(shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, as UTF-8, and an end mark, as UMT5's own tokenizer sets one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([_PAD, _END, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_END}", special_tokens=[(_END, vocabulary[_END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_END, model_max_length=_PROMPT_TOKENS
    )


def _vae(dim: int) -> AutoencoderKLWan:
    """A Wan 2.1 VAE, narrow. Two residual blocks a stage, as in the real one: they set how far its cache looks back."""
    return AutoencoderKLWan(base_dim=dim, dim_mult=[1, 2, 2, 2], num_res_blocks=2)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make a small model with random weights.")
    parser.add_argument("directory", type=Path, help="folder to write")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--kind", choices=sorted(KINDS), default="anyflow-far")
    arguments = parser.parse_args()
    make_model(arguments.directory, SIZES[arguments.size], arguments.kind)


if __name__ == "__main__":
    main()
