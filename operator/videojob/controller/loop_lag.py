"""How long the event loop is blocked: while one callback runs, or a garbage collection, nothing else does.

Renewals of the leader's Lease and answers to probes wait meanwhile, so a long block is the operator's first symptom.
"""

import asyncio
from collections.abc import Callable

TURN_SECONDS = 0.01


class LoopLag:
    """Looks every 10 ms how late it comes: that is the length of a block, less at most these 10 ms."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        """`observe` is called with each lag, in seconds."""
        self._observe = observe

    def begin(self) -> None:
        """Measure the running loop, until it is closed."""
        loop = asyncio.get_running_loop()
        self._expect(loop, loop.time() + TURN_SECONDS)

    def _expect(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        loop.call_at(due, self._turn, loop, due)

    def _turn(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self._observe(max(now - due, 0.0))
        self._expect(loop, now + TURN_SECONDS)
