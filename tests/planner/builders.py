"""Short ways to write down what a cluster looks like."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from videojob.api import FINALIZER
from videojob.api.gpupool import PAUSED_ANNOTATION, Endpoint, GPUPool, GPUPoolSpec, Scaling, Store
from videojob.api.meta import ObjectMeta
from videojob.api.replica import LoadedModel, ModelState, ReplicaReport
from videojob.api.videojob import Assignment, Phase, Resolved
from videojob.api.videomodel import Limits, Memory, Precision, Source, VideoModel, VideoModelSpec
from videojob.api.videoqueue import StopPolicy, VideoQueue, VideoQueueSpec
from videojob.families import FamilyName
from videojob.planner.book import Book
from videojob.planner.decisions import Assign, Decision
from videojob.planner.estimate import Estimates
from videojob.planner.facts import Deployed, Health, Job, Moment, Pod, Replica, ReplicaKey, WantedShot
from videojob.planner.liveness import Beat
from videojob.planner.memory import Refusal
from videojob.planner.rules import DEFAULT_RULES, Rules

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
MONO = 10_000.0
MOMENT = Moment(NOW, MONO)
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
        "message": "The job is queued.",
        "version": 1,
        "generation": 1,
        "observed_generation": 1,
    }
    given = defaults | fields
    given.setdefault("shots", (WantedShot(given["seconds"]),))
    del given["seconds"]
    return Job(**given)


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
        "finalizers": (FINALIZER,),
        "start_time": ago(30),
        "reason": "Assigned",
    }
    return begun(name, pool, **defaults | fields)


def begun(name: str = "a", pool: str = "p", chunks_done: int = 2, **fields: Any) -> Job:
    """A job that has finished chunks in that pool's store, and waits."""
    defaults: dict[str, Any] = {
        "attempts": 1,
        "finalizers": (FINALIZER,),
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
        family=fields.pop("family", FamilyName.ANYFLOW_FAR),
        source=Source(directory="/models"),
        precision=Precision(precision),
        memory=Memory(weights_bytes=fields.pop("weights_bytes", 10), per_job_bytes=fields.pop("per_job_bytes", 1)),
        limits=Limits(**fields.pop("limits", {})),
        **fields,
    )
    return VideoModel(
        metadata=ObjectMeta(name=name, uid=uid or f"uid-{name}", resource_version="1", generation=1), spec=spec
    )


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
    return GPUPool(metadata=ObjectMeta(name=name, uid=f"uid-{name}", resource_version="1", generation=1), spec=spec)


def managed(
    name: str = "p",
    models: Iterable[str] = ("tiny",),
    paused: bool = False,
    scaling: Mapping[str, Any] | None = None,
    **spec: Any,
) -> GPUPool:
    """A managed pool with an accelerator, which may have four replicas of one job each."""
    made = pool(name)
    annotations = {PAUSED_ANNOTATION: "true"} if paused else {}
    fields: dict[str, Any] = {
        "accelerator": "nvidia-h200",
        "models": tuple(models),
        "store": made.spec.store,
        "scaling": Scaling(**{"max_replicas": 4} | dict(scaling or {})),
    }
    metadata = made.metadata.model_copy(update={"annotations": annotations})
    return GPUPool(metadata=metadata, spec=GPUPoolSpec(**fields | spec))


def loaded(name: str = "tiny", digest: str = DIGEST, **fields: Any) -> LoadedModel:
    """A model that is ready on a replica."""
    given: dict[str, Any] = {"name": name, "uid": f"uid-{name}", "state": ModelState.READY, "digest": digest}
    return LoadedModel(**given | fields)


def replica(
    live: bool = True, draining: bool = False, lost: bool = False, drain_reason: str = "", **report: Any
) -> Replica:
    """A replica with two slots that has the model; silent where it is not live."""
    health = Health.LOST if lost else Health.LIVE if live else Health.SILENT
    fields: dict[str, Any] = {"slots": 2, "models": (loaded(),)}
    return Replica(ReplicaReport(**fields | report), health, draining, drain_reason)


