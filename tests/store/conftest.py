"""Every test of the store runs over a local folder and over a real S3 server."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_none

from tests.s3 import S3Server, s3_server
from videojob.store import JobStore, Store, StoreError, open_store

__all__ = ["s3_server"]


@dataclass(frozen=True)
class Place:
    """Where a store is, and the folder that its objects are files of."""

    url: str
    folder: Path
    endpoint: str | None = None
    credentials: Mapping[str, str] | None = None

    def open(self) -> Store:
        """A new client."""
        return open_store(self.url, endpoint=self.endpoint, region="us-east-1", credentials=self.credentials)

    def job(self, namespace: str = "team", uid: str = "0b5c") -> JobStore:
        """The files of one job, through a new client."""
        return JobStore(self.open(), namespace, uid, without_pauses())

    def files(self) -> set[str]:
        """Every object, by its path."""
        files = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return {str(path) for path in files}


def without_pauses(tries: int = 3) -> AsyncRetrying:
    """The store's retry policy, without its pauses."""
    retryable = retry_if_exception(lambda error: isinstance(error, StoreError) and error.retryable)
    return AsyncRetrying(stop=stop_after_attempt(tries), wait=wait_none(), retry=retryable, reraise=True)


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store."""
    if request.param == "file":
        return Place(f"file://{tmp_path}/store", tmp_path / "store")
    server: S3Server = request.getfixturevalue("s3_server")
    bucket = server.bucket()
    folder = server.buckets / bucket / "videos"
    return Place(f"s3://{bucket}/videos", folder, server.endpoint, server.credentials)
