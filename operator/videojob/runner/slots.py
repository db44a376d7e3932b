"""Room for jobs.

A job needs its slot until its last frames are committed: from then on it uploads its video and writes its status, and
the next job may start. What those two phases take is bounded alike, so that a slow store cannot fill disk and memory
with finished videos: where as many jobs are finishing as there are slots, the next one that would finish keeps its own.
"""

from videojob.runner.signals import Signal


class Slots:
    """Room for `size` jobs that make frames, and for as many that have made them all; the size may change."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._making = 0
        self._finishing = 0
        self._freed = Signal()

    @property
    def size(self) -> int:
        """Jobs that there is room for."""
        return self._size

    def resize(self, size: int) -> None:
        """Make room for `size` jobs. Those that run go on."""
        self._size = size
        self._freed.give()

    async def take(self) -> None:
        """Wait until there is room for a job, and take it."""
        while self._making >= self._size:
            await self._freed.wait()
        self._making += 1

    def finish(self) -> bool:
        """A job has made its frames: its slot is free, where there is room for one more that is finishing."""
        if self._finishing >= self._size:
            return False
        self._finishing += 1
        self.give_back()
        return True

    def give_back(self) -> None:
        """A job that had a slot has ended."""
        self._making -= 1
        self._freed.give()

    def finished(self) -> None:
        """A job that was finishing has ended."""
        self._finishing -= 1
