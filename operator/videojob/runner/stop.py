"""How a job is told to stop."""

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
    """A request to stop one attempt. The first reason stays; but being lost counts more: it forbids every write."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._reason = ""
        self.lost = False

    @property
    def asked(self) -> bool:
        """Whether the attempt has to stop."""
        return self._event.is_set()

    def release(self, reason: str) -> None:
        """Stop within a denoising step and hand the job back with that reason."""
        if not self._event.is_set():
            self._reason = reason
            self._event.set()

    def lose(self, reason: str) -> None:
        """Stop at once, without writing: the job belongs to somebody else."""
        self._reason = reason
        self.lost = True
        self._event.set()

    def check(self) -> None:
        """Raises StoppedError if the attempt has to stop."""
        if self._event.is_set():
            raise StoppedError(self._reason, self.lost)

    async def race(self, work: Coroutine[Any, Any, T], *others: asyncio.Task[None]) -> T:
        """The result of `work`, which is cancelled, with StoppedError raised, where the stop comes first.

        Where one of the tasks in `others` fails first its error is raised. Work that is done counts, whatever else
        happened meanwhile: nothing it took from a queue is lost.
        """
        task = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({task, asked, *others}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            self.check()
            for other in others:
                if other.done():
                    other.result()
            return await task
        finally:
            asked.cancel()
            task.cancel()
            await asyncio.wait({task, asked})
