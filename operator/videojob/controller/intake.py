"""Objects of the API on their way into the book: events of watches, listings, and answers to writes.

An object is replaced only by a newer one. One that cannot be read stays in the book as it was when it last could, and
is reported once for each of its versions: unreadable is not absent. Nothing that comes here can raise.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from videojob.api import MANAGER
from videojob.api.gpupool import GPUPool
from videojob.api.meta import ObjectMeta
from videojob.api.videojob import VideoJob
from videojob.api.videomodel import VideoModel
from videojob.api.videoqueue import VideoQueue
from videojob.controller import reading
from videojob.controller.reading import UnreadableError
from videojob.kube.client import (
    DEPLOYMENTS,
    GPU_POOLS,
    LEASES,
    PODS,
    VIDEO_JOBS,
    VIDEO_MODELS,
    VIDEO_QUEUES,
    ResourceKind,
)
from videojob.planner.book import Book
from videojob.planner.facts import Job, Moment, ReplicaKey
from videojob.planner.pools import COLD_START_WEIGHT
from videojob.workload.deployment import deployment_name

Json = dict[str, Any]
logger = logging.getLogger(__name__)

KINDS = (VIDEO_QUEUES, VIDEO_MODELS, GPU_POOLS, VIDEO_JOBS)
"""The kinds of videojob.dev. Jobs come last: what they need depends on the models."""


class Observer(Protocol):
    """What is reported to dashboards and people."""

    def ended(self, job: VideoJob) -> None:
        """A job has come to its end."""

    def cold_started(self, pool: str, seconds: float) -> None:
        """A pod of the pool took so long from its creation to being ready."""

    def unreadable(self, kind: ResourceKind, metadata: Json, why: str) -> None:
        """A new version of an object cannot be read."""


class Intake:
    """Puts objects into the book; `changed` is called when a plan could come out differently."""

    def __init__(
        self,
        book: Book,
        observer: Observer,
        *,
        changed: Callable[[], None],
        clock: Callable[[], Moment],
        draw_seed: Callable[[], int],
        namespace: str | None = None,
    ) -> None:
        """`namespace` is that of an operator that serves its own namespace only."""
        self._book = book
        self._observer = observer
        self._changed = changed
        self._clock = clock
        self._draw_seed = draw_seed
        self._namespace = namespace
        self._unread: dict[tuple[str, str], int] = {}
        """Versions of objects that cannot be read, by plural of the kind and uid, or name where the book has that."""
        self._lease_versions: dict[ReplicaKey, int] = {}
        self._started: set[str] = set()
        """uids of pods that have been ready: one that is so again had no cold start."""

    def apply(self, kind: ResourceKind, body: Json, *, deleted: bool = False, insert: bool = True) -> None:
        """An object was seen, or is gone. Answers to writes must not insert jobs: the job may have gone meanwhile."""
        try:
            news = self._apply(kind, body, deleted, insert)
        except UnreadableError as error:
            news = self._refuse(kind, body, str(error), insert)
        except Exception:
            logger.exception("An object of %s could not be taken in, and stays as it was", kind.plural)
            return
        if news:
            self._changed()

    def restore(self, kind: ResourceKind, bodies: Iterable[Json], version: int | None = None) -> None:
        """All Leases, pods or Deployments that there are, as of a resource version; the others are gone.

        What was seen at a later version than that of the listing is not gone.
        """
        bodies = list(bodies)
        there = {self._name(body) for body in bodies}
        now, book = self._clock(), self._book
        gone = False
        if kind is LEASES:
            for lease, beat in list(book.liveness.beats.items()):
                known = self._lease_versions.get(lease)
                if beat.replica is not None and beat.name not in there and not _later(known, version):
                    self._drop_lease(lease, now)
                    gone = True
        elif kind is PODS:
            for replica in [key for key in book.pods if key.name not in there]:
                self._drop_pod(replica)
                gone = True
        elif kind is DEPLOYMENTS:
            for pool, deployed in list(book.deployments.items()):
                if deployment_name(pool) not in there and not _later(deployed.version, version):
                    book.drop_deployment(pool)
                    gone = True
        for key in [key for key in self._unread if key[0] == kind.plural and key[1] not in there]:
            self._readable(*key)
        if gone:
            self._changed()
        for body in bodies:
            self.apply(kind, body)

    def forget(self, kind: ResourceKind, uid: str) -> None:
        """A job, queue, model or pool does not exist any more."""
        book = self._book
        self._readable(kind.plural, uid)
        if kind is VIDEO_JOBS:
            book.drop_job(uid)
        elif kind is VIDEO_QUEUES:
            for queue in [key for key, found in book.queues.items() if found.metadata.uid == uid]:
                book.drop_queue(queue, uid)
        elif kind is VIDEO_MODELS:
            for name in [name for name, model in book.models.items() if model.metadata.uid == uid]:
                book.drop_model(name, uid)
        elif kind is GPU_POOLS:
            for name in [name for name, pool in book.pools.items() if pool.metadata.uid == uid]:
                book.drop_pool(name, uid)
        self._changed()

    def known(self, kind: ResourceKind) -> dict[str, int]:
        """The newest resource version that was seen of every job, queue, model or pool, readable or not, by uid."""
        unread = {uid: version for (plural, uid), version in self._unread.items() if plural == kind.plural}
        read = self._book.versions() if kind is VIDEO_JOBS else self._catalogue(kind)
        return read | unread

    def _catalogue(self, kind: ResourceKind) -> dict[str, int]:
        """The resource version of every queue, model or pool, as it was last readable, by uid; of others none."""
        book = self._book
        catalogues: Mapping[ResourceKind, Iterable[VideoQueue | VideoModel | GPUPool]] = {
            VIDEO_QUEUES: book.queues.values(),
            VIDEO_MODELS: book.models.values(),
            GPU_POOLS: book.pools.values(),
        }
        return {found.metadata.uid: _version(found.metadata) for found in catalogues.get(kind, ())}

    def ours(self, kind: ResourceKind, body: Json) -> bool:
        """Whether this operator acts on the object: another one may manage a job, or serve a pool."""
        spec = body.get("spec")
        if not isinstance(spec, dict):
            return True
        if kind is VIDEO_JOBS:
            return bool(spec.get("managedBy", MANAGER) == MANAGER)
        return kind is not GPU_POOLS or spec.get("operatorNamespace") == self._namespace

    def renewals(self, leases: Iterable[Json]) -> dict[ReplicaKey, str]:
        """The `renewTime` of every replica's Lease of a listing, as far as they can be read."""
        found = {}
        for body in leases:
            try:
                found[reading.replica_key(body)] = reading.read_beat(body, None, 0.0)[0].renew_time
            except UnreadableError:
                continue
        return found

    def unreadable_counts(self) -> Counter[str]:
        """How many objects of a kind, by its plural, cannot be read now."""
        return Counter(plural for plural, _ in self._book.unreadable)

    def _apply(self, kind: ResourceKind, body: Json, deleted: bool, insert: bool) -> bool:
        if kind is LEASES:
            return self._lease(body, deleted)
        if kind is PODS:
            return self._pod(body, deleted)
        if kind is DEPLOYMENTS:
            return self._deployment(body, deleted)
        uid, version = _uid(body), reading.version_of(body)
        if deleted:
            self.forget(kind, uid)
            return False
        if not self.ours(kind, body) or version <= self._unread.get((kind.plural, uid), -1):
            return False
        if kind is VIDEO_JOBS:
            return self._job(body, uid, version, insert)
        if kind is VIDEO_QUEUES:
            news = self._book.put_queue(reading.read_model(VideoQueue, body))
        elif kind is VIDEO_MODELS:
            news = self._book.put_model(reading.read_model(VideoModel, body))
        else:
            news = self._book.put_pool(reading.read_model(GPUPool, body))
        if news:
            self._readable(kind.plural, uid)
        return news

    # Jobs

    def _job(self, body: Json, uid: str, version: int, insert: bool) -> bool:
        known = self._book.version(uid)
        if (known is not None and known >= version) or (known is None and not insert):
            return False
        old = self._book.jobs.get(uid)
        found, new = reading.read_job(body, lambda: old.seed if old is not None else self._draw_seed())
        sharing = self._sharing(old)
        news = self._book.put_job(new, insert=insert)
        if news:
            self._unread.pop((VIDEO_JOBS.plural, uid), None)
            if old is not None:
                self._compare(old, new, found, sharing)
        return news

    def _sharing(self, job: Job | None) -> int:
        """How many jobs share the job's replica, itself included."""
        key = job.replica_key if job is not None else None
        return len(self._book.agenda.held.get(key, ())) if key is not None else 0

    def _compare(self, old: Job, new: Job, found: VideoJob, sharing: int) -> None:
        """What has become of a job that was known."""
        if new.phase.finished and not old.phase.finished:
            self._observer.ended(found)
        key = old.replica_key
        if key is None or new.attempts != old.attempts or new.chunks_done <= old.chunks_done:
            return
        at = self._clock().wall
        for server in (key, key.pool):
            self._book.service.put(server, new.uid, at)
        model = self._book.models.get(new.model)
        if model is not None and new.resolved is not None:
            self._book.estimates = self._book.estimates.observe(
                key.pool,
                model,
                new.resolved,
                new.chunks_done - old.chunks_done,
                new.running_seconds - old.running_seconds,
                max(1, sharing),
            )

    # Replicas

    def _lease(self, body: Json, deleted: bool) -> bool:
        key, now, version = reading.replica_key(body), self._clock(), reading.version_of(body)
        if version < self._lease_versions.get(key, 0):
            return False
        if deleted:
            self._drop_lease(key, now)
            return True
        beat, trouble = reading.read_beat(body, self._book.liveness.beats.get(key), now.mono)
        self._lease_versions[key] = version
        if trouble:
            # Not by `put_beat`: a report that cannot be read does not say which jobs the replica has.
            renewed = self._book.liveness.put(key, beat)
            return self._refuse(LEASES, body, trouble) or renewed
        self._readable(LEASES.plural, beat.name)
        return self._book.put_beat(key, beat)

    def _drop_lease(self, key: ReplicaKey, now: Moment) -> None:
        pool = self._book.pools.get(key.pool)
        managed = pool is not None and pool.spec.managed
        self._lease_versions.pop(key, None)
        self._book.drop_beat(key, now.mono, left=managed and key not in self._book.pods)

    def _pod(self, body: Json, deleted: bool) -> bool:
        key = reading.pod_key(body)
        old = self._book.pods.get(key)
        if deleted:
            self._readable(PODS.plural, key.name)
            if old is not None and body["metadata"].get("uid") in (old.uid, None):
                self._drop_pod(key)
            return True
        pod = reading.pod_of(body)
        self._readable(PODS.plural, key.name)
        if pod.ready_since is not None and pod.uid not in self._started:
            self._started.add(pod.uid)
            if old is not None and not pod.restarts:
                self._cold_started(key.pool, (pod.ready_since - pod.created).total_seconds())
        return self._book.put_pod(key, pod)

    def _drop_pod(self, key: ReplicaKey) -> None:
        """A pod is gone. Its replica has left, unless its Lease is renewed once more: then its node was cut off."""
        pod = self._book.pods.get(key)
        if pod is None:
            return
        self._started.discard(pod.uid)
        self._book.drop_pod(key)
        pool, beat = self._book.pools.get(key.pool), self._book.liveness.beats.get(key)
        if beat is not None and (pool is None or pool.spec.managed):
            self._book.put_beat(key, replace(beat, left=True))

    def _cold_started(self, pool: str, seconds: float) -> None:
        self._observer.cold_started(pool, seconds)
        memory = self._book.memories.get(pool)
        if memory is not None:
            old = memory.cold_start_seconds
            new = seconds if old is None else old + COLD_START_WEIGHT * (seconds - old)
            self._book.remember({pool: replace(memory, cold_start_seconds=new)})

    def _deployment(self, body: Json, deleted: bool) -> bool:
        pool = reading.deployment_pool(body)
        known = self._book.deployments.get(pool)
        if deleted or "deletionTimestamp" in body["metadata"]:
            if known is not None and known.version > reading.version_of(body):
                return False
            self._readable(DEPLOYMENTS.plural, body["metadata"]["name"])
            self._book.drop_deployment(pool)
            return known is not None
        deployed = reading.deployed_of(body)
        self._readable(DEPLOYMENTS.plural, body["metadata"]["name"])
        return self._book.put_deployment(pool, deployed)

    # Objects that cannot be read

    def _refuse(self, kind: ResourceKind, body: Json, why: str, insert: bool = True) -> bool:
        """Keep what was last readable of the object, and report why, at most once for each version."""
        metadata = body.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        identity = metadata.get("uid") if kind in KINDS else metadata.get("name")
        if not isinstance(identity, str):
            logger.warning("An object of %s came without metadata, and is left alone: %s", kind.plural, why)
            return False
        try:
            version = reading.version_of(body)
        except UnreadableError:
            version = 0
        key = (kind.plural, identity)
        known = self._book.version(identity) if kind is VIDEO_JOBS else self._catalogue(kind).get(identity)
        if version <= self._unread.get(key, -1) or (known is not None and version <= known):
            return False
        if known is None and not insert:
            return False
        self._unread[key] = version
        # A Lease has a new version every few seconds, and a job with each chunk: the same fault is no news.
        holder, end = (reading.holder_of(body), reading.end_of(body)) if kind is VIDEO_JOBS else (None, None)
        news = self._book.put_unreadable(kind.plural, identity, why, holder, end)
        if news:
            logger.warning("%s %s cannot be read, and stays as it was: %s", kind.plural, _where(metadata), why)
            self._observer.unreadable(kind, metadata, why)
        return news

    def _readable(self, plural: str, identity: str) -> None:
        self._unread.pop((plural, identity), None)
        self._book.unreadable.pop((plural, identity), None)

    def _name(self, body: Json) -> str:
        metadata = body.get("metadata")
        return str(metadata.get("name")) if isinstance(metadata, dict) else ""


def _uid(body: Json) -> str:
    try:
        uid = body["metadata"]["uid"]
    except (KeyError, TypeError) as error:
        raise UnreadableError("it has no uid") from error
    if not isinstance(uid, str) or not uid:
        raise UnreadableError("it has no uid")
    return uid


def _version(metadata: ObjectMeta) -> int:
    return int(metadata.resource_version)


def _later(known: int | None, version: int | None) -> bool:
    return known is not None and version is not None and known > version


def _where(metadata: Json) -> str:
    return "/".join(str(part) for part in (metadata.get("namespace"), metadata.get("name")) if part)
