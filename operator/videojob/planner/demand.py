"""What each pool is asked to do: the predicted seconds of the jobs that run or wait there.

Jobs that several pools could take are divided so that these pools are predicted to have drained at the same time; no
job counts for two of them, so that two pools do not both grow for it. Pools that cannot take it now are asked only
where no other one can: else the one that could would never start.

Jobs are looked at by class, never one by one: see `pending`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from videojob.api.gpupool import GPUPool, ScalingMode
from videojob.api.reasons import LASTING
from videojob.api.videomodel import VideoModel
from videojob.api.videoqueue import StopPolicy
from videojob.planner.agenda import WORK_UNIT
from videojob.planner.book import Book
from videojob.planner.eligibility import Obstacle, holds, pools_for
from videojob.planner.estimate import SHORTEST, Estimates, remaining_work
from videojob.planner.facts import Health, Job, Moment
from videojob.planner.pending import Shape
from videojob.planner.pod_health import troubles
from videojob.planner.scaling import Demand
from videojob.planner.verdicts import Rank
from videojob.planner.view import View


def demands(book: Book, seen: View, now: Moment) -> dict[str, Demand]:
    """The demand on every pool of the book; it does not depend on the order in which anything came.

    A job that a replica holds counts there, unless it is being taken back for good (suspend, cancel, deletion,
    HoldAndDrain). One that waits counts if it can run: its queue is open, its model is there and allows it, and a pool
    serves it; with finished chunks it is bound to the pool that has them. A job that pauses after a failure waits, too.
    """
    loads = {name: _Load(pool, book.estimates) for name, pool in sorted(book.pools.items())}
    _run(book, loads)
    free = _wait(book, loads)
    pools = {name: _best(book, seen, shape, now) for name, (shape, _) in free.items()}
    # Those with fewer pools first: what has a choice fills up what they leave.
    for name in sorted(free, key=lambda name: (len(pools[name]), name)):
        model = book.models[name]
        _divide(model, free[name].share, [_Option(loads[pool.metadata.name], model) for pool in pools[name]])
    return {name: load.demand for name, load in loads.items()}


class _Share(NamedTuple):
    """Jobs of one model, and their work in millionths of a chunk."""

    jobs: int
    work: int

    def plus(self, other: "_Share") -> "_Share":
        return _Share(self.jobs + other.jobs, self.work + other.work)


class _Free(NamedTuple):
    """Jobs of one model that any pool may take that serves it."""

    shape: Shape
    """Of one of them: the same pools may serve all."""
    share: _Share


class _Load:
    """What was given to a pool so far."""

    def __init__(self, pool: GPUPool, estimates: Estimates) -> None:
        self.pool = pool
        self.replicas = _most_replicas(pool)
        self._estimates = estimates
        self._work: Counter[str] = Counter()
        """By model: summed as integers, so that the order does not matter."""
        self._chunk_seconds: dict[str, float] = {}
        self._waiting = self._running = 0

    @property
    def seconds(self) -> float:
        """Replica seconds of all that the pool was given."""
        return sum(self._work[model] / WORK_UNIT * self._chunk_seconds[model] for model in sorted(self._work))

    @property
    def demand(self) -> Demand:
        return Demand(self.seconds, self._waiting, self._running)

    def chunk_seconds(self, model: VideoModel) -> float:
        """Replica seconds of a chunk of the model."""
        return self._estimates.default_chunk_seconds(self.pool.metadata.name, model)

    def run(self, model: VideoModel | None, work: int) -> None:
        self._running += 1
        if model is not None:
            self._add(model, work)

    def wait(self, model: VideoModel, share: _Share) -> None:
        self._waiting += share.jobs
        self._add(model, share.work)

    def _add(self, model: VideoModel, work: int) -> None:
        name = model.metadata.name
        self._chunk_seconds[name] = self.chunk_seconds(model)
        self._work[name] += work


def _run(book: Book, loads: Mapping[str, _Load]) -> None:
    """Count the jobs that replicas hold."""
    for key, jobs in book.agenda.held.items():
        load = loads.get(key.pool)
        if load is None:
            continue
        for job in jobs.values():
            if not _leaves(book, job):
                model = book.models.get(job.model)
                load.run(model, round(remaining_work(job, model) * WORK_UNIT) if model is not None else 0)


def _leaves(book: Book, job: Job) -> bool:
    """Whether the job is being taken back for good."""
    if job.suspend or job.cancel or job.deleted:
        return True
    queue = book.queues.get(job.queue_key)
    return queue is not None and queue.spec.stop_policy is StopPolicy.HOLD_AND_DRAIN


def _wait(book: Book, loads: Mapping[str, _Load]) -> dict[str, _Free]:
    """Count the jobs that wait for the one pool that has their chunks; the others, by model."""
    free: dict[str, _Free] = {}
    for shape, found in book.agenda.pending.classes.items():
        model = book.models.get(shape.model)
        if model is None or not _runs(book, shape, model):
            continue
        share = _Share(found.count, found.work)
        if shape.home is not None:
            for pool in _serving(book, shape, model):
                loads[pool.metadata.name].wait(model, share)
        else:
            known = free.get(shape.model, _Free(shape, _Share(0, 0)))
            free[shape.model] = known._replace(share=known.share.plus(share))
    return free


def _runs(book: Book, shape: Shape, model: VideoModel) -> bool:
    """Whether jobs of the shape run as soon as a pool takes them."""
    queue = book.queues.get(shape.queue)
    if queue is None or queue.spec.stop_policy is not StopPolicy.NONE or shape.refused is not None:
        return False
    return shape.begun is None or shape.begun[1] == model.metadata.uid


class _Option:
    """A pool that serves a model, as large as it may be."""

    def __init__(self, load: _Load, model: VideoModel) -> None:
        self.load = load
        self.drained = load.seconds / load.replicas
        """Seconds until it is done with all that it has."""
        self.width = load.replicas / max(load.chunk_seconds(model), SHORTEST)
        """Chunks of the model that it makes in a second."""

    def drained_after(self, work: float) -> float:
        """Seconds until it is done with so much more, in millionths of a chunk."""
        return self.drained + work / WORK_UNIT / self.width


def _best(book: Book, seen: View, shape: Shape, now: Moment) -> list[GPUPool]:
    """The pools that can take jobs of the shape, or will by themselves; where there is none, all that serve it."""
    every = _serving(book, shape, book.models[shape.model])
    able = [pool for pool in every if _able(book, seen, pool, book.models[shape.model], now)]
    return able or every


def _serving(book: Book, shape: Shape, model: VideoModel) -> list[GPUPool]:
    """The pools that may serve jobs of the shape, and have the memory for one."""
    pools = pools_for(book, shape, model)
    return [] if isinstance(pools, Obstacle) else [pool for pool in pools if holds(model, pool)]


def _able(book: Book, seen: View, pool: GPUPool, model: VideoModel, now: Moment) -> bool:
    """Whether the pool takes jobs of the model, or will without anybody's doing."""
    name = pool.metadata.name
    living = [key for key in seen.members[name] if seen.health.get(key) is Health.LIVE]
    if living:
        ranks = (book.verdicts.judge(key, seen.replicas.get(key), model).rank for key in living)
        return any(rank is not Rank.LOAD_FAILED for rank in ranks)
    if not pool.spec.managed:
        return False
    deployed = book.deployments.get(name)
    if book.memories[name].refused is not None or (_stays_at_zero(pool) and not (deployed and deployed.wanted)):
        return False
    return all(trouble.reason not in LASTING for trouble in troubles(seen.pods[name], now.wall))


