"""What the operator knows of the cluster: slim records of every object, fed by watches and by the answers to writes.

An object is replaced only by a newer one (Kubernetes compares resource versions as integers, KEP-5504), so late events
and early answers may come in any order.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import ValidationError

from videojob.api import FINALIZER, MANAGER
from videojob.api.conditions import ConditionType, find
from videojob.api.gpupool import GPUPool
from videojob.api.videojob import Phase, VideoJob, VideoJobStatus
from videojob.api.videomodel import VideoModel
from videojob.api.videoqueue import VideoQueue
from videojob.kube.client import GPU_POOLS, VIDEO_JOBS, VIDEO_MODELS, VIDEO_QUEUES, Json, ResourceKind
from videojob.planner.snapshot import EPOCH, Job, QueueKey, ReplicaKey, Snapshot

logger = logging.getLogger(__name__)

KINDS = (VIDEO_JOBS, VIDEO_QUEUES, VIDEO_MODELS, GPU_POOLS)
Key = TypeVar("Key")
Catalogued = TypeVar("Catalogued", bound=VideoQueue | VideoModel | GPUPool)


@dataclass(slots=True)
class JobRecord:
    """A VideoJob as last seen."""

    job: Job
    version: int
    generation: int
    finalizers: tuple[str, ...]
    status: bytes
    """JSON, because that takes a tenth of the memory of objects; empty once the job has ended."""

    def read_status(self) -> VideoJobStatus:
        """The status as it is in the API."""
        return VideoJobStatus.model_validate_json(self.status)


Progressed = Callable[[Job, Job, int], None]
"""Called with a job before and after it has committed more chunks, and the number of jobs on its replica."""
Ended = Callable[[VideoJob], None]
"""Called with a job that has come to its end."""


@dataclass(frozen=True, slots=True)
class JobLabels:
    """What jobs are counted by."""

    namespace: str
    queue: str
    pool: str
    phase: Phase


class Cache:
    """Every object that plans are made from. `changed` is called when one of them changed."""

    def __init__(
        self,
        draw_seed: Callable[[], int],
        changed: Callable[[], None],
        *,
        namespace: str | None = None,
        progressed: Progressed = lambda old, new, sharing: None,
        ended: Ended = lambda job: None,
    ) -> None:
        """`namespace` is that of an operator that serves its own namespace only."""
        self._draw_seed = draw_seed
        self._changed = changed
        self._namespace = namespace
        self._progressed = progressed
        self._ended = ended
        self._held: Counter[ReplicaKey] = Counter()
        self._live: dict[str, JobRecord] = {}
        self._done: dict[str, int] = {}
        self._labels: dict[str, JobLabels] = {}
        self.counts: Counter[JobLabels] = Counter()
        self.queues: dict[QueueKey, VideoQueue] = {}
        self.models: dict[str, VideoModel] = {}
        self.pools: dict[str, GPUPool] = {}
        self.assumed: dict[str, Job] = {}
        """Jobs as they will be once the write that is under way has succeeded."""

    def job(self, uid: str) -> JobRecord | None:
        """A job that may still need a decision: one that has not ended, is being deleted, or has a time to live."""
        return self._live.get(uid)

    def apply(self, kind: ResourceKind, body: Json, *, deleted: bool = False, insert: bool = True) -> None:
        """An object was seen, or is gone. Answers to writes must not insert: the object may have gone meanwhile."""
        try:
            if kind is VIDEO_JOBS:
                news = self._apply_job(body, deleted, insert)
            elif kind is VIDEO_QUEUES:
                queue = VideoQueue.model_validate(body)
                key = QueueKey(queue.metadata.namespace, queue.metadata.name)
                news = _catalogue(self.queues, key, queue, deleted)
            elif kind is VIDEO_MODELS:
                model = VideoModel.model_validate(body)
                news = _catalogue(self.models, model.metadata.name, model, deleted)
            else:
                if not self.ours(kind, body):
                    return
                pool = GPUPool.model_validate(body)
                news = _catalogue(self.pools, pool.metadata.name, pool, deleted)
        except ValidationError as error:
            metadata = body.get("metadata", {})
            where = "/".join(part for part in (metadata.get("namespace"), metadata.get("name")) if part)
            logger.warning("%s %s cannot be read, and is left alone: %s", kind.plural, where, error)
            return
        if news:
            self._changed()

    def forget_job(self, uid: str) -> None:
        """A job does not exist any more."""
        self._hold(self._live.pop(uid, None), -1)
        self._done.pop(uid, None)
        self.assumed.pop(uid, None)
        self._count(uid, None)
        self._changed()

    def versions(self, kind: ResourceKind) -> dict[str, int]:
        """The resource version by uid, for every known object of a kind."""
        if kind is VIDEO_JOBS:
            return self._done | {uid: record.version for uid, record in self._live.items()}
        catalogue: dict[ResourceKind, Iterable[VideoQueue | VideoModel | GPUPool]] = {
            VIDEO_QUEUES: self.queues.values(),
            VIDEO_MODELS: self.models.values(),
            GPU_POOLS: self.pools.values(),
        }
        return {found.metadata.uid: _version(found) for found in catalogue[kind]}

    def forget(self, kind: ResourceKind, uid: str) -> None:
        """An object does not exist any more."""
        if kind is VIDEO_JOBS:
            self.forget_job(uid)
            return
        self.queues = {key: queue for key, queue in self.queues.items() if queue.metadata.uid != uid}
        self.models = {key: model for key, model in self.models.items() if model.metadata.uid != uid}
        self.pools = {key: pool for key, pool in self.pools.items() if pool.metadata.uid != uid}
        self._changed()

    def waiting(self) -> Counter[tuple[str, str, str]]:
        """Jobs that no replica holds, by namespace, queue and reason."""
        jobs = (record.job for record in self._live.values())
        return Counter((job.namespace, job.queue, job.reason) for job in jobs if job.waits)

    def snapshot(self) -> Snapshot:
        """What is known of jobs that may need a decision, of queues, models and pools."""
        return Snapshot(tuple(self._jobs()), dict(self.queues), dict(self.models), dict(self.pools))

    def _jobs(self) -> Iterator[Job]:
        for uid, record in self._live.items():
            yield self.assumed.get(uid, record.job)

    def _apply_job(self, body: Json, deleted: bool, insert: bool) -> bool:
        uid, version = body["metadata"]["uid"], int(body["metadata"]["resourceVersion"])
        known = self._live.get(uid)
        if deleted:
            self.forget_job(uid)
            return True
        if not self.ours(VIDEO_JOBS, body):
            return False
        old_version = known.version if known is not None else self._done.get(uid)
        if (old_version is not None and old_version >= version) or (old_version is None and not insert):
            return False
        found = VideoJob.model_validate(body)
        record = self._record(found, body.get("status", {}), known)
        job = record.job
        self._hold(known, -1)
        if job.phase.finished and not job.deleted and job.expires is None and not job.lacks_finalizer:
            self._live.pop(uid, None)
            self._done[uid] = version
        else:
            self._done.pop(uid, None)
            self._live[uid] = record
            self._hold(record, 1)
        if known is not None:
            self._tell(known.job, job, found)
        self._count(uid, JobLabels(job.namespace, job.queue, job.pool or "", job.phase))
        return True

    def _tell(self, old: Job, new: Job, found: VideoJob) -> None:
        if new.phase.finished and not old.phase.finished:
            self._ended(found)
        key = old.replica_key
        if key is not None and new.attempts == old.attempts and new.chunks_done > old.chunks_done:
            self._progressed(old, replace(new, assignment=old.assignment), max(1, self._held[key]))

    def _hold(self, record: JobRecord | None, change: int) -> None:
        """Count the jobs of the record's replica."""
        if record is None or record.job.replica_key is None or record.job.phase.finished:
            return
        self._held[record.job.replica_key] += change
        if not self._held[record.job.replica_key]:
            del self._held[record.job.replica_key]

    def ours(self, kind: ResourceKind, body: Json) -> bool:
        """Whether this operator acts on the object: another one may manage a job, or serve a pool."""
        spec = body.get("spec", {})
        if kind is VIDEO_JOBS:
            return bool(spec.get("managedBy", MANAGER) == MANAGER)
        return kind is not GPU_POOLS or spec.get("operatorNamespace") == self._namespace

    def _record(self, found: VideoJob, status: Json, known: JobRecord | None) -> JobRecord:
        metadata = found.metadata
        if found.spec.seed is not None:
            seed = found.spec.seed
        else:
            seed = known.job.seed if known is not None else self._draw_seed()
        return JobRecord(
            job=slim(found, seed),
            version=int(metadata.resource_version),
            generation=metadata.generation,
            finalizers=metadata.finalizers,
            status=b"" if found.status.phase.finished else json.dumps(status, separators=(",", ":")).encode(),
        )

    def _count(self, uid: str, labels: JobLabels | None) -> None:
        old = self._labels.pop(uid, None)
        if old is not None:
            self.counts[old] -= 1
            if not self.counts[old]:
                del self.counts[old]
        if labels is not None:
            self._labels[uid] = labels
            self.counts[labels] += 1


