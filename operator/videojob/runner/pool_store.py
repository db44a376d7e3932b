"""The pool's store as the runner uses it: watched, once it has failed, until it works again."""

import asyncio
import base64
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from videojob.api.gpupool import Store as StoreSpec
from videojob.kube.client import SECRETS, KubeClient, KubeError
from videojob.runner.metrics import RunnerMetrics
from videojob.store import JobStore, Store, StoreError, check_store, open_store

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
        self._suspect = asyncio.Event()
        self._suspect.set()
        self.error = "The store was not checked yet."
        """Why the store cannot be used, if so."""

    async def job(self, namespace: str, uid: str) -> JobStore:
        """The files of one job. Raises StoreError."""
        if self._store is None:
            self._store = await self._open()
        return JobStore(self._store, namespace, uid)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Notice StoreErrors of the block: its requests were retried, so this is for longer."""
        try:
            yield
        except StoreError as error:
            self._metrics.store_error()
            if error.unavailable:
                self._say(str(error))
            raise

    async def run(self) -> None:
        """Check the store at first and whenever it has failed, until it works, for ever: with credentials read anew."""
        while True:
            await self._suspect.wait()
            try:
                self._store = await self._open()
                await check_store(self._store)
                self._suspect.clear()
                self._say("")
            except StoreError as error:
                # Nobody else asks a store that is down: the pool gets no jobs.
                self._metrics.store_error()
                self._say(str(error))
                await asyncio.sleep(CHECK_SECONDS)

    async def _open(self) -> Store:
        spec, credentials = self._spec, await self._credentials()
        return await asyncio.to_thread(
            open_store, spec.url, endpoint=spec.endpoint, region=spec.region, credentials=credentials
        )

    async def _credentials(self) -> dict[str, str] | None:
        name = self._spec.secret_name
        if name is None:
            return None
        try:
            secret = await self._kube.get(SECRETS, name, self._namespace)
            return {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}
        except KubeError as error:
            raise StoreError(f"The store's credentials cannot be read: {error}", retryable=True) from error
        except ValueError:
            raise StoreError(f"The Secret {name} holds a value that is no text.", retryable=True) from None

    def _say(self, error: str) -> None:
        if error:
            self._suspect.set()
        if error != self.error:
            log.log(logging.WARNING if error else logging.INFO, error or "The store works.")
            self.error = error[:MESSAGE_LIMIT]
            self._changed()
