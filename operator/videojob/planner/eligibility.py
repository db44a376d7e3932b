"""Which pools and replicas may serve a job, or why none can: the one rule that placement, demand and statuses ask.

Nothing here looks at what is free: a replica that is eligible and busy is still eligible.
"""

from collections.abc import Iterable
from typing import NamedTuple

from videojob.api.gpupool import CPU, GPUPool
from videojob.api.reasons import REASONS, Reason
from videojob.api.videomodel import Precision, VideoModel
from videojob.planner.book import Book
from videojob.planner.facts import Moment, Replica, ReplicaKey
from videojob.planner.pending import Shape
from videojob.planner.pod_health import troubles
from videojob.planner.verdicts import Rank, Verdict
from videojob.planner.view import View


class Obstacle(NamedTuple):
    """Why a job waits."""

    reason: Reason
    message: str


def pools_for(book: Book, shape: Shape, model: VideoModel) -> list[GPUPool] | Obstacle:
    """The pools that may serve jobs of a shape, in order of their names, whatever their replicas are like now."""
    pools = [pool for _, pool in sorted(book.pools.items()) if shape.model in pool.spec.models]
    if shape.home is not None:
        pools = [pool for pool in pools if pool.metadata.name == shape.home]
    if not pools:
        which = f"GPUPool {shape.home}, which has the job's finished chunks," if shape.home else "No GPUPool"
        lists = "does not list" if shape.home else "lists"
        return Obstacle(Reason.POOL_NOT_FOUND, f"{which} {lists} VideoModel {shape.model}.")
    if shape.store is not None and pools[0].spec.store.url.rstrip("/") != shape.store:
        message = f"GPUPool {shape.home} has another store now; the job's finished chunks are in {shape.store}."
        return Obstacle(Reason.POOL_NOT_FOUND, message)
    able = [pool for pool in pools if runs_on(model, pool)]
    if not able:
        names = ", ".join(f"GPUPool {pool.metadata.name}" for pool in pools)
        return Obstacle(
            Reason.PRECISION_UNSUPPORTED,
            f"VideoModel {shape.model} is {_formats(model)}, but {names} has no accelerator: "
            "a cpu pool runs float32 models only.",
        )
    if shape.begun is not None and shape.begun[1] != model.metadata.uid:
        message = f"VideoModel {shape.model} was replaced after the job had begun: create the job again."
        return Obstacle(Reason.WEIGHTS_CHANGED, message)
    return able


def eligible(
    book: Book, seen: View, shape: Shape, model: VideoModel, now: Moment
) -> dict[ReplicaKey, Verdict] | Obstacle:
    """The replicas that may take jobs of a shape as soon as they have room."""
    pools = pools_for(book, shape, model)
    if isinstance(pools, Obstacle):
        return pools
    found: dict[ReplicaKey, Verdict] = {}
    notes: list[Verdict] = []
    for pool in pools:
        name = pool.metadata.name
        if not holds(model, pool):
            note = f"GPUPool {name}: template.memoryBytes is too little for the model and such a job together."
            notes.append(Verdict(Rank.TOO_SMALL, note, Reason.INSUFFICIENT_MEMORY))
            continue
        judged = {key: _judge(book, seen.replicas.get(key), key, shape, model) for key in seen.members[name]}
        found |= {key: verdict for key, verdict in judged.items() if verdict.rank is Rank.ELIGIBLE}
        if not found:
            best = max([missing(book, seen, pool, now), *judged.values()], key=lambda verdict: verdict.rank)
            notes.append(best._replace(note=f"GPUPool {name}: {best.note}"))
    if shape.failed_on is not None and len(found) > 1:
        # A replica that fails what it gets is always free: it would get every job, and each again and again.
        found.pop(shape.failed_on, None)
    return found or _obstacle(notes)


def _judge(book: Book, replica: Replica | None, key: ReplicaKey, shape: Shape, model: VideoModel) -> Verdict:
    verdict = book.verdicts.judge(key, replica, model)
    if verdict.rank is not Rank.ELIGIBLE or replica is None:
        return verdict
    begun = shape.begun[0] if shape.begun is not None else ""
    if begun and verdict.digest and begun != verdict.digest:
        note = f"the job has begun with weights that {key.name} does not have."
        return Verdict(Rank.OTHER_WEIGHTS, note, Reason.WEIGHTS_CHANGED)
    memory = model.spec.memory
    if 0 < replica.report.memory_bytes < memory.weights_bytes + memory.per_job_bytes:
        note = f"{key.name} has no memory for the model and such a job together."
        return Verdict(Rank.TOO_SMALL, note, Reason.INSUFFICIENT_MEMORY)
    return verdict


def missing(book: Book, seen: View, pool: GPUPool, now: Moment) -> Verdict:
    """The verdict on a pool none of whose replicas has a live heartbeat."""
    if not pool.spec.managed:
        return Verdict(Rank.NO_HEARTBEAT, "no replica has a live heartbeat.", Reason.REPLICAS_UNAVAILABLE)
    name = pool.metadata.name
    memory = book.memories.get(name)
    if memory is not None and memory.refused is not None:
        return Verdict(Rank.NO_HEARTBEAT, memory.refused.message, Reason.TEMPLATE_REFUSED)
    pods = seen.pods[name]
    trouble = next(troubles(pods, now.wall), None)
    if trouble is not None:
        return Verdict(Rank.NO_HEARTBEAT, trouble.message, trouble.reason)
    deployed = book.deployments.get(name)
    wanted = deployed.wanted if deployed is not None else 0
    if wanted or pods:
        ready = sum(pod.ready_since is not None for _, pod in pods)
        note = f"{ready} of {max(wanted, len(pods))} pods are ready."
        return Verdict(Rank.NO_HEARTBEAT, note, Reason.POOL_STARTING)
    return Verdict(Rank.NO_HEARTBEAT, "it has no replica.", Reason.POOL_EMPTY)


def runs_on(model: VideoModel, pool: GPUPool) -> bool:
    """Whether the pool's accelerator takes the number formats of what runs there of the model."""
    return pool.spec.accelerator != CPU or model.spec.accelerated == {Precision.FLOAT32}


def _formats(model: VideoModel) -> str:
    return " and ".join(sorted(model.spec.accelerated))


def holds(model: VideoModel, pool: GPUPool) -> bool:
    """Whether a replica of the pool has the memory for the model and one job, as far as the pool says how much."""
    memory, there = model.spec.memory, pool.spec.template.memory_bytes
    return not (pool.spec.managed and 0 < there < memory.weights_bytes + memory.per_job_bytes)


def _obstacle(notes: Iterable[Verdict]) -> Obstacle:
    """Where something will pass by itself, that is the reason; else the pool nearest to taking the job gives it."""
    notes = list(notes)
    passing = [note for note in notes if note.rank < Rank.OTHER_WEIGHTS]
    nearest = max(passing or notes, key=lambda note: note.rank)
    reason = Reason.POOL_NOT_READY if REASONS[nearest.reason].summarised else nearest.reason
    return Obstacle(reason, nearest.note)
