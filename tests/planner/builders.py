"""Short ways to say what a cluster looks like."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from videojob.api.gpupool import Endpoint, GPUPool, GPUPoolSpec, Store
from videojob.api.meta import ObjectMeta
from videojob.api.replica import LoadedModel, ModelState, ReplicaReport
from videojob.api.videojob import Assignment, Phase, Resolved
from videojob.api.videomodel import Limits, Memory, Precision, Source, VideoModel, VideoModelSpec
from videojob.api.videoqueue import StopPolicy, VideoQueue, VideoQueueSpec
from videojob.families import FamilyName
from videojob.planner.decisions import Assign, Decision
from videojob.planner.snapshot import Job, QueueKey, Replica, ReplicaKey, Snapshot

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
DIGEST = "sha256:aa"


def ago(seconds: float) -> datetime:
    """The moment that many seconds before NOW."""
    return NOW - timedelta(seconds=seconds)


def job(name: str = "a", **fields: Any) -> Job:
    """A job that was created a minute ago and waits."""
    defaults: dict[str, Any] = {
        "uid": f"uid-{name}",
        "namespace": "team",
        "name": name,
        "created": ago(60),
        "queue": "default",
        "model": "tiny",
        "seconds": 3.0,
        "seed": 7,
        "reason": "Queued",
        "message": "The job waits its turn.",
    }
    return Job(**defaults | fields)


RESOLVED = Resolved(
    width=832,
    height=480,
    fps=16,
    steps=4,
    guidance_scale=1.0,
    seed=7,
    frames=48,
    chunks=5,
    model_uid="uid-tiny",
    model_generation=1,
    weights_digest=DIGEST,
)


def held(name: str = "a", replica: str = "r0", pool: str = "p", release: str | None = None, **fields: Any) -> Job:
    """A job that a replica holds."""
    defaults: dict[str, Any] = {
        "phase": Phase.RUNNING,
        "assignment": Assignment(pool=pool, replica=replica, release=release),
        "attempts": 1,
        "finalizer": True,
        "start_time": ago(30),
        "reason": "Assigned",
    }
    return begun(name, pool, **defaults | fields)


def begun(name: str = "a", pool: str = "p", chunks_done: int = 2, **fields: Any) -> Job:
    """A job that has finished chunks in that pool's store, and waits."""
    defaults: dict[str, Any] = {
        "attempts": 1,
        "finalizer": True,
        "pool": pool,
        "resolved": RESOLVED,
        "store_uri": f"file:///store/team/uid-{name}",
        "chunks_done": chunks_done,
        "start_time": ago(30),
        "since": ago(20),
    }
    return job(name, **defaults | fields)


def model(name: str = "tiny", uid: str = "", precision: str = "float32", **fields: Any) -> VideoModel:
    """A model that takes 10 bytes, and 1 for each job."""
    spec = VideoModelSpec(
        family=FamilyName.ANYFLOW_FAR,
        source=Source(directory="/models"),
        precision=Precision(precision),
        memory=Memory(weights_bytes=fields.pop("weights_bytes", 10), per_job_bytes=fields.pop("per_job_bytes", 1)),
        limits=Limits(**fields.pop("limits", {})),
        **fields,
    )
    return VideoModel(metadata=ObjectMeta(name=name, uid=uid or f"uid-{name}", generation=1), spec=spec)


def pool(
    name: str = "p",
    replicas: Iterable[str] = ("r0",),
    models: Iterable[str] = ("tiny",),
    accelerator: str = "cpu",
    max_jobs: int = 2,
    store: str = "file:///store",
) -> GPUPool:
    """A pool of endpoints."""
    endpoints = tuple(Endpoint(name=replica, url="localhost:1", max_jobs=max_jobs) for replica in replicas)
    spec = GPUPoolSpec(accelerator=accelerator, endpoints=endpoints, models=tuple(models), store=Store(url=store))
    return GPUPool(metadata=ObjectMeta(name=name, uid=f"uid-{name}", generation=1), spec=spec)


def loaded(name: str = "tiny", digest: str = DIGEST, **fields: Any) -> LoadedModel:
    """A model that is ready on a replica."""
    return LoadedModel(**{"name": name, "uid": f"uid-{name}", "state": ModelState.READY, "digest": digest} | fields)


def replica(live: bool = True, draining: bool = False, **report: Any) -> Replica:
    """A replica with two slots that has the model."""
    return Replica(ReplicaReport(**{"slots": 2, "models": (loaded(),)} | report), live, draining)


def snapshot(
    *jobs: Job,
    models: Iterable[VideoModel] | None = None,
    pools: Iterable[GPUPool] | None = None,
    replicas: dict[str, Replica] | None = None,
    stop: str | None = "None",
    busy: Iterable[str] = (),
) -> Snapshot:
    """A queue, the model tiny, and pool p with a replica r0, unless it says otherwise; replicas are named POOL/NAME."""
    queue = VideoQueue(
        metadata=ObjectMeta(name="default", namespace="team", uid="uid-q", generation=1),
        spec=VideoQueueSpec(stop_policy=StopPolicy(stop or "None")),
    )
    some = {"p/r0": replica()} if replicas is None else replicas
    return Snapshot(
        jobs=jobs,
        queues={} if stop is None else {QueueKey("team", "default"): queue},
        models={found.metadata.name: found for found in ([model()] if models is None else models)},
        pools={found.metadata.name: found for found in ([pool()] if pools is None else pools)},
        replicas={ReplicaKey(*name.split("/")): found for name, found in some.items()},
        busy=frozenset(busy),
    )


def applied(before: Snapshot, decisions: Iterable[Decision]) -> Snapshot:
    """The snapshot once its assignments were written."""
    assigns = {decision.uid: decision for decision in decisions if isinstance(decision, Assign)}

    def after(found: Job) -> Job:
        decision = assigns.get(found.uid)
        if decision is None:
            return found
        return replace(
            found,
            assignment=Assignment(pool=decision.replica.pool, replica=decision.replica.name),
            phase=Phase.ASSIGNED,
            finalizer=True,
            attempts=found.attempts + 1,
            pool=decision.replica.pool,
            resolved=decision.resolved,
            store_uri=decision.store_uri,
        )

    return replace(before, jobs=tuple(after(found) for found in before.jobs))
