import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from videojob.families import ComponentName
from videojob.triton.digest import Digests, Weights, weights_digest
from videojob.triton.settings import Adapter, Component


def write(directory: Path, files: dict[str, bytes], *components: Component) -> Weights:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return Weights(directory, components)


INDEX = b'{"_class_name": "P", "vae": ["diffusers", "V"], "image_encoder": [null, null], "boundary_ratio": 0.9}'
FILES = {"model_index.json": INDEX, "vae/model.safetensors": b"weights"}


def test_equal_folders_have_equal_digests(tmp_path: Path) -> None:
    digest = weights_digest(write(tmp_path / "a", FILES))
    assert digest == weights_digest(write(tmp_path / "b", dict(reversed(FILES.items()))))
    assert digest.startswith("sha256:")
    assert len(digest) == len("sha256:") + 64


def test_a_digest_is_computed_again_only_for_files_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[Weights] = []

    def counted(weights: Weights, stopped: Callable[[], bool]) -> str:
        computed.append(weights)
        return weights_digest(weights)

    monkeypatch.setattr("videojob.triton.digest.weights_digest", counted)
    digests, weights = Digests(), write(tmp_path / "a", FILES)

    first = digests.of(weights)
    assert (digests.of(weights), len(computed)) == (first, 1)
    write(tmp_path / "a", {"vae/model.safetensors": b"weightz"})
    assert digests.of(weights) == weights_digest(weights) != first
    assert len(computed) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda files: {**files, "vae/model.safetensors": b"weightz"},
        lambda files: {**files, "vae/extra": b""},
        lambda files: {"model_index.json": INDEX},
        lambda files: {"model_index.json": INDEX, "vae/model2.safetensors": b"weights"},
        lambda files: {"model_index.json": INDEX + b" ", "vae/model.safetensors": b"weights"[1:]},
        lambda files: {**files, "model_index.json": INDEX.replace(b"0.9", b"0.8")},
    ],
    ids=["content", "more", "fewer", "name", "border", "index"],
)
def test_any_change_changes_the_digest(tmp_path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    assert weights_digest(write(tmp_path / "a", FILES)) != weights_digest(write(tmp_path / "b", change(FILES)))


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        ".cache/huggingface/download/vae/model.safetensors.metadata",
        "vae/.DS_Store",
        "vae/.cache/huggingface/lock",
        "image_encoder/model.safetensors",
        "original/weights.pth",
    ],
)
def test_what_no_pipeline_loads_changes_nothing(tmp_path: Path, name: str) -> None:
    """Copies of the same weights on two nodes are the same weights, whoever downloaded them and when."""
    there = write(tmp_path / "a", {**FILES, name: b"1732550400.0"})
    assert weights_digest(there) == weights_digest(write(tmp_path / "b", FILES))


@pytest.mark.parametrize("index", [b"{", b"[]", b"\xff"])
def test_an_index_that_cannot_be_read_is_a_sentence(tmp_path: Path, index: bytes) -> None:
    with pytest.raises(ValueError, match=r"model_index\.json is no index of a diffusers pipeline"):
        weights_digest(write(tmp_path, {"model_index.json": index}))


async def test_a_stop_interrupts_a_digest(tmp_path: Path) -> None:
    """A runner that is asked to end while it reads weights of many gigabytes ends."""
    digests, weights = Digests(), write(tmp_path / "a", FILES)
    with (tmp_path / "a" / "vae" / "model.safetensors").open("wb") as file:
        file.truncate(1 << 40)  # Reading so many zeros takes many minutes.
    computing = asyncio.create_task(asyncio.to_thread(digests.of, weights))
    await asyncio.sleep(0.1)
    assert not computing.done()

    digests.stop()

    with pytest.raises(InterruptedError):
        await asyncio.wait_for(computing, 10)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model in"):
        weights_digest(Weights(tmp_path / "nowhere"))


SHARED = {"config.json": b"{}", "model.safetensors": b"encoder"}


def component(directory: Path | None = None, **settings: Any) -> Component:
    return Component(ComponentName.VAE, str(directory) if directory else None, **settings)


def test_what_has_no_component_of_its_own_keeps_the_digest_that_running_jobs_began_with(tmp_path: Path) -> None:
    """Also where an order by whole names would be another one."""
    awkward = {"a/config.json": b"1", "a-b/config.json": b"2", "a/z/.y": b"", "a/c-d": b"3", "a/c/e": b"4"}
    index = b'{"a": ["x","y"], "a-b": ["x","y"]}'
    assert [
        weights_digest(write(tmp_path / "a", FILES)),
        weights_digest(write(tmp_path / "b", {"model_index.json": index, **awkward})),
    ] == [
        "sha256:159110f0af5158c5720f17c1bb3f512337652645bdbb6b70eed2283ed8010936",
        "sha256:4261b5b18935e59d059a4a03e582045965e548f42ab350aee640b07791a5930d",
    ]


