"""How long the event loop is blocked: while one callback runs, or a garbage collection, nothing else does.

Renewals of the leader's Lease and answers to probes wait meanwhile, so a long block is the operator's first symptom.
"""

import asyncio
from collections.abc import Callable
from time import thread_time

TURN_SECONDS = 0.01

Observe = Callable[[float], None]


class LoopLag:
    """Looks every 10 ms how late it comes: that is the length of a block, less at most these 10 ms.

    And how much CPU time the loop has used since the last look, that block included: lag without as much CPU time means
    that the process did not get the CPU that it needs.
    """

    def __init__(self, lag: Observe, busy: Observe) -> None:
        """Both are called at each look, with seconds."""
        self._lag = lag
        self._busy = busy
        self._spent = 0.0

    def begin(self) -> None:
        """Measure the running loop, until it is closed."""
        loop = asyncio.get_running_loop()
        self._spent = thread_time()
        self._expect(loop, loop.time() + TURN_SECONDS)

    def _expect(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        loop.call_at(due, self._look, loop, due)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now, spent = loop.time(), thread_time()
        self._lag(max(now - due, 0.0))
        self._busy(spent - self._spent)
        self._spent = spent
        self._expect(loop, now + TURN_SECONDS)
