"""The jobs that the API server has assigned here, as tasks: one a job, started, stopped, and never started twice.

A job is *held* as long as its task runs, and the replica's report names what is held. So one that nobody works on,
because it cannot be read or its last status was refused, is seen by the operator and taken back. One that becomes
unreadable while it runs goes on as it was last read. One whose frames are all made is *finishing*: its slot is free.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError

from videojob.api.reasons import Reason
from videojob.api.replica import HeldJob
from videojob.api.videojob import VideoJob
from videojob.kube.client import VIDEO_JOBS, Change, Listing
from videojob.logs import about
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.slots import Slots
from videojob.runner.status import Generation
from videojob.runner.stop import Stop, StoppedError

Json = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass
class Work:
    """An attempt that runs here, or has ended here."""

    held: HeldJob
    stop: Stop
    generation: Generation
    free_slot: Callable[[], None] = lambda: None
    """To be called once all its frames are committed."""


class Assignments:
    """Starts `run` for each assigned attempt. Attempts only ever rise, so an old event never starts anything again."""

    def __init__(
        self,
        run: Callable[[VideoJob, Work], Awaitable[None]],
        slots: Slots,
        metrics: RunnerMetrics,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when what is held has changed."""
        self._run = run
        self._slots = slots
        self._metrics = metrics
        self._changed = changed
        self._work: dict[str, Work] = {}
        self._tasks: dict[asyncio.Task[None], Work] = {}
        self._unreadable: dict[str, str] = {}
        """The version of each job that cannot be read, by uid."""
        self._draining = ""
        self._drain_seconds = 0.0

    @property
    def held(self) -> tuple[HeldJob, ...]:
        """What really runs here, in order of its start."""
        return tuple(work.held for work in self._tasks.values())

    def see(self, event: Listing | Change) -> None:
        """Act on what the watch shows."""
        if isinstance(event, Listing):
            present = {item["metadata"]["uid"] for item in event.items}
            for uid in [uid for uid in {**self._work, **self._unreadable} if uid not in present]:
                self._gone(uid)
            for item in event.items:
                self._assigned(item)
        elif event.type == "DELETED":
            self._gone(event.object["metadata"]["uid"])
        else:
            self._assigned(event.object)

    def drain(self, reason: str, seconds: float) -> None:
        """Hand every job back, those that come later too, while `reason` is not empty.

        Chunks in flight get `seconds` to end, counted from the first drain of each job.
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

    def _assigned(self, item: Json) -> None:
        meta = item["metadata"]
        uid = meta["uid"]
        if (work := self._work.get(uid)) is not None:
            work.generation.see(meta.get("generation", 0))
        try:
            job = VideoJob.model_validate(item)
        except ValidationError as error:
            self._cannot_read(item, error)
            return
        self._unreadable.pop(uid, None)
        status = job.status
        if status.assignment is None or status.resolved is None or status.attempts < 1:
            return
        if work is None or status.attempts > work.held.attempt:
            if work is not None:
                work.stop.lose("a later attempt was assigned")
            work = self._start(job)
        if status.assignment.release:
            work.stop.release(status.assignment.release)

    def _cannot_read(self, item: Json, error: ValidationError) -> None:
        meta = item["metadata"]
        version = meta.get("resourceVersion", "")
        if self._unreadable.get(meta["uid"]) == version:
            return
        self._unreadable[meta["uid"]] = version
        self._metrics.unreadable(VIDEO_JOBS.plural)
        work = self._work.get(meta["uid"])
        what = "is not begun" if work is None else "goes on as it was last read"
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3])
        log.warning("The job %s/%s cannot be read, and %s: %s", meta.get("namespace"), meta["name"], what, wrong)

    def _start(self, job: VideoJob) -> Work:
        uid = job.metadata.uid
        held = HeldJob(uid=uid, attempt=job.status.attempts)
        work = self._work[uid] = Work(held, Stop(), Generation(job.metadata.generation))
        if self._draining:
            work.stop.drain(Reason.DRAINED.value, self._drain_seconds)
        task = asyncio.create_task(self._in_slot(job, work), name=f"job {uid}")
        self._tasks[task] = work
        task.add_done_callback(self._ended)
        self._count()
        return work

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._count()

    def _count(self) -> None:
        self._metrics.active(len(self._tasks))
        self._changed()

    async def _in_slot(self, job: VideoJob, work: Work) -> None:
        meta = job.metadata
        with about(meta.uid, meta.namespace, meta.name, job.status.attempts):
            try:
                await self._run_in_slot(job, work)
            except Exception:
                # The attempt has not made a status of it. Nobody works on the job from now on, and the report shows it.
                self._metrics.error("attempt", known=False)
                log.exception("The task of %s/%s failed, and the job is left", meta.namespace, meta.name)

    async def _run_in_slot(self, job: VideoJob, work: Work) -> None:
        try:
            await work.stop.race(self._slots.take(), new=True)
        except StoppedError:
            await self._run(job, work)  # The attempt sees the stop as well, and hands the job back.
            return
        work.free_slot = partial(self._free_slot, work)
        try:
            await self._run(job, work)
        finally:
            if work.held.finishing:
                self._slots.finished()
            else:
                self._slots.give_back()

    def _free_slot(self, work: Work) -> None:
        if not work.held.finishing and self._slots.finish():
            work.held = work.held.model_copy(update={"finishing": True})
            self._changed()

    def _gone(self, uid: str) -> None:
        """The watch has seen the job leave; whatever comes later is a new assignment."""
        self._unreadable.pop(uid, None)
        work = self._work.pop(uid, None)
        if work is not None:
            work.stop.lose("it is no longer assigned to this replica")
