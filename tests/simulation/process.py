"""Processes in one event loop: each can be killed at any await, or stopped as by SIGSTOP and continued."""

import asyncio
import contextvars
import types
from collections.abc import Coroutine, Generator
from typing import Any

_CURRENT: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)


def current() -> "Process | None":
    """The process whose code runs."""
    return _CURRENT.get()


class Process:
    """A group of tasks that live and die together. What they start belongs to the process too."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.paused = False
        self.resumed = float("-inf")
        """When it went on last, in seconds of the loop's clock."""
        self.ended: BaseException | None = None
        """What a task of it ended with that nobody inside met."""
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self._continued: list[asyncio.Future[None]] = []
        self._context = contextvars.copy_context()
        self._context.run(_CURRENT.set, self)

    def start(self, main: Coroutine[Any, Any, Any]) -> None:
        """Run `main` as the process; with its end the process is dead."""
        task = asyncio.get_running_loop().create_task(main, context=self._context)
        task.add_done_callback(self._exited)

    def kill(self) -> None:
        """End the process where it stands: nothing that it still runs reaches anybody."""
        self.dead, self.paused = True, False
        for task in tuple(self.tasks):
            task.cancel()
        self._go_on()

    def pause(self) -> None:
        """Run nothing of it until `resume`; time goes on."""
        self.paused = not self.dead

    def resume(self) -> None:
        """Go on."""
        if self.paused:
            self.paused, self.resumed = False, asyncio.get_running_loop().time()
        self._go_on()

    def _go_on(self) -> None:
        for future in self._continued:
            if not future.done():
                future.set_result(None)
        self._continued.clear()

    def _exited(self, task: "asyncio.Task[Any]") -> None:
        if not self.dead and not task.cancelled():
            self.ended = task.exception()
        self.dead = True

    @types.coroutine
    def gate(self, code: Any) -> Generator[Any, Any, Any]:
        """`code`, step by step, as long as the process runs."""
        value: Any = None
        error: BaseException | None = None
        while True:
            while self.paused:
                future = asyncio.get_running_loop().create_future()
                self._continued.append(future)
                try:
                    yield from future
                except asyncio.CancelledError as cancelled:
                    error = cancelled
            try:
                if error is not None:
                    thrown, error = error, None
                    step = code.throw(thrown)
                else:
                    step = code.send(value)
            except StopIteration as stop:
                return stop.value
            try:
                value = yield step
            except BaseException as raised:
                error = raised


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop know which task belongs to which process."""

    def make(loop: asyncio.AbstractEventLoop, code: Any, context: Any = None) -> "asyncio.Task[Any]":
        process = context.get(_CURRENT) if context is not None else _CURRENT.get()
        if process is None:
            return asyncio.Task(code, loop=loop, context=context)
        task = asyncio.Task(process.gate(code), loop=loop, context=context)
        process.tasks[task] = None
        task.add_done_callback(lambda done: process.tasks.pop(done, None))
        return task

    loop.set_task_factory(make)
