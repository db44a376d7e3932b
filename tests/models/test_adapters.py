"""Adapters against diffusers' own loading of them, on real classes with random weights."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from dev.tiny_model import SIZES, make_model
from videojob.families import FAMILIES, Chunking, ComponentName, FamilyName, Shot, Video
from videojob.models.family import Conditioning, Step
from videojob.models.history import LATENTS
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.tensors import Tensors
from videojob.models.wan import Conditioner, Generator
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.settings import Adapter
from videojob.triton.wire import Settings

CPU = torch.device("cpu")
TEXT = "a cat"
SETTINGS = Settings(TEXT, seed=7, width=64, height=48, fps=16, guidance_scale=1.0)
UNIT = FAMILIES[FamilyName.WAN].plan(Chunking(1, 3, 1, 6), Video((Shot(5),), 16, 3)).units[0]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models, and of adapters for them."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("wan", "wan-a14b"):
        make_model(folder / kind, SIZES["tiny"], kind)
    for number, name in enumerate(("ink", "film"), 1):
        make_adapter(folder / "wan", folder / name, seed=number)
    return {path.name: path for path in folder.iterdir()}


def make_adapter(model: Path, target: Path, seed: int) -> None:
    transformer = WanPipeline.from_pretrained(model, dtype=torch.float32).transformer
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    weights = get_peft_model_state_dict(transformer)
    drawn = torch.Generator().manual_seed(seed)
    random = {name: torch.randn(tensor.shape, generator=drawn) for name, tensor in weights.items()}
    WanPipeline.save_lora_weights(target, transformer_lora_layers=random)


def adapters(models: dict[str, Path], **scales: float) -> tuple[Adapter, ...]:
    return tuple(Adapter(name, str(models[name]), scale=scale) for name, scale in scales.items())


@pytest.fixture(scope="module")
def conditions(models: dict[str, Path]) -> Tensors:
    return Conditioner(Parts(models["wan"], CPU, torch.float32)).encode(Conditioning(TEXT, None))


@pytest.fixture(scope="module")
def adapted(models: dict[str, Path]) -> Generator:
    return Generator(Parts(models["wan"], CPU, torch.float32, adapters=adapters(models, ink=0.5, film=1.0)))


def steps(generator: Generator, conditions: Tensors, *names: str) -> Iterator[Step]:
    settings = replace(SETTINGS, adapters=names)
    return generator.run(UNIT, settings, None, conditions, Noise(7, 0, 0))


def made(generator: Generator, conditions: Tensors, *names: str) -> torch.Tensor:
    *_, last = steps(generator, conditions, *names)
    return last.tensors[LATENTS]


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("names", [("ink",), ("film",), ("ink", "film")], ids="+".join)
def test_latents_are_the_pipelines_with_these_adapters(
    models: dict[str, Path], adapted: Generator, conditions: Tensors, names: tuple[str, ...]
) -> None:
    pipeline: Any = WanPipeline.from_pretrained(models["wan"], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    for name in names:
        pipeline.load_lora_weights(models[name], adapter_name=name)
    pipeline.set_adapters([*names], [{"ink": 0.5, "film": 1.0}[name] for name in names])
    expected = pipeline(
        TEXT,
        height=SETTINGS.height,
        width=SETTINGS.width,
        num_frames=5,
        num_inference_steps=UNIT.steps,
        guidance_scale=1.0,
        latents=Noise(7, 0, 0)(adapted.latent_shape(UNIT, SETTINGS)),
        output_type="latent",
    ).frames
    assert torch.equal(made(adapted, conditions, *names), expected)


def test_a_job_without_adapters_has_the_weights_as_they_were_loaded_whatever_ran_before(
    models: dict[str, Path], adapted: Generator, conditions: Tensors
) -> None:
    """Also between two steps of one that has some."""
    plain = made(Generator(Parts(models["wan"], CPU, torch.float32)), conditions)
    with_ink = made(adapted, conditions, "ink")
    assert not torch.equal(with_ink, plain)
    assert torch.equal(made(adapted, conditions), plain)
    turns = [[*pair] for pair in zip(steps(adapted, conditions, "ink"), steps(adapted, conditions), strict=True)]
    assert torch.equal(turns[-1][0].tensors[LATENTS], with_ink)
    assert torch.equal(turns[-1][1].tensors[LATENTS], plain)


def test_an_adapter_may_be_for_the_second_transformer(models: dict[str, Path], conditions: Tensors) -> None:
    one = Adapter("low", str(models["ink"]), ComponentName.TRANSFORMER_2, 2.0)
    generator = Generator(Parts(models["wan-a14b"], CPU, torch.float32, adapters=(one,)))
    plain, low = (list(steps(generator, conditions, *names)) for names in ((), ("low",)))
    same = [torch.equal(a.tensors[LATENTS], b.tensors[LATENTS]) for a, b in zip(plain, low, strict=True)]
    assert same[0] and not same[-1]
    assert same == sorted(same, reverse=True), "it works from the boundary on"


def test_a_name_that_the_model_does_not_have_is_refused(adapted: Generator, conditions: Tensors) -> None:
    with pytest.raises(ChunkError, match=r"no adapter oil\. It has ink, film\.") as raised:
        made(adapted, conditions, "ink", "oil")
    assert raised.value.reason is ErrorCode.INVALID_REQUEST
    made(adapted, conditions, "ink")


def broken(models: dict[str, Path], folder: Path, how: str) -> Adapter:
    """An adapter that does not fit."""
    name = "pytorch_lora_weights.safetensors"
    weights = load_file(models["ink"] / name)
    match how:
        case "of no such layer":
            weights = {key.replace("blocks.0", "blocks.99"): tensor for key, tensor in weights.items()}
        case "of another width":
            weights = {key: torch.cat([tensor, tensor], dim=-1) for key, tensor in weights.items()}
        case "no adapter":
            weights = {"transformer.proj_out.weight": torch.zeros(2)}
    save_file(weights, folder / name)
    if how == "no safetensors":
        (folder / name).write_bytes(b"12345678 no header")
    if how == "two files":
        save_file(weights, folder / "other.safetensors")
    if how == "no file":
        (folder / name).unlink()
    component = ComponentName.TRANSFORMER_2 if how == "for no such part" else ComponentName.TRANSFORMER
    return Adapter("ink", str(folder), component)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("of no such layer", "is of another model|does not fit"),
        ("of another width", "does not fit"),
        ("no adapter", "does not fit"),
        ("no safetensors", "does not fit"),
        ("two files", "several files .* weightName"),
        ("no file", r"no \.safetensors file"),
        ("for no such part", "for transformer_2, which this model does not have"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_when_the_model_loads(
    models: dict[str, Path], tmp_path: Path, how: str, words: str
) -> None:
    one = broken(models, tmp_path, how)
    with pytest.raises((ValueError, FileNotFoundError), match=f"The adapter ink .*({words})"):
        Generator(Parts(models["wan"], CPU, torch.float32, adapters=(one,)))
