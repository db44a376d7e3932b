"""How a job is asked to stop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class StoppedError(Exception):
    """The job has to stop: hand it back with the reason, or, where it is lost, leave it alone."""

    def __init__(self, reason: str, lost: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lost = lost


class Stop:
    """A request to stop one attempt, in three degrees: begin nothing new, stop within a step, stop without writing.

    Of each degree the first reason stays, and a higher degree counts more than a lower one.
    """

    def __init__(self) -> None:
        self._wound_down = asyncio.Event()
        self._stopped = asyncio.Event()
        self._reason = ""
        self.lost = False

    def drain(self, reason: str, seconds: float) -> None:
        """Begin nothing new, end what was begun within `seconds`, and hand the job back; else it is released."""
        if not self._wound_down.is_set():
            self._reason = reason
            self._wound_down.set()
            asyncio.get_running_loop().call_later(seconds, self.release, reason)

    def release(self, reason: str) -> None:
        """Stop within a denoising step and hand the job back with that reason."""
        if not self._stopped.is_set():
            self._reason = reason
            self._wound_down.set()
            self._stopped.set()

    def lose(self, reason: str) -> None:
        """Stop at once, without writing: the job belongs to somebody else."""
        self._reason = reason
        self.lost = True
        self._wound_down.set()
        self._stopped.set()

    def is_set(self) -> bool:
        """Whether the attempt has to stop within a step."""
        return self._stopped.is_set()

    def check(self, *, new: bool = False) -> None:
        """Raises StoppedError if the attempt has to stop; with `new` also if it may begin nothing new."""
        if self._event(new).is_set():
            raise StoppedError(self._reason, self.lost)

    async def race(self, work: Coroutine[Any, Any, T], *others: asyncio.Task[None], new: bool = False) -> T:
        """The result of `work`, which is cancelled, with StoppedError raised, where the stop comes first.

        With `new` the work waits for something new to begin, so a drain ends it as well. Where one of the tasks in
        `others` fails first its error is raised. Work that is done counts, whatever else happened meanwhile: nothing
        it took from a queue is lost.
        """
        task = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self._event(new).wait())
        try:
            await asyncio.wait({task, asked, *others}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            self.check(new=new)
            for other in others:
                if other.done():
                    other.result()
            return await task
        finally:
            asked.cancel()
            task.cancel()
            await asyncio.wait({task, asked})

    def _event(self, new: bool) -> asyncio.Event:
        return self._wound_down if new else self._stopped
