"""The files of jobs that are deleted, closed or moved: what is done now, and what is put on the list for later.

A deletion never hangs. Each job's files are tried for `patience_seconds` from their own first failure; then they go to
the list of orphans, which the leader works off. So one prefix that is locked concerns nobody else, and no deletion is
given up untried.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from videojob.controller.orphans import ORPHANS, Orphan, Orphans
from videojob.controller.stores import JobFiles, PoolGone, Prefix, StoreFailure
from videojob.kube.client import KubeError

logger = logging.getLogger(__name__)

InUse = Callable[[str, str, str], bool]
"""Whether a job, given by namespace and uid, has its files in the store of that URL, or may get them there."""


class Files:
    """Files of jobs."""

    def __init__(
        self,
        stores: JobFiles,
        orphans: Orphans,
        *,
        monotonic: Callable[[], float],
        now: Callable[[], datetime],
        patience_seconds: float,
        retry_seconds: float,
    ) -> None:
        """`patience_seconds` is how long a removal may fail, `retry_seconds` the pause between looks at the list."""
        self._stores = stores
        self._orphans = orphans
        self._monotonic = monotonic
        self._now = now
        self._patience_seconds = patience_seconds
        self._retry_seconds = retry_seconds
        self._failures: dict[Prefix, tuple[float, float]] = {}
        """When the removal of a prefix has failed for the first time and for the last."""
        self._tried: dict[str, float] = {}

    async def remove(self, prefix: Prefix, keep_output: bool, *, keep_closed: bool = False) -> str | None:
        """Remove a job's files, or give up on them: then the sentence says so.

        Args:
            prefix: Where they are.
            keep_output: Whether its finished video stays.
            keep_closed: Whether what closes the job stays, for a runner that may still be at work; `sweep_later` then
                removes it.

        Raises:
            StoreFailure: the store fails, but not for long enough to give up.
            KubeError: the list of orphans could not be written.
        """
        try:
            await self._stores.purge(prefix, keep_output, keep_closed)
        except PoolGone as error:
            why = str(error)
        except StoreFailure as error:
            seconds = self._failing(prefix)
            if seconds < self._patience_seconds:
                raise
            why = f"they could not be removed for {seconds:.0f} s: {error}"
        else:
            self._failures.pop(prefix, None)
            return None
        sentence = await self._give_up(prefix, keep_output, why)
        self._failures.pop(prefix, None)
        return sentence

    async def close(self, prefix: Prefix, attempt: int) -> None:
        """Take a job from an attempt, and all before it, whose runner may still be at work. Raises StoreFailure.

        Only while `attempt` is the job's newest.
        """
        await self._stores.close(prefix, attempt)

    async def committed(self, prefix: Prefix) -> int:
        """How many chunks of a job are committed, or FINISHED. Raises StoreFailure where the store does not answer."""
        return await self._stores.committed(prefix)

    async def sweep_later(self, prefix: Prefix, attempt: int, not_before: datetime) -> None:
        """Let what this attempt, and all before it, still add be removed after a time: first of all, then close.

        Raises:
            StoreFailure: the list is full.
            KubeError: the list could not be written.
        """
        if not await self._orphans.add(_orphan(prefix, attempt=attempt, not_before=not_before)):
            raise StoreFailure(_FULL)

    async def purge_later(self, prefix: Prefix, not_before: datetime) -> None:
        """Remove all but a deleted job's finished video once more after a time. Raises StoreFailure or KubeError."""
        if not await self._orphans.add(_orphan(prefix, keep_output=True, not_before=not_before)):
            raise StoreFailure(_FULL)

    async def run(self, leading: Callable[[], bool], in_use: InUse) -> None:
        """While leading, work the list off again and again, until cancelled."""
        while True:
            if leading():
                try:
                    await self._work_off(leading, in_use)
                except KubeError as error:
                    logger.warning("The list of orphaned files, ConfigMap %s, cannot be used: %s", ORPHANS, error)
            await asyncio.sleep(self._retry_seconds)

    def _failing(self, prefix: Prefix) -> float:
        """Note that a prefix could not be removed; for how many seconds that has been so."""
        now = self._monotonic()
        # A removal that is no longer tried, as that of a job whose finalizer somebody took off, is forgotten.
        kept = now - 2 * self._patience_seconds
        self._failures = {known: times for known, times in self._failures.items() if times[1] >= kept}
        since, _ = self._failures.get(prefix, (now, now))
        self._failures[prefix] = since, now
        return now - since

    async def _give_up(self, prefix: Prefix, keep_output: bool, why: str) -> str:
        left = f"The files in {prefix.uri} were left behind, because {why}"
        if await self._orphans.add(_orphan(prefix, keep_output=keep_output)):
            return f"{left}; they are removed once the store allows it."
        logger.error("The list of orphaned files is full; remove these by hand: %s (%s)", prefix.uri, why)
        return f"{left}; remove them by hand."

    async def _work_off(self, leading: Callable[[], bool], in_use: InUse) -> None:
        """Try every entry whose time has come, those that were not tried for longest first.

        A store that fails is left alone until the next time: with an entry each time, its failures hold up nobody.
        """
        entries = await self._orphans.read()
        self._tried = {key: moment for key, moment in self._tried.items() if key in entries}
        failed: set[tuple[str, str]] = set()
        for key, orphan in sorted(entries.items(), key=lambda item: (self._tried.get(item[0], float("-inf")), item[0])):
            store = (orphan.pool, orphan.store_url)
            if store in failed or not orphan.due(self._now()):
                continue
            if not leading():
                return
            self._tried[key] = self._monotonic()
            try:
                over = await self._settle(orphan, in_use)
            except StoreFailure as error:
                failed.add(store)
                logger.info("Orphaned files in %s stay for now: %s", orphan.prefix.uri, error)
                continue
            except Exception:
                logger.exception("Orphaned files in %s stay for now", orphan.prefix.uri)
                continue
            if over:
                await self._orphans.remove(key)
                logger.info("Orphaned files in %s were removed", orphan.prefix.uri)

    async def _settle(self, orphan: Orphan, in_use: InUse) -> bool:
        """Remove the files; whether all of them.

        What closes a job that is still known stays until it is not: it may be gone, and the watch not have shown that.
        """
        if orphan.attempt is None:
            await self._stores.purge(orphan.prefix, orphan.keep_output, keep_closed=False)
            return True
        used = in_use(orphan.namespace, orphan.uid, orphan.store_url)
        await self._stores.sweep(orphan.prefix, orphan.attempt, used)
        return not used


_FULL = (
    f"the list of files that are to be swept, ConfigMap {ORPHANS}, is full. It empties by itself, "
    "unless a store that it names fails: look at the operator's log"
)


def _orphan(
    prefix: Prefix, *, keep_output: bool = False, attempt: int | None = None, not_before: datetime | None = None
) -> Orphan:
    return Orphan(
        namespace=prefix.namespace,
        uid=prefix.uid,
        pool=prefix.pool,
        store_url=prefix.store_url,
        keep_output=keep_output,
        attempt=attempt,
        not_before=not_before,
    )
