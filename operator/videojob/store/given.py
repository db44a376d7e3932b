"""What people have put into a namespace of the store, for its jobs."""

import asyncio
from pathlib import Path

from obstore.store import LocalStore
from tenacity import AsyncRetrying

from videojob.store.folder import Folder
from videojob.store.objects import Store, folder_of


class Given:
    """The objects of one namespace that no job has made. Every method may raise StoreError."""

    def __init__(self, store: Store, namespace: str, retrying: AsyncRetrying | None = None) -> None:
        self._folder = Folder(store, namespace, retrying)
        self._local = folder_of(store) / namespace if isinstance(store, LocalStore) else None

    def uri(self, key: str) -> str:
        """The URL of an object."""
        return self._folder.uri(key)

    async def read(self, key: str, most: int) -> bytes | None:
        """An object; None if it is missing, or a link of a local folder that leads out of the namespace.

        Raises ObjectTooLarge beyond `most` bytes.
        """
        if self._local is not None and not await asyncio.to_thread(_is_within, self._local, key):
            return None
        return await self._folder.get(key, most)


def _is_within(folder: Path, key: str) -> bool:
    return (folder / key).resolve().is_relative_to(folder.resolve())
