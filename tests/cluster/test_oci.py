"""Images as `ctr images import` takes them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dev.cluster.oci import File, Image, Link, archive, tree


@pytest.fixture
def image(tmp_path: Path) -> Image:
    code = tmp_path / "code"
    (code / "package").mkdir(parents=True)
    (code / "package" / "module.py").write_text("x = 1\n")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    return Image(
        "example.org/thing:1",
        {
            "/usr": None,
            "/bin": Link("usr/bin"),
            "/opt/start": File(b"#!/bin/sh\necho hello\n", executable=True),
            "/opt/program": program,
            "/opt/code": code,
            "/etc/name": File(b"thing\n"),
        },
        entrypoint=("/opt/start",),
        user="10001:10001",
        environment={"PATH": "/opt"},
    )


def test_an_image_holds_what_it_was_given(image: Image) -> None:
    config, layer = parts(image)
    assert config["config"] == {
        "User": "10001:10001",
        "Entrypoint": ["/opt/start"],
        "Env": ["PATH=/opt"],
        "WorkingDir": "/",
    }
    found = {member.name: (member.type, member.mode) for member in layer.getmembers()}
    file, folder = tarfile.REGTYPE, tarfile.DIRTYPE
    assert found == {
        "bin": (tarfile.SYMTYPE, 0o644),
        "etc": (folder, 0o755),
        "etc/name": (file, 0o644),
        "opt": (folder, 0o755),
        "opt/code": (folder, 0o755),
        "opt/code/package": (folder, 0o755),
        "opt/code/package/module.py": (file, 0o644),
        "opt/program": (file, 0o755),
        "opt/start": (file, 0o755),
        "usr": (folder, 0o755),
    }
    assert layer.getmember("bin").linkname == "usr/bin"
    text = layer.extractfile("opt/code/package/module.py")
    assert text is not None
    assert text.read() == b"x = 1\n"


def test_the_name_goes_with_the_manifest(image: Image) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(image))) as tar:
        (manifest,) = read(tar, "index.json")["manifests"]
    assert manifest["annotations"] == {"io.containerd.image.name": "example.org/thing:1"}


def test_the_same_contents_are_the_same_bytes(image: Image) -> None:
    first = archive(image)
    next(path for path in image.entries.values() if isinstance(path, Path)).touch()
    assert archive(image) == first


def test_a_tree_outlives_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "run").write_text("#!/bin/sh\n")
    (folder / "bin" / "run").chmod(0o755)
    (folder / "bin" / "also").symlink_to("run")
    assert tree(folder) == {"bin/run": File(b"#!/bin/sh\n", executable=True), "bin/also": Link("run")}


def parts(image: Image) -> tuple[dict[str, Any], tarfile.TarFile]:
    with tarfile.open(fileobj=io.BytesIO(archive(image))) as tar:
        (described,) = read(tar, "index.json")["manifests"]
        manifest = read(tar, blob(described))
        layer = tar.extractfile(blob(manifest["layers"][0]))
        assert layer is not None
        return read(tar, blob(manifest["config"])), tarfile.open(fileobj=io.BytesIO(layer.read()))


def blob(descriptor: dict[str, Any]) -> str:
    return f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"


def read(tar: tarfile.TarFile, name: str) -> dict[str, Any]:
    file = tar.extractfile(name)
    assert file is not None
    found: dict[str, Any] = json.load(file)
    return found
