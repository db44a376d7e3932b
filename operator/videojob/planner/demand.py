"""What each pool is asked to do: the predicted seconds of the jobs that run or wait there.

A job that no replica holds and that could run on several pools counts for the one that is predicted to have drained it
first, so that two pools do not both grow for the same job. Pools that cannot take it now are asked only where no other
one can: else the one that could would never start. Jobs choose in the order in which they are planned.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from videojob.api.conditions import Reason
from videojob.api.gpupool import GPUPool, ScalingMode
from videojob.api.videomodel import VideoModel
from videojob.api.videoqueue import StopPolicy
from videojob.planner.estimate import Estimates, remaining_work
from videojob.planner.placement import Rank, holds, judge, members, runs_on
from videojob.planner.pod_health import pods_of, troubles
from videojob.planner.resolve import beyond_limits, store_uri
from videojob.planner.snapshot import Job, ReplicaKey, Snapshot, Workload

_LASTING = frozenset({Reason.IMAGE_PULL_FAILED, Reason.CRASH_LOOP, Reason.NODE_PROVISIONING_TIMEOUT})
"""Troubles of pods that do not pass by waiting, as a node that is on its way does."""


class Demand(NamedTuple):
    """What a pool is asked to do."""

    backlog_seconds: float = 0.0
    """Predicted replica seconds of the jobs that run or wait here."""
    waiting: int = 0
    """Jobs that wait."""
    running: int = 0
    """Jobs that a replica holds, and may keep."""

    @property
    def jobs(self) -> int:
        """Jobs that run or wait."""
        return self.waiting + self.running


def demands(snapshot: Snapshot, estimates: Estimates, now: datetime) -> dict[str, Demand]:
    """The demand on every pool of the snapshot; the order of its jobs does not matter.

    A job that a replica holds counts there, unless it is being taken back for good (suspend, cancel, deletion,
    HoldAndDrain). One that waits counts if it can run: its queue is open, its model is there and allows it, and a pool
    serves it; with finished chunks it is bound to the pool that has them. A job that pauses after a failure waits, too.
    """
    loads = {name: _Load(pool) for name, pool in sorted(snapshot.pools.items())}
    replicas = members(snapshot)
    options = {
        name: _options(model, loads, estimates, snapshot, replicas, now) for name, model in snapshot.models.items()
    }
    waiting: list[Job] = []
    for job in snapshot.jobs:
        if job.phase.finished or job.suspend or job.cancel or job.deleted:
            continue
        queue = snapshot.queues.get(job.queue_key)
        policy = queue.spec.stop_policy if queue is not None else None
        if job.assignment is None:
            if policy is StopPolicy.NONE:
                waiting.append(job)
        elif job.assignment.pool in loads and policy is not StopPolicy.HOLD_AND_DRAIN:
            model = snapshot.models.get(job.model)
            seconds = 0.0 if model is None else estimates.remaining_seconds(job.assignment.pool, job, model)
            loads[job.assignment.pool].run(seconds)
    waiting.sort(key=lambda job: (-job.priority, job.created, job.uid))
    works: dict[_Shape, float | None] = {}
    for job in waiting:
        model = snapshot.models.get(job.model)
        work = None if model is None else _work(job, model, works)
        if work is not None:
            _choose(job, work, options[job.model])
    return {name: load.demand for name, load in loads.items()}


class _Load:
    """What was given to a pool so far."""

    def __init__(self, pool: GPUPool) -> None:
        self.pool = pool
        self.replicas = _most_replicas(pool)
        self._seconds = 0.0
        self._waiting = self._running = 0

    @property
    def demand(self) -> Demand:
        return Demand(self._seconds, self._waiting, self._running)

    def drained_after(self, seconds: float) -> float:
        """When the pool, as large as it may be, is done with all that it has and with so much more."""
        return (self._seconds + seconds) / self.replicas

    def run(self, seconds: float) -> None:
        self._seconds += seconds
        self._running += 1

    def wait(self, seconds: float) -> None:
        self._seconds += seconds
        self._waiting += 1


class _Option(NamedTuple):
    """A pool that serves a model, and its replica seconds for a chunk."""

    load: _Load
    chunk_seconds: float


class _Options(NamedTuple):
    """The pools that serve a model."""

    all: tuple[_Option, ...]
    best: tuple[_Option, ...]
    """Those that can take jobs, or will by themselves; where there is none, all of them."""


def _options(
    model: VideoModel,
    loads: Mapping[str, _Load],
    estimates: Estimates,
    snapshot: Snapshot,
    replicas: Mapping[str, list[ReplicaKey]],
    now: datetime,
) -> _Options:
    every = tuple(
        _Option(load, estimates.default_chunk_seconds(name, model))
        for name, load in loads.items()
        if model.metadata.name in load.pool.spec.models and runs_on(model, load.pool) and holds(model, load.pool)
    )
    able = tuple(
        option
        for option in every
        if _able(model, option.load.pool, snapshot, replicas[option.load.pool.metadata.name], now)
    )
    return _Options(every, able or every)


def _able(model: VideoModel, pool: GPUPool, snapshot: Snapshot, replicas: list[ReplicaKey], now: datetime) -> bool:
    """Whether the pool takes jobs of the model, or will without anybody's doing."""
    living = [found for key in replicas if (found := snapshot.replicas.get(key)) is not None and found.live]
    if living:
        return any(judge(replica, model).rank is not Rank.LOAD_FAILED for replica in living)
    if not pool.spec.managed:
        return False
    workload = snapshot.workloads.get(pool.metadata.name, Workload())
    if workload.refused or (not workload.wanted and _stays_at_zero(pool)):
        return False
    return all(trouble.reason not in _LASTING for trouble in troubles(pods_of(snapshot, pool.metadata.name), now))