def _stays_at_zero(pool: GPUPool) -> bool:
    return pool.paused or (pool.spec.scaling.mode is ScalingMode.EXTERNAL and pool.spec.replicas == 0)


def _divide(model: VideoModel, share: _Share, options: Sequence[_Option]) -> None:
    """Give the jobs to the pools, each with its part of the work: not a job, and no work, is lost or counted twice."""
    given = 0
    for option, jobs in zip(options, _counts(share, options), strict=True):
        before, given = given, given + jobs
        if jobs:
            work = share.work * given // share.jobs - share.work * before // share.jobs
            option.load.wait(model, _Share(jobs, work))


def _counts(share: _Share, options: Sequence[_Option]) -> list[int]:
    """How many of the jobs each pool gets, so that the pools drain together.

    Jobs are not split: those that are left over go one by one to the pool that is done with them first; of equal ones
    to the first by name.
    """
    if len(options) < 2:
        return [share.jobs] * len(options)
    work = max(share.work, share.jobs)
    parts = _parts(work / WORK_UNIT, options)
    counts = [int(share.jobs * part / sum(parts)) for part in parts]
    for _ in range(share.jobs - sum(counts)):
        ends = [
            option.drained_after((count + 1) * work / share.jobs) for option, count in zip(options, counts, strict=True)
        ]
        counts[ends.index(min(ends))] += 1
    return counts


def _parts(chunks: float, options: Sequence[_Option]) -> list[float]:
    """So many chunks, divided like water that is poured into vessels: it stands equally high wherever there is any."""
    level = widths = volume = 0.0
    for option in sorted(options, key=lambda option: option.drained):
        if widths and option.drained >= level:
            break
        widths += option.width
        volume += option.width * option.drained
        level = (chunks + volume) / widths
    return [max(0.0, level - option.drained) * option.width for option in options]


def _most_replicas(pool: GPUPool) -> int:
    """Replicas that the pool may have, at least 1."""
    spec = pool.spec
    if not spec.managed:
        return len(spec.endpoints)
    external = spec.replicas if spec.scaling.mode is ScalingMode.EXTERNAL else None
    return max(1, spec.scaling.max_replicas, external or 0)
