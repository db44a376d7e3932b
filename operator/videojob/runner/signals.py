"""A signal between tasks of one event loop."""

import asyncio
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