def _stays_at_zero(pool: GPUPool) -> bool:
    return pool.paused or (pool.spec.scaling.mode is ScalingMode.EXTERNAL and pool.spec.replicas == 0)


class _Shape(NamedTuple):
    """What the work of a job that has not begun depends on; most jobs of a burst are alike."""

    model: str
    seconds: float
    fps: int | None
    width: int | None
    height: int | None
    steps: int | None


def _work(job: Job, model: VideoModel, works: dict[_Shape, float | None]) -> float | None:
    """The remaining work of the job; None where the model, as it is now, cannot do it."""
    if job.resolved is not None:
        return remaining_work(job, model) if job.resolved.model_uid == model.metadata.uid else None
    shape = _Shape(job.model, job.seconds, job.fps, job.width, job.height, job.steps)
    if shape not in works:
        works[shape] = remaining_work(job, model) if beyond_limits(job, model) is None else None
    return works[shape]


def _choose(job: Job, work: float, options: _Options) -> None:
    """Count a waiting job for the pool that drains it first; of equal ones for the first by name."""
    pools = tuple(_homes(job, options.all)) if job.chunks_done > 0 else options.best
    if pools:
        load, chunk_seconds = min(pools, key=lambda option: option.load.drained_after(work * option.chunk_seconds))
        load.wait(work * chunk_seconds)


def _homes(job: Job, options: tuple[_Option, ...]) -> Iterator[_Option]:
    """The pool that has the job's finished chunks, as long as it has the store that they are in."""
    for option in options:
        pool = option.load.pool
        if pool.metadata.name == job.pool and job.store_uri in (None, store_uri(job, pool)):
            yield option


def _most_replicas(pool: GPUPool) -> int:
    """Replicas that the pool may have, at least 1."""
    spec = pool.spec
    if not spec.managed:
        return len(spec.endpoints)
    external = spec.replicas if spec.scaling.mode is ScalingMode.EXTERNAL else None
    return max(1, spec.scaling.max_replicas, external or 0)
