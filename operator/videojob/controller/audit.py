"""Compares what is known with what the API server has: once before the first plan, and now and then for ever.

The first time it makes the cache complete, so that no plan is made from half of the jobs. Later it proves that the
watches work: a watch can end or stall without a word, and kopf does not tell about objects that vanished while it was
disconnected. What it finds it puts right.
"""

import asyncio
import logging
from collections.abc import AsyncIterator

from videojob.controller.cache import KINDS, Cache
from videojob.controller.metrics import OperatorMetrics
from videojob.kube.client import Json, KubeClient, KubeError, ResourceKind

logger = logging.getLogger(__name__)

PAGE = 500


class Audit:
    """`sound` is whether the last comparison found that the watches had brought everything."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        metrics: OperatorMetrics,
        *,
        namespace: str | None,
        pause_seconds: float,
        grace_seconds: float,
    ) -> None:
        """`namespace` is the only one whose jobs and queues are known, if not all are."""
        self._client = client
        self._cache = cache
        self._metrics = metrics
        self._namespace = namespace
        self._pause_seconds = pause_seconds
        self._grace_seconds = grace_seconds
        self.sound = True

    async def load(self) -> None:
        """Read everything. Raises KubeError."""
        for kind in KINDS:
            async for page in self._pages(kind):
                for body in page:
                    self._cache.apply(kind, body)

    async def run(self) -> None:
        """Compare again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._pause_seconds)
            missed = 0
            for kind in KINDS:
                try:
                    missed += await self._compare(kind)
                except KubeError as error:
                    logger.warning("The audit of %s was not made: %s", kind.plural, error)
            self.sound = missed == 0

    async def _compare(self, kind: ResourceKind) -> int:
        """Changes that the watch of a kind has missed: those it has not brought a while after they were listed."""
        known_before = self._cache.versions(kind)
        listed: dict[str, int] = {}
        late: dict[str, Json] = {}
        async for page in self._pages(kind):
            for body in page:
                uid, version = body["metadata"]["uid"], int(body["metadata"]["resourceVersion"])
                listed[uid] = version
                if known_before.get(uid, 0) < version and self._cache.ours(kind, body):
                    late[uid] = body
        vanished = known_before.keys() - listed.keys()
        if not late and not vanished:
            return 0
        await asyncio.sleep(self._grace_seconds)
        known = self._cache.versions(kind)
        overdue = {uid: body for uid, body in late.items() if known.get(uid, 0) < listed[uid]}
        for body in overdue.values():
            try:
                found = await self._client.get(kind, body["metadata"]["name"], body["metadata"].get("namespace"))
            except KubeError as error:
                if not error.not_found:
                    raise
                continue
            self._cache.apply(kind, found)
        known = self._cache.versions(kind)
        # An object that cannot be read is still not known now: that is no fault of the watch.
        missed = [uid for uid in overdue if known.get(uid, 0) >= listed[uid]]
        ghosts = vanished & known.keys()
        for uid in ghosts:
            self._cache.forget(kind, uid)
        count = len(missed) + len(ghosts)
        if count:
            self._metrics.missed_changes.labels(kind.plural).inc(count)
            logger.error("The watch of %s had missed %d changes; they were made up for.", kind.plural, count)
        return count

    async def _pages(self, kind: ResourceKind) -> AsyncIterator[list[Json]]:
        token = ""
        while True:
            selectors = {"limit": str(PAGE)} | ({"continue": token} if token else {})
            listing = await self._client.list(kind, self._namespace, **selectors)
            yield listing.get("items", [])
            token = listing["metadata"].get("continue", "")
            if not token:
                return
