"""Models whose components differ from the rest: in number format, folder and device, with each family."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from dev.tiny_model import SIZES, make_model
from videojob.families import FAMILIES, Chunking, ComponentName, FamilyName, Shot, Video
from videojob.models.family import Conditioning, family_module
from videojob.models.noise import Noise
from videojob.models.parts import Part, Parts
from videojob.models.pipelines import load_component
from videojob.models.tensors import Tensors, pack
from videojob.models.wan_vae import StreamingVAE
from videojob.models.weights import keep_weights_as
from videojob.triton.contract import WeightFormat
from videojob.triton.settings import Component, Components
from videojob.triton.wire import Settings

CPU = torch.device("cpu")
SETTINGS = Settings("a cat", seed=7, width=32, height=48, fps=16.0, guidance_scale=4.0)
CONDITIONING = Conditioning("a cat", "a dog")
VAE, ENCODER, TRANSFORMER = ComponentName.VAE, ComponentName.TEXT_ENCODER, ComponentName.TRANSFORMER

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(
    scope="module",
    params=[
        ("anyflow-far", FamilyName.ANYFLOW_FAR),
        ("skyreels-v2-df", FamilyName.SKYREELS_V2_DIFFUSION_FORCING),
        ("wan-a14b", FamilyName.WAN),
        ("wan-vace", FamilyName.WAN_VACE),
    ],
    ids=lambda param: param[0],
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[FamilyName, Path]:
    kind, family = request.param
    directory = tmp_path_factory.mktemp("components") / kind
    make_model(directory, SIZES["tiny"], kind)
    return family, directory


def having(directory: Path) -> list[ComponentName]:
    """The components that the folder has."""
    return [name for name in ComponentName if (directory / name).is_dir()]


def parts(directory: Path, *components: Component, dtype: torch.dtype = torch.bfloat16) -> Parts:
    return Parts(directory, CPU, dtype, components)


def checkpoint(family: FamilyName, model: Parts, conditions: Tensors) -> Tensors:
    """Of the first unit of a video."""
    unit = FAMILIES[family].plan(Chunking(2, 2, sink=0, window=2), Video((Shot(5),), 16, 2)).units[0]
    generator = family_module(family).Generator(model)
    *_, last = generator.run(unit, SETTINGS, generator.start(unit, SETTINGS, []), conditions, Noise(7, 0, 0))
    return last.tensors


def frames(family: FamilyName, model: Parts, checkpoint: Tensors) -> torch.Tensor:
    unit = FAMILIES[family].plan(Chunking(2, 2, sink=0, window=2), Video((Shot(5),), 16, 2)).units[0]
    decoder = family_module(family).Decoder(model)
    return torch.cat([*decoder.run(checkpoint, decoder.start(unit, []))], dim=2)


def test_a_vae_in_float32_decodes_what_a_bfloat16_transformer_has_made(made: tuple[FamilyName, Path]) -> None:
    """To the frames that the VAE alone makes in float32; and a text encoder in float32 conditions that transformer."""
    family, directory = made
    plain, mixed = parts(directory), parts(directory, *(Component(name, None, "float32") for name in (VAE, ENCODER)))
    conditions = family_module(family).Conditioner(mixed).encode(CONDITIONING)
    denoised = checkpoint(family, mixed, conditions)
    decoded = frames(family, mixed, denoised)
    vae = StreamingVAE(AutoencoderKLWan.from_pretrained(directory / "vae", dtype=torch.float32))
    alone = torch.cat([*vae.decode(denoised["latents"], vae.new_cache())], dim=2)

    assert {tensor.dtype for tensor in conditions.values()} == {decoded.dtype} == {torch.float32}
    assert torch.equal(decoded, alone) and bool(torch.isfinite(decoded).all())
    shown = family is FamilyName.WAN_VACE  # its transformer sees what the VAE has encoded
    assert (pack(denoised) == pack(checkpoint(family, plain, conditions))) == (not shown)
    assert frames(family, plain, denoised).dtype == torch.bfloat16
    in_half = family_module(family).Conditioner(plain).encode(CONDITIONING)
    assert pack(in_half) != pack(conditions)


@pytest.mark.parametrize("name", ComponentName)
def test_a_component_from_a_folder_of_its_own_is_as_good_as_the_pipelines(
    made: tuple[FamilyName, Path], tmp_path: Path, name: ComponentName
) -> None:
    """The pipeline's is not read: it is not there."""
    family, directory = made
    if name not in having(directory):
        with pytest.raises(ValueError, match=f"has no {name}: take it out of the model's components"):
            family_module(family).Generator(parts(directory, Component(name, str(tmp_path))))
        return
    folder = tmp_path / "pipeline"
    shutil.copytree(directory, folder)
    (folder / name).rename(tmp_path / "shared")
    whole, own = parts(directory), parts(folder, Component(name, str(tmp_path / "shared")))
    conditions = [family_module(family).Conditioner(each).encode(CONDITIONING) for each in (whole, own)]
    denoised = [checkpoint(family, each, conditions[0]) for each in (whole, own)]
    decoded = [frames(family, each, denoised[0]) for each in (whole, own)]

    assert pack(conditions[0]) == pack(conditions[1])
    assert pack(denoised[0]) == pack(denoised[1])
    assert torch.equal(*decoded)


