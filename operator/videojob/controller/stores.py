"""A job's files in its pool's store, as the operator uses them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from videojob.api.gpupool import GPUPool
from videojob.kube.client import CONFIG_MAPS, SECRETS, KubeClient, KubeError

if TYPE_CHECKING:
    from videojob.store import JobStore
    from videojob.store.options import StoreOptions

FINISHED: Final = sys.maxsize
"""Instead of a number of committed chunks, of which it is none: the video is finished."""


class StoreFailure(Exception):  # noqa: N818 - it is no error yet: the store is given more time
    """The store has not done it; trying again later makes sense. The text is a sentence for people."""


class PoolGone(StoreFailure):
    """Nobody knows how to reach the store, until there is a pool of that name and store again."""


@dataclass(frozen=True)
class Prefix:
    """The files of one job in one store."""

    namespace: str
    uid: str
    pool: str
    """Knows how to reach the store."""
    store_url: str
    """Of the pool's store, without a slash at its end."""

    @classmethod
    def of(cls, namespace: str, uid: str, pool: str, store_uri: str) -> "Prefix":
        """From a job's `status.storeURI`, the URL of its folder."""
        return cls(namespace, uid, pool, store_uri.rstrip("/").removesuffix(f"/{namespace}/{uid}"))

    @property
    def uri(self) -> str:
        """The URL of the job's folder."""
        return f"{self.store_url}/{self.namespace}/{self.uid}"


class JobFiles(Protocol):
    """What is done to the files of a job. Every method raises StoreFailure."""

    async def purge(self, prefix: Prefix, keep_output: bool, keep_closed: bool) -> None:
        """Remove them; see `JobStore.purge`."""

    async def close(self, prefix: Prefix, attempt: int) -> None:
        """Take them from an attempt; see `JobStore.close`."""

    async def sweep(self, prefix: Prefix, attempt: int, in_use: bool) -> None:
        """Remove what closed attempts have left; see `JobStore.sweep`."""

    async def committed(self, prefix: Prefix) -> int:
        """How many chunks are committed, or FINISHED."""


class Stores:
    """The stores of pools, each opened for one operation."""

    def __init__(
        self, client: KubeClient, pools: Callable[[str], GPUPool | None], namespace: str, *, try_seconds: float
    ) -> None:
        """`pools` gives a pool by its name; an operation may take `try_seconds`."""
        self._client = client
        self._pools = pools
        self._namespace = namespace
        self._try_seconds = try_seconds

    async def purge(self, prefix: Prefix, keep_output: bool, keep_closed: bool) -> None:
        """Remove a job's files. Raises StoreFailure."""
        async with self._job(prefix) as job:
            await job.purge(keep_output, keep_closed=keep_closed)

    async def close(self, prefix: Prefix, attempt: int) -> None:
        """Take a job from an attempt and all before it. Raises StoreFailure."""
        async with self._job(prefix) as job:
            await job.close(attempt)

    async def sweep(self, prefix: Prefix, attempt: int, in_use: bool) -> None:
        """Remove what closed attempts have left. Raises StoreFailure."""
        async with self._job(prefix) as job:
            await job.sweep(attempt, in_use=in_use)

    async def committed(self, prefix: Prefix) -> int:
        """How many chunks are committed, or FINISHED. Raises StoreFailure."""
        async with self._job(prefix) as job:
            return FINISHED if await job.output() is not None else await job.count()

    @asynccontextmanager
    async def _job(self, prefix: Prefix) -> AsyncIterator["JobStore"]:
        """The files of a job, for as long as one operation may take; its errors become StoreFailures."""
        # Imported when first needed: most operators' memory never holds a client of a store.
        from videojob.store import JobStore, StoreError, open_store  # noqa: PLC0415

        pool = self._pools(prefix.pool)
        if pool is not None and pool.spec.store.url.rstrip("/") != prefix.store_url:
            pool = None
        if pool is None and not prefix.store_url.startswith("file://"):
            raise PoolGone(f"GPUPool {prefix.pool}, which knows how to reach its store, does not exist any more")
        try:
            async with asyncio.timeout(self._try_seconds):
                opening = partial(open_store, prefix.store_url)
                if pool is not None:
                    opening = partial(opening, **await self._options(pool))
                store = await asyncio.to_thread(opening)
                yield JobStore(store, prefix.namespace, prefix.uid)
        except TimeoutError as error:
            raise StoreFailure(f"{prefix.store_url} did not answer within {self._try_seconds:g} s") from error
        except (StoreError, ValueError) as error:
            raise StoreFailure(str(error).rstrip(".")) from error

    async def _options(self, pool: GPUPool) -> "StoreOptions":
        from videojob.store.options import read_options  # noqa: PLC0415

        try:
            return await read_options(
                pool.spec.store,
                partial(self._client.get, SECRETS, namespace=self._namespace),
                partial(self._client.get, CONFIG_MAPS, namespace=self._namespace),
            )
        except KubeError as error:
            raise StoreFailure(f"what GPUPool {pool.metadata.name} reaches its store with: {error}") from error
