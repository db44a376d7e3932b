"""The jobs that the API says are ours, as tasks: one a job, started, told to stop, and never started twice."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import ValidationError

from videojob.api.conditions import Reason
from videojob.api.videojob import VideoJob
from videojob.kube.client import Change, Listing
from videojob.logs import about
from videojob.runner.stop import Stop, StoppedError

log = logging.getLogger(__name__)


class Slots:
    """Room for `size` jobs at a time; the size may change."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._free = asyncio.Condition()

    @property
    def size(self) -> int:
        """Jobs that there is room for."""
        return self._size

    async def resize(self, size: int) -> None:
        """Make room for `size` jobs. Those that run go on."""
        async with self._free:
            self._size = size
            self._free.notify_all()

    async def take(self) -> None:
        """Wait until there is room, and take it."""
        async with self._free:
            await self._free.wait_for(lambda: self._used < self._size)
            self._used += 1

    async def give_back(self) -> None:
        """Make room."""
        async with self._free:
            self._used -= 1
            self._free.notify_all()


@dataclass
class Work:
    """An attempt that runs here."""

    attempt: int
    stop: Stop
    task: asyncio.Task[None]


class Assignments:
    """Starts `run` for each assigned attempt. Attempts only ever rise, so an old event never starts anything again."""

    def __init__(
        self, run: Callable[[VideoJob, Stop], Awaitable[None]], slots: Slots, count: Callable[[int], None]
    ) -> None:
        self._run = run
        self._slots = slots
        self._count = count
        self._work: dict[str, Work] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = ""
        self._drain_seconds = 0.0

    def see(self, event: Listing | Change) -> None:
        """Act on what the watch says."""
        if isinstance(event, Listing):
            present = {item["metadata"]["uid"] for item in event.items}
            for uid in [uid for uid in self._work if uid not in present]:
                self._gone(uid)
            for item in event.items:
                self._assigned(item)
        elif event.type == "DELETED":
            self._gone(event.object["metadata"]["uid"])
        else:
            self._assigned(event.object)

    def drain(self, reason: str, seconds: float) -> None:
        """Hand every job back, those that come later too, while `reason` is not empty.

        Chunks in flight get `seconds` to end, counted from the first time that a job is told.
        """
        self._draining, self._drain_seconds = reason, seconds
        if reason:
            for work in self._work.values():
                work.stop.drain(Reason.DRAINED.value, seconds)

    def lose(self, reason: str) -> None:
        """Stop every job at once, without writing."""
        for work in self._work.values():
            work.stop.lose(reason)

    async def finish(self, seconds: float) -> None:
        """Wait until every task has ended; those that take longer than `seconds` are cancelled."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        self.lose("it took too long to stop")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _assigned(self, item: dict[str, object]) -> None:
        try:
            job = VideoJob.model_validate(item)
        except ValidationError:
            log.exception("A job that is assigned here cannot be read")
            return
        status, uid = job.status, job.metadata.uid
        if status.assignment is None or status.resolved is None:
            return
        work = self._work.get(uid)
        if work is None or status.attempts > work.attempt:
            if work is not None:
                work.stop.lose("a later attempt was assigned")
            work = self._start(job)
        if status.assignment.release:
            work.stop.release(status.assignment.release)

    def _start(self, job: VideoJob) -> Work:
        stop = Stop()
        task = asyncio.create_task(self._in_slot(job, stop), name=f"job {job.metadata.uid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        work = self._work[job.metadata.uid] = Work(job.status.attempts, stop, task)
        if self._draining:
            stop.drain(Reason.DRAINED.value, self._drain_seconds)
        return work

    async def _in_slot(self, job: VideoJob, stop: Stop) -> None:
        meta = job.metadata
        with about(meta.uid, meta.namespace, meta.name, job.status.attempts):
            await self._run_in_slot(job, stop)

    async def _run_in_slot(self, job: VideoJob, stop: Stop) -> None:
        waited = True
        try:
            await stop.race(self._slots.take(), new=True)
        except StoppedError:
            waited = False  # The attempt sees the stop as well, and hands the job back.
        self._count(len(self._tasks))
        try:
            await self._run(job, stop)
        except Exception:
            log.exception("The task of %s failed", job.metadata.uid)
        finally:
            self._count(len(self._tasks) - 1)
            if waited:
                await self._slots.give_back()

    def _gone(self, uid: str) -> None:
        """The watch has seen the job leave; whatever comes later is a new assignment."""
        work = self._work.pop(uid, None)
        if work is not None:
            work.stop.lose("it is no longer assigned to this replica")
