"""Compares what is known with what the API server has: once before the first plan, and now and then for ever.

The first time it makes the known complete, so that no plan is made from half of the jobs. Later it makes good what a
watch has missed, and counts it: a watch can end or stall without a word, and kopf does not report objects that
vanished while it was disconnected. What it found is made good by then, so nothing hangs on it: liveness neither.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from videojob.controller.parts import PartError
from videojob.kube.answers import identified
from videojob.kube.client import Json, KubeClient, KubeError, ResourceKind
from videojob.kube.paging import pages

logger = logging.getLogger(__name__)

READS = 1000
"""The most objects that one comparison of a kind reads one by one; the next one reads on."""


class Known(Protocol):
    """What is known of the API server's objects."""

    def known(self, kind: ResourceKind) -> Mapping[str, int]:
        """The newest version seen of each object of a kind, by uid, whether it could be read or not."""

    def apply(self, kind: ResourceKind, body: Json) -> None:
        """An object was seen."""

    def forget(self, kind: ResourceKind, uid: str) -> None:
        """An object does not exist any more."""

    def ours(self, kind: ResourceKind, body: Json) -> bool:
        """Whether an object is to be known at all."""


class Audit:
    """Keeps `known` complete for some kinds."""

    def __init__(
        self,
        client: KubeClient,
        known: Known,
        kinds: Sequence[ResourceKind],
        *,
        namespace: str | None,
        pause_seconds: float,
        grace_seconds: float,
        missed: Callable[[ResourceKind, int], None],
        failed: Callable[[ResourceKind], None],
    ) -> None:
        """`namespace` is the only one whose objects are known, if not all are.

        `missed` is called with the number of changes that were made good, `failed` where no comparison could be made.
        """
        self._client = client
        self._known = known
        self._kinds = tuple(kinds)
        self._namespace = namespace
        self._pause_seconds = pause_seconds
        self._grace_seconds = grace_seconds
        self._missed = missed
        self._failed = failed
        self._due: set[ResourceKind] = set()
        self._wake = asyncio.Event()

    async def load(self) -> None:
        """Read everything. Raises KubeError."""
        for kind in self._kinds:
            async for page, _ in pages(self._client, kind, self._namespace):
                for body in page:
                    self._apply(kind, body)

    async def run(self) -> None:
        """Compare again and again, until cancelled.

        Raises PartError where an object has an earlier version than before: what is known comes from a history that is
        not the cluster's any more, and only another process, which knows nothing of it, can go on.
        """
        time = asyncio.get_running_loop().time
        all_due = time() + self._pause_seconds
        while True:
            try:
                async with asyncio.timeout_at(all_due):
                    await self._wake.wait()
            except TimeoutError:
                self._due.update(self._kinds)
                all_due = time() + self._pause_seconds
            self._wake.clear()
            due, self._due = [kind for kind in self._kinds if kind in self._due], set()
            for kind in due:
                try:
                    await self._compare(kind)
                except PartError:
                    raise
                except KubeError as error:
                    logger.warning("%s were not compared with what is known: %s", kind.plural, error)
                    self._failed(kind)
                except Exception:
                    logger.exception("%s could not be compared with what is known", kind.plural)
                    self._failed(kind)

    def soon(self, kind: ResourceKind) -> None:
        """Compare a kind now, because its watch may have missed something."""
        self._due.add(kind)
        self._wake.set()

    async def _compare(self, kind: ResourceKind) -> None:
        """Find and make good the changes that the watch has not brought a while after they were listed.

        The listing asks a quorum, after `before` was seen: it shows nothing older than that.
        """
        before = dict(self._known.known(kind))
        listed: dict[str, int] = {}
        late: dict[str, Json] = {}
        complete = True
        async for page, _ in pages(self._client, kind, self._namespace):
            for body in page:
                if not identified(body):
                    complete = False
                    continue
                uid, text = body["metadata"]["uid"], body["metadata"]["resourceVersion"]
                version = int(text) if text.isdecimal() else 0
                if 0 < version < before.get(uid, 0):
                    raise PartError(_gone_back(kind, body, before[uid]))
                listed[uid] = version
                if before.get(uid, 0) < version and self._ours(kind, body):
                    late[uid] = body
        if not complete:
            logger.warning(
                "The listing of %s has items that cannot be read; none is concluded to be gone.", kind.plural
            )
        vanished = before.keys() - listed.keys() if complete else set()
        if not late and not vanished:
            return
        await asyncio.sleep(self._grace_seconds)
        known = self._known.known(kind)
        overdue = {uid: body for uid, body in late.items() if known.get(uid, 0) < listed[uid]}
        for body in list(overdue.values())[:READS]:
            await self._make_good(kind, body["metadata"])
        known = self._known.known(kind)
        # An object that is still not known now is no fault of the watch.
        count = sum(known.get(uid, 0) >= listed[uid] for uid in overdue)
        for uid in vanished & known.keys():
            self._known.forget(kind, uid)
            count += 1
        if count:
            self._missed(kind, count)
            logger.error("The watch of %s had missed %d changes; they were made good.", kind.plural, count)

    async def _make_good(self, kind: ResourceKind, metadata: Json) -> None:
        """Read an object again: it may have gone since it was listed."""
        try:
            self._apply(kind, await self._client.get(kind, metadata["name"], metadata.get("namespace")))
        except KubeError as error:
            if not error.not_found:
                raise

    def _apply(self, kind: ResourceKind, body: Json) -> None:
        try:
            if self._known.ours(kind, body):
                self._known.apply(kind, body)
        except Exception:
            logger.exception("An object of %s could not be taken in", kind.plural)
            self._failed(kind)

    def _ours(self, kind: ResourceKind, body: Json) -> bool:
        try:
            return self._known.ours(kind, body)
        except Exception:
            logger.exception("An object of %s could not be read", kind.plural)
            return False


def _gone_back(kind: ResourceKind, body: Json, known: int) -> str:
    metadata = body["metadata"]
    name = "/".join(part for part in (metadata.get("namespace"), metadata["name"]) if part)
    return (
        f"{kind.plural} {name} had resourceVersion {known}, and has {metadata['resourceVersion']}: the cluster has "
        "gone back, as after etcd was restored from a backup. Everything is read again by a new process."
    )