def pod(**fields: Any) -> Pod:
    """A pod that was made a minute ago and is ready."""
    defaults: dict[str, Any] = {"uid": "u", "created": ago(60), "ready_since": ago(5)}
    return Pod(**defaults | fields)


def key(name: str) -> ReplicaKey:
    """The replica POOL/NAME."""
    return ReplicaKey(*name.split("/"))


def queue(stop: str = "None", name: str = "default") -> VideoQueue:
    """A queue of namespace team."""
    metadata = ObjectMeta(name=name, namespace="team", uid=f"uid-q-{name}", resource_version="1", generation=1)
    return VideoQueue(metadata=metadata, spec=VideoQueueSpec(stop_policy=StopPolicy(stop)))


def book(
    *jobs: Job,
    models: Iterable[VideoModel] | None = None,
    pools: Iterable[GPUPool] | None = None,
    replicas: Mapping[str, Replica] | None = None,
    stop: str | None = "None",
    busy: Iterable[str] = (),
    queues: Iterable[VideoQueue] | None = None,
    pods: Mapping[str, Pod] | None = None,
    deployments: Mapping[str, Deployed | int] | None = None,
    refused: Mapping[str, str] | None = None,
    estimates: Estimates | None = None,
    rules: Rules = DEFAULT_RULES,
) -> Book:
    """A queue, the model tiny, and pool p with a replica r0, unless it is given otherwise.

    Replicas and pods are named POOL/NAME. Every replica of a managed pool has a pod that is ready, unless pods are
    given. A number instead of a Deployment is the one of its replicas; `refused` has why a pool's Deployment was
    refused. On the jobs with the uids in `busy` nothing is decided.
    """
    made = Book(rules)
    for model_ in [model()] if models is None else models:
        made.put_model(model_)
    for pool_ in [pool()] if pools is None else pools:
        made.put_pool(pool_)
    for queue_ in ([queue(stop)] if stop is not None else []) if queues is None else queues:
        made.put_queue(queue_)
    there = {"p/r0": replica()} if replicas is None else replicas
    for name, found in there.items():
        made.put_beat(key(name), beat(found))
    if pods is None:
        pods = {name: pod() for name in there if (own := made.pools.get(key(name).pool)) and own.spec.managed}
    for name, one in pods.items():
        made.put_pod(key(name), one)
    for name, deployed in (deployments or {}).items():
        made.put_deployment(name, Deployed(deployed, 1, version=1) if isinstance(deployed, int) else deployed)
    for name, message in (refused or {}).items():
        made.remember({name: replace(made.memories[name], refused=Refusal(message, MONO, 1))})
    if estimates is not None:
        made.estimates = estimates
    for job_ in jobs:
        made.put_job(job_)
    for uid in busy:
        made.rest(("job", uid), MONO + 1e9)
    made.advance(MOMENT)
    return made


def beat(found: Replica, name: str = "lease", renew_time: str = "1") -> Beat:
    """The Lease of a replica, as old as its health says: at MONO it is like that."""
    seen = MONO - 60 if found.health is Health.SILENT else MONO
    return Beat(found, name, renew_time, seen=seen, left=found.health is Health.LOST)


def applied(before: Book, decisions: Iterable[Decision]) -> Book:
    """The same book, once the assignments among the decisions were written."""
    for decision in decisions:
        if not isinstance(decision, Assign):
            continue
        found = before.jobs[decision.job.uid]
        before.put_job(
            replace(
                found,
                assignment=Assignment(pool=decision.replica.pool, replica=decision.replica.name),
                phase=Phase.ASSIGNED,
                finalizers=(FINALIZER,),
                attempts=found.attempts + 1,
                pool=decision.replica.pool,
                resolved=decision.resolved,
                store_uri=decision.store_uri,
                version=found.version + 1,
            )
        )
    return before
