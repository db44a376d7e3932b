"""Virtual time: an event loop whose clock jumps to the next timer, so that real asyncio code waits for nothing."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Jump(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError(f"nothing will ever happen again after {self.now:g} s")
        # A little more than asked: sums of floats must not leave a timer a hair in the future for ever.
        self.now += timeout + 1e-9 if timeout > 0 else 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on virtual time, from 0 s on."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def run(history: Coroutine[Any, Any, Result]) -> Result:
    """Run it in virtual time; what is left of its tasks is cancelled at its end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(history)


def now() -> float:
    """Seconds of virtual time."""
    return asyncio.get_running_loop().time()