def slim(found: VideoJob, seed: int) -> Job:
    """What planning needs of a VideoJob."""
    metadata, spec, status = found.metadata, found.spec, found.status
    waits = find(status.conditions, ConditionType.ASSIGNED)
    return Job(
        uid=metadata.uid,
        namespace=metadata.namespace,
        name=metadata.name,
        created=metadata.creation_timestamp or EPOCH,
        queue=spec.queue_name,
        model=spec.model,
        seconds=sum(shot.seconds for shot in spec.shots),
        seed=seed,
        width=spec.width,
        height=spec.height,
        fps=spec.fps,
        steps=spec.steps,
        guidance_scale=spec.guidance_scale,
        priority=spec.priority,
        suspend=spec.suspend,
        cancel=spec.cancel,
        deleted=metadata.deletion_timestamp is not None,
        finalizer=FINALIZER in metadata.finalizers,
        retain_output=spec.output.deletion_policy == "Retain",
        backoff_limit=spec.backoff_limit,
        active_deadline_seconds=spec.active_deadline_seconds,
        ttl_seconds_after_finished=spec.ttl_seconds_after_finished,
        phase=status.phase,
        attempts=status.attempts,
        failures=status.failures,
        losses=status.losses,
        reason=waits.reason if waits else "",
        message=waits.message if waits else "",
        since=waits.last_transition_time if waits else EPOCH,
        assignment=status.assignment,
        pool=status.pool,
        resolved=status.resolved,
        store_uri=status.store_uri,
        chunks_done=status.progress.chunks_done if status.progress else 0,
        running_seconds=status.timing.running_seconds if status.timing else 0.0,
        start_time=status.start_time,
        completion_time=status.completion_time,
    )


def _version(found: VideoQueue | VideoModel | GPUPool) -> int:
    return int(found.metadata.resource_version)


def _catalogue(catalogue: dict[Key, Catalogued], key: Key, found: Catalogued, deleted: bool) -> bool:
    """Keep the object if it is newer than the one known; drop it if it was deleted and is the one known."""
    known = catalogue.get(key)
    if deleted:
        if known is None or known.metadata.uid != found.metadata.uid:
            return False
        del catalogue[key]
        return True
    if known is not None and _version(known) >= _version(found):
        return False
    catalogue[key] = found
    return True
