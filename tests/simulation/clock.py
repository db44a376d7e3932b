"""Virtual time: an event loop whose clock jumps to the next timer, so that the real asyncio code runs unchanged.

Nothing waits in real time, and nothing runs in threads: what would is run at once, in the loop. So one seed gives one
history, however busy the machine is.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

Result = TypeVar("Result")

BEGIN = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
"""Wall time at 0 s of virtual time."""
TURNS_AT_ONCE = 20_000
"""Turns of the loop without any passing of time: more than that is a loop that never waits."""


class Stuck(Exception):
    """Nothing will ever happen again, or time does not go on."""


class _Jump(selectors.BaseSelector):
    """Waits for nothing: time goes on instead."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck(f"nothing will happen any more after {self.now:.3f} s")
        if timeout > 0:
            # A little more than asked: sums of floats must not leave a timer a hair in the future for ever.
            self.now += timeout + 1e-9
            self.turns = 0
        else:
            self.turns += 1
            if self.turns > TURNS_AT_ONCE:
                raise Stuck(f"time does not go on at {self.now:.3f} s: something runs without a pause")
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def get_map(self) -> Any:
        return {}


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on virtual time, from 0 s on."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now

    def run_in_executor(self, executor: Any, func: Callable[..., Result], *args: Any) -> "asyncio.Future[Result]":  # type: ignore[override]
        done: asyncio.Future[Result] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        """No signal ever comes."""


class Clock:
    """The clocks of a process: of the history's virtual time, with a wall clock that may be wrong."""

    def __init__(self, loop: asyncio.AbstractEventLoop, skew_seconds: float = 0.0) -> None:
        self._loop = loop
        self._skew = timedelta(seconds=skew_seconds)

    def monotonic(self) -> float:
        return self._loop.time()

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self._loop.time()) + self._skew


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, Result]]) -> Result:
    """Run `main` in virtual time, and end whatever is left of it. Raises Stuck."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()
