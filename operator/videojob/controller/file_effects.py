"""Decisions that ask an object store: purge, sweep, and the change of a job's pool.

A runner that was declared lost may go on adding files until `status.cutOffUntil`. So before its job is purged, ended or
moved, the job is closed in the store, which that runner looks at before each commit.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime

from videojob.api.patch import Operation, status_patch
from videojob.api.progress import progress_of
from videojob.api.transitions import may_move, observed, swept
from videojob.api.videojob import EarlierStore, Phase, Progress, VideoJobStatus
from videojob.controller.events import EventType
from videojob.controller.fences import fence, finalizer_removed, status_of
from videojob.controller.files import Files
from videojob.controller.leading import LeaderClient
from videojob.controller.stores import JobFiles, Prefix, StoreFailure
from videojob.kube.answers import KubeError
from videojob.planner.decisions import LeavePool, Purge, Sweep
from videojob.planner.facts import Job, Moment

logger = logging.getLogger(__name__)

Post = Callable[[Job, EventType, str, str], None]
Patch = Callable[[LeaderClient, Job, list[Operation], str | None], Awaitable[object]]


class FileEffects:
    """Carries out the decisions of the lane for files."""

    def __init__(
        self,
        files: Files,
        stores: JobFiles,
        patch: Patch,
        post: Post,
        clock: Callable[[], Moment],
        patience_seconds: float,
    ) -> None:
        """A job that ends waits no longer than `patience_seconds` for a store in which it is to be closed."""
        self._files = files
        self._stores = stores
        self._patch = patch
        self._post = post
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._closing: dict[str, float] = {}
        """When closing a job first failed, in monotonic seconds, by uid."""

    async def apply(self, decision: Purge | LeavePool | Sweep, api: LeaderClient) -> None:
        """Carry a decision out. Raises KubeError, StoreFailure or DeposedError."""
        match decision:
            case Purge(job=job, keep_output=keep_output):
                await self._purge(job, keep_output, api)
            case LeavePool(job=job):
                await self._leave_pool(job, api)
            case Sweep(job=job):
                await self._sweep(job, api)

    async def close(self, job: Job, api: LeaderClient) -> None:
        """Close a job that ends, for all attempts so far; a store that fails for too long is waited for no longer.

        Raises StoreFailure or DeposedError.
        """
        prefix, now = _prefix(job), self._clock().mono
        if prefix is None:
            return
        api.check()
        try:
            await self._files.close(prefix, job.attempts)
        except StoreFailure as error:
            self._closing = {uid: at for uid, at in self._closing.items() if now - at < 2 * self._patience_seconds}
            if now - self._closing.setdefault(job.uid, now) < self._patience_seconds:
                raise
            logger.warning("%s: it ends without being closed in its store: %s", _name(job), error)
        self._closing.pop(job.uid, None)

    async def _purge(self, job: Job, keep_output: bool, api: LeaderClient) -> None:
        """The files of a deleted job go, then its finalizer."""
        now = self._clock().wall
        try:
            await self._remove(job, keep_output, job.cut_off_until, now, api)
            for earlier in job.earlier_stores:
                await self._remove(_in(job, earlier), False, earlier.until, now, api)
        except (StoreFailure, KubeError) as error:
            self._post(job, "Warning", "FilesNotRemoved", f"It stays until its files can be removed: {error}.")
            raise
        await self._patch(api, job, finalizer_removed(job), None)
        logger.info("%s: its files were removed, and it is gone", _name(job))

    async def _remove(
        self, job: Job, keep_output: bool, until: datetime | None, now: datetime, api: LeaderClient
    ) -> None:
        """Remove the files of a deleted job; again later, where a lost runner may add some until then."""
        prefix = _prefix(job)
        if prefix is None:
            return
        cut_off = until is not None and until > now
        if cut_off and until is not None:
            # Remembered first: whatever comes between, it is swept.
            api.check()
            if keep_output:
                # Its record ends the work of any runner. To close its attempt would disown the video.
                await self._files.purge_later(prefix, until)
            else:
                await self._files.sweep_later(prefix, max(job.attempts, 1), until)
                await self.close(job, api)
        api.check()
        orphan = await self._files.remove(prefix, keep_output, keep_closed=cut_off and not keep_output)
        if orphan is not None:
            self._post(job, "Warning", "FilesOrphaned", orphan)

    async def _leave_pool(self, job: Job, api: LeaderClient) -> None:
        """The job's store says whether it may go to another pool: with a committed chunk it may not."""
        old, now, prefix = status_of(job), self._clock().wall, _prefix(job)
        api.check()
        committed = await self._files.committed(prefix) if prefix is not None else 0
        if committed > 0:
            new = observed(old, job.generation).model_copy(update={"progress": _progress(old, committed)})
            logger.info("%s: it has finished chunks in pool %s, and stays there", _name(job), job.pool)
        else:
            cut_off = still_cut_off(job, now)
            if cut_off and not may_move(old):
                raise StoreFailure("it has too many earlier stores that are not purged yet")
            if prefix is not None:
                if cut_off:
                    api.check()
                    await self._files.close(prefix, job.attempts)
                api.check()
                await self._stores.purge(prefix, False, cut_off)
            new = _moved(old, job.generation, keep=cut_off)
            logger.info("%s: it leaves pool %s, where it has no chunk", _name(job), job.pool)
        await self._patch(api, job, status_patch(fence(job), old, new), "status")

    async def _sweep(self, job: Job, api: LeaderClient) -> None:
        """Nobody adds files to these folders any more: what was added to them goes.

        The job lives on, so its files are never left to a later moment, when they may be others.
        """
        now = self._clock().wall
        for earlier in job.earlier_stores:
            prefix = _prefix(_in(job, earlier))
            # A job that has come back to that store has its chunks there now; they go with the job.
            if prefix is not None and earlier.until <= now and earlier.store_uri != job.store_uri:
                api.check()
                await self._stores.purge(prefix, False, False)
        prefix = _prefix(job)
        over = job.cut_off_until is not None and job.cut_off_until <= now
        if prefix is not None and over and job.phase is Phase.SUCCEEDED:
            # The chunks of any other job are its own progress, whoever has made them.
            api.check()
            await self._stores.purge(prefix, True, False)
        old = status_of(job)
        new = swept(old, now=now, generation=job.generation)
        await self._patch(api, job, status_patch(fence(job), old, new), "status")


