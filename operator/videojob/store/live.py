"""The playlist that people watch while their video is made.

It is the one object that is written over with something else, so it has no part in what counts: whoever writes it makes
it from the log of pieces, and the playlist of the finished video is another object, committed as the MP4 is. A write of
an old runner that lands late shows players less than there is, until the next piece is committed.
"""

import asyncio
from typing import Final

from videojob.store import layout
from videojob.store.errors import StoreError
from videojob.store.folder import Folder
from videojob.store.records import StoredObject

WRITE_SECONDS: Final = 5.0
"""For one write of it: less than passes before somebody else can have the job, so none of ours is late."""


class LivePlaylist:
    """The playlist of one job. Every method may raise StoreError."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    @property
    def uri(self) -> str:
        """Its URL."""
        return self._folder.uri(layout.LIVE)

    async def write(self, text: str) -> None:
        """Put it in place of what is there, and give up after WRITE_SECONDS. What it names has to be there."""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._folder.put_named(layout.LIVE, text.encode())
        except TimeoutError as error:
            raise StoreError(f"{self.uri} was not written within {WRITE_SECONDS:g} s.", retryable=True) from error

    async def end(self, text: str) -> None:
        """Put that of a finished video, whose text is committed: no write of it can be late."""
        await self._folder.put_named(layout.LIVE, text.encode())

    async def read(self) -> str:
        """What is there; empty without one."""
        return (await self._folder.get(layout.LIVE) or b"").decode(errors="replace")

    async def remove(self) -> None:
        """Before what it names goes."""
        await self._folder.remove([layout.LIVE])

    async def put_first(self, attempt: int, data: bytes) -> StoredObject:
        """Put the media segment that begins with the first piece; `attempt` is that of the second one's record."""
        return await self._folder.put(layout.first_name(attempt), ".mp4", data)
