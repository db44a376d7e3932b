"""Keeps the status of pools and queues true: one write where it changed, none where it did not."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from videojob.api.gpupool import GPUPool, GPUPoolStatus
from videojob.api.patch import Operation
from videojob.api.videoqueue import VideoQueue, VideoQueueStatus
from videojob.controller.cache import Cache
from videojob.kube.client import GPU_POOLS, VIDEO_QUEUES, KubeClient, KubeError, ResourceKind
from videojob.planner.snapshot import Snapshot
from videojob.planner.summary import PoolScaling, summarise

logger = logging.getLogger(__name__)


class Summaries:
    """Writes the statuses of pools and queues."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        snapshot: Callable[[], Snapshot],
        scalings: Callable[[], Mapping[str, PoolScaling]],
        leading: Callable[[], bool],
        pause_seconds: float,
    ) -> None:
        self._client = client
        self._cache = cache
        self._snapshot = snapshot
        self._scalings = scalings
        self._leading = leading
        self._pause_seconds = pause_seconds

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._pause_seconds)
            await self.turn()

    async def turn(self) -> None:
        """Write the statuses that are not true any more."""
        if not self._leading():
            return
        snapshot, scalings = self._snapshot(), self._scalings()
        summary = summarise(snapshot, datetime.now(UTC), scalings)
        for name, pool_status in summary.pools.items():
            # One that takes over knows less of a pool, until it has looked after it once, than the status does.
            if name in scalings:
                await self._write(GPU_POOLS, snapshot.pools[name], pool_status)
        for key, queue_status in summary.queues.items():
            await self._write(VIDEO_QUEUES, snapshot.queues[key], queue_status)

    async def _write(
        self, kind: ResourceKind, found: GPUPool | VideoQueue, status: GPUPoolStatus | VideoQueueStatus
    ) -> None:
        if status == found.status or not self._leading():
            return
        metadata = found.metadata
        operations: list[Operation] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": metadata.resource_version},
            {"op": "add", "path": "/status", "value": status.wire()},
        ]
        try:
            answer = await self._client.json_patch(
                kind, metadata.name, operations, metadata.namespace or None, subresource="status"
            )
        except KubeError as error:
            if not error.conflict and not error.not_found:
                logger.warning("The status of %s %s was not written: %s", kind.plural, metadata.name, error)
            return
        self._cache.apply(kind, answer)
