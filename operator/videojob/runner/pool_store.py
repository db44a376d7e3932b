"""The pool's store as the runner uses it: watched, once it has failed, until it works again."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from videojob.api.gpupool import Store as StoreSpec
from videojob.kube.client import CONFIG_MAPS, SECRETS, KubeClient, KubeError
from videojob.runner.metrics import RunnerMetrics
from videojob.store import JobStore, Store, StoreError, check_store, open_store
from videojob.store.options import read_options

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
"""Between checks of a store that does not work."""
MESSAGE_LIMIT = 512


class PoolStore:
    """The store of one pool. `changed` is called when it stops or begins to work."""

    def __init__(
        self, kube: KubeClient, namespace: str, spec: StoreSpec, metrics: RunnerMetrics, changed: Callable[[], None]
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._spec = spec
        self._metrics = metrics
        self._changed = changed
        self._store: Store | None = None
        self._opened: StoreSpec | None = None
        self._suspect = asyncio.Event()
        self._suspect.set()
        self.error = "The store was not checked yet."
        """Why the store cannot be used, if so."""

    def use(self, spec: StoreSpec) -> None:
        """Follow the pool's spec: with another endpoint, region, Secret or CA, the store is opened and checked anew.

        The files of jobs that `job` has given out go on with what they were opened with.
        """
        if spec != self._spec:
            self._spec = spec
            self._suspect.set()

    async def job(self, namespace: str, uid: str) -> JobStore:
        """The files of one job. Raises StoreError."""
        if self._store is None or self._opened != self._spec:
            spec = self._spec
            self._store, self._opened = await self._open(spec), spec
        return JobStore(self._store, namespace, uid)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Notice StoreErrors of the block: its requests were retried, so this is for longer."""
        try:
            yield
        except StoreError as error:
            self._metrics.store_error()
            if error.unavailable:
                self._set_error(str(error))
            raise

    async def run(self) -> None:
        """Check the store at first, and whenever it has failed or its spec has changed, until it works; for ever."""
        while True:
            await self._suspect.wait()
            try:
                spec = self._spec
                self._store, self._opened = await self._open(spec), spec
                await check_store(self._store)
                if spec == self._spec:
                    self._suspect.clear()
                    self._set_error("")
            except StoreError as error:
                # Nobody else asks a store that is down: the pool gets no jobs.
                self._metrics.store_error()
                self._set_error(str(error))
                await asyncio.sleep(CHECK_SECONDS)

    async def _open(self, spec: StoreSpec) -> Store:
        try:
            options = await read_options(
                spec,
                partial(self._kube.get, SECRETS, namespace=self._namespace),
                partial(self._kube.get, CONFIG_MAPS, namespace=self._namespace),
            )
        except KubeError as error:
            raise StoreError(f"The store's credentials or its CA cannot be read: {error}", retryable=True) from error
        return await asyncio.to_thread(partial(open_store, spec.url, **options))

    def _set_error(self, error: str) -> None:
        if error:
            self._suspect.set()
        if error != self.error:
            log.log(logging.WARNING if error else logging.INFO, error or "The store works.")
            self.error = error[:MESSAGE_LIMIT]
            self._changed()
