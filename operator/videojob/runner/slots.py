"""Room for jobs."""

import asyncio


class Slots:
    """Room for `size` jobs at a time; the size may change."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._free = asyncio.Condition()

    @property
    def size(self) -> int:
        """Jobs that there is room for."""
        return self._size

    async def resize(self, size: int) -> None:
        """Make room for `size` jobs. Those that run go on."""
        async with self._free:
            self._size = size
            self._free.notify_all()

    async def take(self) -> None:
        """Wait until there is room, and take it."""
        async with self._free:
            await self._free.wait_for(lambda: self._used < self._size)
            self._used += 1

    async def give_back(self) -> None:
        """Make room."""
        async with self._free:
            self._used -= 1
            self._free.notify_all()
