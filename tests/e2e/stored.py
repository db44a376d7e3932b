"""What a pool's store has of its jobs."""

import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from videojob.api.videojob import VideoJobStatus

_LOGS = (("latents", "checkpoint", ".safetensors"), ("segments", "segment", ".mp4"))


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder that may be removed meanwhile: `Path.glob` fails then, `os.walk` leaves it out."""
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names)


class StoredFiles(ABC):
    """The files of a namespace's jobs in a folder."""

    namespace: str

    @property
    @abstractmethod
    def store(self) -> Path:
        """Folder of the pool's store."""

    def records(self, uid: str, log: str = "segments") -> dict[int, dict[str, Any]]:
        """The records in one of the job's logs, by index: of its pieces, or of its units (`latents`)."""
        found: dict[int, dict[str, Any]] = {}
        for path in _files(self.store / self.namespace / uid / log):
            if path.suffix != ".json":
                continue
            try:
                found[int(path.stem)] = json.loads(path.read_text())
            except (FileNotFoundError, ValueError):
                continue
        return found

    def chunk_files(self, uid: str, index: int) -> dict[str, bytes]:
        """A committed chunk: segment, checkpoint and the record of each, by the log and the suffix."""
        root, found = self.store / self.namespace / uid, {}
        for log, part, suffix in _LOGS:
            record = self.records(uid, log)[index]
            found[log + suffix] = (root / record[part]["key"]).read_bytes()
            found[log + ".json"] = json.dumps(record).encode()
        return found

    def put_chunk(self, uid: str, index: int, files: dict[str, bytes], *, attempt: int) -> None:
        """Commit such a chunk to another job, as that attempt."""
        root = self.store / self.namespace / uid
        for log, part, suffix in _LOGS:
            record = json.loads(files[log + ".json"])
            name = record[part]["key"].rpartition("/")[2]
            record["attempt"], record[part]["key"] = attempt, f"attempts/{attempt}/{name}"
            path = root / record[part]["key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[log + suffix])
            new = root / "record.new"
            new.write_text(json.dumps(record))
            (root / log).mkdir(exist_ok=True)
            new.rename(root / log / f"{index}.json")

    def copy_output(self, source: str, target: str) -> None:
        """Give a job the finished video of another."""
        shutil.copytree(self.store / self.namespace / source, self.store / self.namespace / target)

    def files(self, uid: str) -> set[str]:
        """Every file of the job, relative to its folder."""
        root = self.store / self.namespace / uid
        return {path.relative_to(root).as_posix() for path in _files(root)}

    async def has(self, uid: str, file: str) -> bool:
        """Whether the job has that file."""
        return file in self.files(uid)

    async def has_only_its_video(self, uid: str) -> bool:
        """Whether the job's files are its video, that one's pictures and its record."""
        record = json.loads((self.store / self.namespace / uid / "output.json").read_text())
        pictures = {record[each]["key"] for each in ("poster", "contact_sheet")}
        return self.files(uid) == {"output.json", record["key"], *pictures}

    def output_sha256(self, status: VideoJobStatus) -> str:
        """sha256 of the video itself, which must be what the status says."""
        assert status.output is not None
        data = self.path(status.output.uri).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        assert (digest, len(data)) == (status.output.sha256, status.output.size_bytes)
        return digest

    def path(self, uri: str) -> Path:
        """The file of a file:// URL."""
        return Path(unquote(urlsplit(uri).path))
