import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from videojob.triton.digest import Digests, weights_digest


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


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
    computed: list[Path] = []

    def counted(directory: Path, stopped: Callable[[], bool]) -> str:
        computed.append(directory)
        return weights_digest(directory)

    monkeypatch.setattr("videojob.triton.digest.weights_digest", counted)
    digests, directory = Digests(), write(tmp_path / "a", FILES)

    first = digests.of(directory)
    assert (digests.of(directory), len(computed)) == (first, 1)
    write(directory, {"vae/model.safetensors": b"weightz"})
    assert digests.of(directory) == weights_digest(directory) != first
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
    digests, directory = Digests(), write(tmp_path / "a", FILES)
    with (directory / "vae" / "model.safetensors").open("wb") as file:
        file.truncate(1 << 40)  # Reading so many zeros takes many minutes.
    computing = asyncio.create_task(asyncio.to_thread(digests.of, directory))
    await asyncio.sleep(0.1)
    assert not computing.done()

    digests.stop()

    with pytest.raises(InterruptedError):
        await asyncio.wait_for(computing, 10)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model in"):
        weights_digest(tmp_path / "nowhere")
