"""Waiting, between tasks of one event loop."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress


class Signal:
    """Wakes everyone who waits when it is given; a new wait is for the next time."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def give(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float | None = None) -> None:
        """Until it is given, or so long."""
        event = self._event
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


async def first_of(*waits: Awaitable[object]) -> None:
    """Wait until one of them is done, and cancel the others. An error of one that is done is raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
