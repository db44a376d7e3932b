"""Removes the files of deleted jobs from their pools' stores, and remembers those that could not be removed.

A deletion never hangs. A store that has failed for `patience_seconds` is waited for no longer: the job's prefix goes to
a list in a ConfigMap, which the leader works off whenever the store answers again.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from prometheus_client import Gauge

from videojob.api.gpupool import GPUPool
from videojob.controller.cache import Cache
from videojob.kube.client import CONFIG_MAPS, SECRETS, KubeClient, KubeError
from videojob.planner.snapshot import Job

logger = logging.getLogger(__name__)

ORPHANS = "videojob-orphans"

Clean = Callable[[str, Mapping[str, Any], str, str, bool], Awaitable[None]]
"""Removes files: takes the store's URL, its options, namespace and uid of the job, and whether the MP4 stays."""


class StoreFailure(Exception):  # noqa: N818 - it is no error yet: the store is given more time
    """The files could not be removed now; trying again later makes sense."""


@dataclass(frozen=True)
class Remains:
    """A deleted job's files."""

    namespace: str
    uid: str
    pool: str
    store_url: str
    keep_output: bool


class Files:
    """Files of deleted jobs."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        namespace: str,
        *,
        clean: Clean,
        monotonic: Callable[[], float],
        patience_seconds: float,
        try_seconds: float,
        orphan_limit: int,
        retry_seconds: float,
        orphans: Gauge,
    ) -> None:
        self._client = client
        self._cache = cache
        self._namespace = namespace
        self._clean = clean
        self._monotonic = monotonic
        self._patience_seconds = patience_seconds
        self._try_seconds = try_seconds
        self._orphan_limit = orphan_limit
        self._retry_seconds = retry_seconds
        self._orphans = orphans
        self._failing_since: dict[str, float] = {}

    async def remove(self, job: Job, keep_output: bool) -> str | None:
        """Remove a job's files, or give up on its store: then the sentence says so.

        Raises:
            StoreFailure: the store fails, but not for long enough to give up.
            KubeError: the list of orphans could not be written.
        """
        if job.store_uri is None:
            return None
        suffix = f"/{job.namespace}/{job.uid}"
        remains = Remains(job.namespace, job.uid, job.pool or "", job.store_uri.removesuffix(suffix), keep_output)
        now = self._monotonic()
        since = self._failing_since.get(remains.store_url)
        if since is not None and now - since >= self._patience_seconds:
            return await self._orphan(remains, f"its store has failed for {now - since:.0f} s")
        try:
            await self._try(remains)
        except _PoolGoneError as error:
            return await self._orphan(remains, str(error))
        except StoreFailure:
            self._failing_since.setdefault(remains.store_url, now)
            raise
        self._failing_since.pop(remains.store_url, None)
        return None

    async def run(self, leading: Callable[[], bool]) -> None:
        """While leading, try to remove orphaned files again and again, until cancelled."""
        while True:
            if leading():
                try:
                    await self._work_off(leading)
                except KubeError as error:
                    logger.warning("The list of orphaned files, ConfigMap %s, cannot be used: %s", ORPHANS, error)
            await asyncio.sleep(self._retry_seconds)

    async def _try(self, remains: Remains) -> None:
        pool = self._cache.pools.get(remains.pool)
        if pool is not None and pool.spec.store.url.rstrip("/") != remains.store_url:
            pool = None
        if pool is None and not remains.store_url.startswith("file://"):
            raise _PoolGoneError(f"GPUPool {remains.pool}, which knows how to reach its store, does not exist any more")
        options = await self._options(pool) if pool is not None else {}
        try:
            async with asyncio.timeout(self._try_seconds):
                await self._clean(remains.store_url, options, remains.namespace, remains.uid, remains.keep_output)
        except TimeoutError as error:
            raise StoreFailure(f"{remains.store_url} did not answer within {self._try_seconds:g} s") from error

    async def _options(self, pool: GPUPool) -> dict[str, Any]:
        store = pool.spec.store
        credentials: dict[str, str] | None = None
        if store.secret_name is not None:
            try:
                secret = await self._client.get(SECRETS, store.secret_name, self._namespace)
            except KubeError as error:
                raise StoreFailure(f"Secret {store.secret_name} of GPUPool {pool.metadata.name}: {error}") from error
            credentials = {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}
        return {"endpoint": store.endpoint, "region": store.region, "credentials": credentials}

    async def _orphan(self, remains: Remains, why: str) -> str:
        where = f"{remains.store_url}/{remains.namespace}/{remains.uid}"
        listed = await self._list()
        if remains.uid not in listed and len(listed) >= self._orphan_limit:
            logger.error("The list of orphaned files is full; remove these by hand: %s (%s)", where, why)
            return f"The files in {where} were left behind, because {why}; remove them by hand."
        await self._write({remains.uid: json.dumps(asdict(remains))})
        self._orphans.set(len(listed | {remains.uid: ""}))
        return f"The files in {where} were left behind, because {why}; they are removed once the store answers."

    async def _work_off(self, leading: Callable[[], bool]) -> None:
        listed = await self._list()
        self._orphans.set(len(listed))
        failed: set[str] = set()
        for uid, text in sorted(listed.items()):
            if not leading():
                return
            remains = Remains(**json.loads(text))
            if remains.store_url in failed:
                continue
            try:
                await self._try(remains)
            except (StoreFailure, _PoolGoneError) as error:
                failed.add(remains.store_url)
                logger.info("Orphaned files in %s stay for now: %s", remains.store_url, error)
                continue
            self._failing_since.pop(remains.store_url, None)
            await self._write({uid: None})
            logger.info("Orphaned files of %s in %s were removed", uid, remains.store_url)

    async def _list(self) -> dict[str, str]:
        try:
            found = await self._client.get(CONFIG_MAPS, ORPHANS, self._namespace)
        except KubeError as error:
            if error.not_found:
                return {}
            raise
        return dict(found.get("data") or {})

    async def _write(self, data: Mapping[str, str | None]) -> None:
        try:
            await self._client.merge_patch(CONFIG_MAPS, ORPHANS, {"data": dict(data)}, self._namespace)
        except KubeError as error:
            if not error.not_found:
                raise
            metadata = {"name": ORPHANS, "namespace": self._namespace}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}
            await self._client.create(CONFIG_MAPS, body, self._namespace)


class _PoolGoneError(Exception):
    """Nobody knows how to reach the store."""
