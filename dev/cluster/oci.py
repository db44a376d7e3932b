"""OCI images, written by us: one layer of folders, links and files, in the archive that `ctr images import` takes.

The same contents give the same bytes, hence the same digest: owners are root and times are zero.
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class File:
    """A file."""

    content: bytes
    executable: bool = False


Entry = Path | Link | File | None
"""The content of a path: a copy of a file or folder of this machine, a link, a file; None is an empty folder."""


def tree(folder: Path) -> dict[str, Entry]:
    """The content of a folder by path within it, read now: the folder may be removed before the image is made."""
    found: dict[str, Entry] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = Link(str(path.readlink()))
        elif path.is_file():
            found[name] = _read(path)
    return found


@dataclass(frozen=True)
class Image:
    """An image: its name with the tag, and its content."""

    name: str
    entries: Mapping[str, Entry]
    """By absolute path. Folders on the way are made."""
    entrypoint: tuple[str, ...] = ()
    user: str = "10001:10001"
    environment: Mapping[str, str] = field(default_factory=dict)


def archive(image: Image) -> bytes:
    """The image as an OCI layout in a tar file."""
    layer = _layer(image.entries)
    config = _json(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {
                "User": image.user,
                "Entrypoint": list(image.entrypoint),
                "Env": [f"{name}={value}" for name, value in image.environment.items()],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    described = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    described["annotations"] = {"io.containerd.image.name": image.name}
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
    files["index.json"] = _json({"schemaVersion": 2, "manifests": [described]})
    for blob in (manifest, config, layer):
        files[f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}"] = blob
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, content in files.items():
            _add_file(tar, name, content, 0o644)
    return output.getvalue()


def _layer(entries: Mapping[str, Entry]) -> bytes:
    output = io.BytesIO()
    made: set[str] = set()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, entry in sorted(entries.items()):
            _add(tar, path.strip("/"), entry, made)
    return output.getvalue()


def _add(tar: tarfile.TarFile, name: str, entry: Entry, made: set[str]) -> None:
    _add_folders(tar, name, made)
    if isinstance(entry, Path) and entry.is_dir():
        for child in sorted(entry.iterdir()):
            _add(tar, f"{name}/{child.name}", child, made)
    elif isinstance(entry, Path):
        _add(tar, name, _read(entry), made)
    elif isinstance(entry, Link):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, entry.target
        tar.addfile(info)
    elif isinstance(entry, File):
        _add_file(tar, name, entry.content, 0o755 if entry.executable else 0o644)
    else:
        _add_folders(tar, f"{name}/", made)


def _add_folders(tar: tarfile.TarFile, name: str, made: set[str]) -> None:
    parts = name.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        folder = "/".join(parts[:depth])
        if folder not in made:
            made.add(folder)
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)


def _read(path: Path) -> File:
    return File(path.read_bytes(), bool(path.stat().st_mode & 0o100))


def _add_file(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