def test_a_component_in_a_folder_of_its_own_counts_as_one_in_the_pipelines(tmp_path: Path) -> None:
    """The pipeline's own is neither hashed nor looked at: it may be missing, or 11 GB."""
    write(tmp_path / "shared", {**SHARED, ".cache/lock": b"", "sub/more": b"1"})
    own = component(tmp_path / "shared")
    in_place = {f"vae/{name}": content for name, content in {**SHARED, "sub/more": b"1"}.items()}
    digest = weights_digest(write(tmp_path / "a", {**in_place, "model_index.json": INDEX}))
    assert digest == weights_digest(write(tmp_path / "b", FILES, own))
    assert digest == weights_digest(write(tmp_path / "c", {"model_index.json": INDEX}, own))
    digests, weights = Digests(), Weights(tmp_path / "b", (own,))
    assert digests.of(weights) == digests.known(weights) == digest
    write(tmp_path / "shared", {"model.safetensors": b"encodes"})
    assert digests.known(weights) == "" != digests.of(weights) != digest


def test_another_format_or_device_is_another_model(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", FILES).directory
    made = [
        (),
        (component(format="float32"),),
        (component(format="bfloat16"),),
        (component(on_cpu=True),),
        (component(weights="int8"),),
        (component(weights="float8"),),
        (component(format="bfloat16", weights="float8"),),
        (component(format="float32", on_cpu=True),),
        (component(format="float32"), Component(ComponentName.TEXT_ENCODER, on_cpu=True)),
    ]
    assert len({weights_digest(Weights(folder, components)) for components in made}) == len(made)
    assert weights_digest(Weights(folder, made[-1])) == weights_digest(Weights(folder, made[-1][::-1]))


@pytest.mark.parametrize("files", [{}, FILES], ids=["nothing", "a whole pipeline"])
def test_a_folder_without_the_component_is_an_error(tmp_path: Path, files: dict[str, bytes]) -> None:
    write(tmp_path / "own", files)
    with pytest.raises(FileNotFoundError, match=f"There is no vae in {tmp_path / 'own'}: it has no config.json"):
        weights_digest(write(tmp_path / "a", FILES, component(tmp_path / "own")))


def test_adapters_are_part_of_it_by_name_scale_component_and_contents(tmp_path: Path) -> None:
    weights = write(tmp_path / "a", FILES)
    for name, content in (("ink", b"ink"), ("film", b"film")):
        write(tmp_path / name, {"lora.safetensors": content, "README.md": content})
    ink = Adapter("ink", str(tmp_path / "ink"))
    others = [
        (),
        (ink,),
        (replace(ink, name="oil"),),
        (replace(ink, scale=0.5),),
        (replace(ink, component=ComponentName.TRANSFORMER_2),),
        (replace(ink, directory=str(tmp_path / "film")),),
        (ink, Adapter("film", str(tmp_path / "film"))),
    ]
    digests = [weights_digest(weights._replace(adapters=adapters)) for adapters in others]
    assert len({*digests}) == len(others)
    assert digests[0] == weights_digest(weights), "a model without adapters keeps its digest"
    assert weights_digest(weights._replace(adapters=others[-1][::-1])) == digests[-1]


def test_which_file_is_an_adapters_has_to_be_clear(tmp_path: Path) -> None:
    weights = write(tmp_path / "a", FILES)
    ink = Adapter("ink", str(tmp_path / "ink"))
    with pytest.raises(FileNotFoundError, match=r"The adapter ink has no \.safetensors file"):
        weights_digest(weights._replace(adapters=(ink,)))
    write(tmp_path / "ink", {"high.safetensors": b"high", "low.safetensors": b"low"})
    with pytest.raises(ValueError, match=r"several files .*high\.safetensors, low\.safetensors\. Set its weightName"):
        weights_digest(weights._replace(adapters=(ink,)))
    high, low = (replace(ink, weight_name=f"{name}.safetensors") for name in ("high", "low"))
    assert weights_digest(weights._replace(adapters=(high,))) != weights_digest(weights._replace(adapters=(low,)))
    with pytest.raises(FileNotFoundError, match=r"has no mid\.safetensors"):
        weights_digest(weights._replace(adapters=(replace(ink, weight_name="mid.safetensors"),)))