def still_cut_off(job: Job, now: datetime) -> bool:
    """Whether a runner that was declared lost may still add files to the job's folder."""
    return job.cut_off_until is not None and job.cut_off_until > now


def _progress(status: VideoJobStatus, committed: int) -> Progress:
    """The progress that the store has."""
    resolved = status.resolved
    if resolved is None:
        return Progress(chunks_done=committed)
    done = min(committed, resolved.chunks)
    return progress_of(resolved, done, resolved.frames * done // resolved.chunks)


def _moved(status: VideoJobStatus, generation: int, *, keep: bool) -> VideoJobStatus:
    """The job has no pool any more; its folder is kept in `earlierStores` where files may still be added to it."""
    earlier = status.earlier_stores
    if keep and status.store_uri is not None and status.cut_off_until is not None:
        left = EarlierStore(pool=status.pool or "", store_uri=status.store_uri, until=status.cut_off_until)
        earlier = (*earlier, left)
    update = {"pool": None, "store_uri": None, "playlist_uri": None, "cut_off_until": None, "earlier_stores": earlier}
    return observed(status, generation).model_copy(update=update)


def _prefix(job: Job) -> Prefix | None:
    """Where the job's files are, if it was ever assigned."""
    return Prefix.of(job.namespace, job.uid, job.pool or "", job.store_uri) if job.store_uri is not None else None


def _in(job: Job, earlier: EarlierStore) -> Job:
    """The job as if it were in an earlier store."""
    return replace(job, pool=earlier.pool, store_uri=earlier.store_uri)


def _name(job: Job) -> str:
    return f"{job.namespace}/{job.name}"