@pytest.mark.parametrize(
    ("components", "expected"),
    [
        ((), ("/m/vae", "meta", torch.bfloat16)),
        ((Component(ENCODER, "/e", "float32", on_cpu=True),), ("/m/vae", "meta", torch.bfloat16)),
        ((Component(VAE, on_cpu=True),), ("/m/vae", "cpu", torch.bfloat16)),
        ((Component(VAE, "/v", "float32"),), ("/v", "meta", torch.float32)),
    ],
    ids=["none", "another's", "device", "folder and format"],
)
def test_a_component_is_where_the_model_says_and_like_the_rest_otherwise(
    components: Components, expected: tuple[str, str, torch.dtype]
) -> None:
    part = Parts(Path("/m"), torch.device("meta"), torch.bfloat16, components)[VAE]
    assert (str(part.directory), part.device.type, part.dtype) == expected


def test_a_component_on_the_cpu_serves_a_model_elsewhere(made: tuple[FamilyName, Path]) -> None:
    family, directory = made
    components = tuple(Component(name, on_cpu=True) for name in having(directory))
    elsewhere = Parts(directory, torch.device("meta"), torch.float32, components)
    here = parts(directory, dtype=torch.float32)
    conditions = family_module(family).Conditioner(elsewhere).encode(CONDITIONING)
    denoised = checkpoint(family, elsewhere, conditions)
    assert pack(denoised) == pack(checkpoint(family, here, conditions))
    assert torch.equal(frames(family, elsewhere, denoised), frames(family, here, denoised))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("weights", "off_by"), [("int8", 0.02), ("float8", 0.06)])
def test_weights_of_eight_bits_change_a_transformer_and_a_text_encoder_by_a_little(
    made: tuple[FamilyName, Path], weights: WeightFormat, off_by: float, dtype: torch.dtype
) -> None:
    """By so much of what is in a checkpoint, and always the same; what has no such weights is as it was."""
    family, directory = made
    names = [name for name in having(directory) if name is not VAE]
    whole, small = (
        parts(directory, *components, dtype=dtype)
        for components in ((), tuple(Component(name, weights=weights) for name in names))
    )
    conditions = [family_module(family).Conditioner(each).encode(CONDITIONING) for each in (whole, small)]
    denoised = [checkpoint(family, each, conditions[0])["latents"].float() for each in (whole, small)]
    encoded = [each["prompt_embeds"].float() for each in conditions]
    for as_is, kept_small in (encoded, denoised):
        assert 0 < float((kept_small - as_is).norm() / as_is.norm()) < off_by
    again = parts(directory, *(Component(name, weights=weights) for name in names), dtype=dtype)
    assert pack(checkpoint(family, again, conditions[0])) == pack(checkpoint(family, small, conditions[0]))
    latents = {"latents": denoised[0].to(dtype)}
    assert torch.equal(frames(family, whole, latents), frames(family, small, latents))


@pytest.mark.parametrize("weights", ["int8", "float8"])
def test_weights_of_eight_bits_take_a_byte_each(made: tuple[FamilyName, Path], weights: WeightFormat) -> None:
    _, directory = made
    part = Part(directory / TRANSFORMER, CPU, torch.bfloat16, weights)
    name = json.loads((part.directory / "config.json").read_text())["_class_name"]
    loaded = load_component(part, getattr(diffusers, name))
    linear: list[Any] = [module.weight for module in loaded.modules() if isinstance(module, torch.nn.Linear)]
    assert linear
    assert {weight.qdata.element_size() for weight in linear} == {1}


def test_weights_that_torchao_cannot_keep_are_refused() -> None:
    """Nothing stays as it is without a word."""
    with pytest.raises(ValueError, match="The weights of a Linear cannot be kept as int8: "):
        keep_weights_as(torch.nn.Linear(4, 4, dtype=torch.complex64), "int8")


def other_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKLMochi"}))


def fewer_weights(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    del tensors[min(tensors)]
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        (VAE, other_class, "is a folder of AutoencoderKLMochi; the model needs one of AutoencoderKLWan"),
        (VAE, fewer_weights, "lacks 1 weights of AutoencoderKLWan, such as decoder.conv_in.bias"),
        (TRANSFORMER, fewer_weights, "lacks 1 weights of .*Transformer3DModel, such as "),
        (ENCODER, fewer_weights, "lacks 1 weights of UMT5EncoderModel, such as "),
    ],
    ids=["another class", "vae", "transformer", "text encoder"],
)
def test_a_component_that_would_be_random_numbers_is_refused(
    made: tuple[FamilyName, Path], tmp_path: Path, name: ComponentName, spoil: Callable[[Path], None], message: str
) -> None:
    """The libraries only warn."""
    family, directory = made
    folder = tmp_path / "own"
    shutil.copytree(directory / name, folder)
    spoil(folder)
    module = family_module(family)
    stage: Any = {VAE: module.Decoder, TRANSFORMER: module.Generator, ENCODER: module.Conditioner}[name]
    with pytest.raises(ValueError, match=f"{folder} {message}"):
        stage(parts(directory, Component(name, str(folder))))


def test_an_index_without_the_component_is_refused(made: tuple[FamilyName, Path], tmp_path: Path) -> None:
    family, directory = made
    shutil.copytree(directory, tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"text_encoder": [None, None]}))
    with pytest.raises(ValueError, match=r"is no whole pipeline: its model_index\.json names no text_encoder"):
        family_module(family).Conditioner(parts(tmp_path / "model"))
