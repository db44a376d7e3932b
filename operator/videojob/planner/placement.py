"""Which replica gets a job, or why none does.

Capacity only shrinks while a plan is made. So replicas wait in a heap by free capacity, whose entries may be too good
but never too bad: the top is put right when it is looked at (lazy evaluation, as in greedy submodular algorithms). Jobs
that can run on the same replicas share a heap, and a heap that has run dry answers for all of them at once.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from videojob.api.conditions import Reason
from videojob.api.gpupool import CPU, GPUPool
from videojob.api.replica import ModelState
from videojob.api.videomodel import Precision, VideoModel
from videojob.planner.pod_health import pods_of, troubles
from videojob.planner.snapshot import Job, Replica, ReplicaKey, Snapshot, Workload


@dataclass
class Room:
    """What is free on a replica, and could be: a model that no job uses makes room for another one."""

    slots: int
    memory: float
    """Bytes that neither jobs nor the models that they use take; infinite where the replica does not say."""
    used: set[str] = field(default_factory=set)
    """Models that jobs use."""

    def fits(self, model: VideoModel) -> bool:
        """Whether a job of that model can be added."""
        return self.slots > 0 and self.memory >= self._bytes(model)

    def take(self, model: VideoModel) -> None:
        """Add a job of that model."""
        self.memory -= self._bytes(model)
        self.slots -= 1
        self.used.add(model.metadata.name)

    def _bytes(self, model: VideoModel) -> int:
        memory = model.spec.memory
        return memory.per_job_bytes + (0 if model.metadata.name in self.used else memory.weights_bytes)


class Obstacle(NamedTuple):
    """Why a job waits."""

    reason: Reason
    message: str


class Place(NamedTuple):
    """Where a job goes."""

    replica: ReplicaKey
    weights_digest: str


BUSY = Obstacle(Reason.QUEUED, "Every slot that could take the job is busy.")


class Rank(IntEnum):
    """How near a replica is to taking a job; of a pool's replicas the nearest is told."""

    NO_HEARTBEAT = 0
    DRAINING = 1
    LOADING = 2
    NO_STORE = 3
    NO_TRITON = 4
    LOAD_FAILED = 5
    OTHER_WEIGHTS = 6
    TOO_SMALL = 7
    ELIGIBLE = 8


class Verdict(NamedTuple):
    """How near a replica is to taking a job, a sentence that says why not, and the weights it would take it with."""

    rank: Rank
    note: str
    reason: Reason = Reason.POOL_NOT_READY
    digest: str = ""
    loaded: bool = True
    """The model need not be loaded first."""


class Candidates:
    """Replicas that may take jobs of one kind, by free capacity; a dry one says why."""

    def __init__(self, able: dict[ReplicaKey, Verdict], obstacle: Obstacle, rooms: dict[ReplicaKey, Room]) -> None:
        self._able = able
        self._rooms = rooms
        self._obstacle = BUSY if able else obstacle
        self._heap = [self._entry(key) for key in able]
        heapq.heapify(self._heap)

    def take(self, model: VideoModel) -> Place | Obstacle:
        """The replica that the job gets, whose room it takes.

        One that has the model loaded, with most slots free, then most memory, then the first by name.
        """
        while self._heap:
            seen = self._heap[0]
            key = seen[3]
            now = self._entry(key)
            room = self._rooms[key]
            if not room.fits(model):
                heapq.heappop(self._heap)
            elif now != seen:
                heapq.heapreplace(self._heap, now)
            else:
                room.take(model)
                heapq.heapreplace(self._heap, self._entry(key))
                return Place(key, self._able[key].digest)
        return self._obstacle

    def _entry(self, key: ReplicaKey) -> tuple[bool, int, float, ReplicaKey]:
        room = self._rooms[key]
        return (not self._able[key].loaded, -room.slots, -room.memory, key)


class Placement:
    """The free capacity of a snapshot's replicas, given out job by job."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self._snapshot = snapshot
        self._now = now
        self._rooms = {
            key: Room(slots_of(replica, key, snapshot.pools.get(key.pool)), replica.report.memory_bytes or float("inf"))
            for key, replica in snapshot.replicas.items()
        }
        self._members = members(snapshot)
        self._candidates: dict[tuple[object, ...], Candidates] = {}
        self._serving: dict[str, list[GPUPool]] = {}
        for _, pool in sorted(snapshot.pools.items()):
            for name in pool.spec.models:
                self._serving.setdefault(name, []).append(pool)
        for job in snapshot.jobs:
            key = job.replica_key
            if key is not None and not job.phase.finished and key in self._rooms:
                model = snapshot.models.get(job.model)
                if model is not None:
                    self._rooms[key].take(model)
                else:
                    self._rooms[key].slots -= 1

    def place(self, job: Job, model: VideoModel) -> Place | Obstacle:
        """The replica that gets the job, whose room it takes, or why it waits."""
        begun = (job.resolved.weights_digest, job.resolved.model_uid) if job.resolved else None
        home = job.pool if job.chunks_done > 0 else None
        store = job.store_uri.removesuffix(f"/{job.namespace}/{job.uid}") if home and job.store_uri else None
        key = (job.model, begun, home, store)
        candidates = self._candidates.get(key)
        if candidates is None:
            candidates = self._candidates[key] = self._find(job, model, home, store)
        return candidates.take(model)

    def _find(self, job: Job, model: VideoModel, home: str | None, store: str | None) -> Candidates:
        pools = self._serving.get(job.model, [])
        if home is not None:
            pools = [pool for pool in pools if pool.metadata.name == home]
        if not pools:
            which = f"GPUPool {home}, which has the job's finished chunks," if home else "No GPUPool"
            lists = "does not list" if home else "lists"
            return self._none(Reason.NO_POOL, f"{which} {lists} VideoModel {job.model}.")
        if store is not None and pools[0].spec.store.url.rstrip("/") != store:
            return self._none(
                Reason.NO_POOL, f"GPUPool {home} has another store now; the job's finished chunks are in {store}."
            )
        able = [pool for pool in pools if runs_on(model, pool)]
        if not able:
            return self._none(
                Reason.PRECISION_UNSUPPORTED,
                f"VideoModel {job.model} is {model.spec.precision.value}, but {_names(pools)} has no accelerator: "
                "a cpu pool runs float32 models only.",
            )
        if job.resolved is not None and job.resolved.model_uid != model.metadata.uid:
            return self._none(
                Reason.WEIGHTS_CHANGED,
                f"VideoModel {job.model} was replaced after the job had begun: create the job again.",
            )
        found: dict[ReplicaKey, Verdict] = {}
        notes: list[Verdict] = []
        for pool in able:
            name = pool.metadata.name
            if not holds(model, pool):
                note = f"GPUPool {name}: template.memoryBytes is too little for the model and such a job together."
                notes.append(Verdict(Rank.TOO_SMALL, note))
                continue
            judged = {key: self._judge(job, model, key) for key in self._members[name]}
            found |= {key: verdict for key, verdict in judged.items() if verdict.rank is Rank.ELIGIBLE}
            best = max([missing(pool, self._snapshot, self._now), *judged.values()], key=lambda verdict: verdict.rank)
            notes.append(best._replace(note=f"GPUPool {name}: {best.note}"))
        return Candidates(found, _obstacle(notes), self._rooms)

    def _none(self, reason: Reason, message: str) -> Candidates:
        return Candidates({}, Obstacle(reason, message), self._rooms)

    def _judge(self, job: Job, model: VideoModel, key: ReplicaKey) -> Verdict:
        replica = self._snapshot.replicas.get(key)
        verdict = judge(replica, model)
        if verdict.rank is not Rank.ELIGIBLE or replica is None:
            return verdict
        if job.resolved is not None and job.resolved.weights_digest != verdict.digest:
            return Verdict(Rank.OTHER_WEIGHTS, f"the job has begun with weights that {key.name} does not have.")
        memory = model.spec.memory
        if 0 < replica.report.memory_bytes < memory.weights_bytes + memory.per_job_bytes:
            return Verdict(Rank.TOO_SMALL, f"{key.name} has no memory for the model and such a job together.")
        return verdict


def members(snapshot: Snapshot) -> dict[str, list[ReplicaKey]]:
    """The replicas of every pool: its endpoints, or those of its pods whose runner has shown itself."""
    found = {
        name: [ReplicaKey(name, endpoint.name) for endpoint in pool.spec.endpoints]
        for name, pool in snapshot.pools.items()
    }
    for key in snapshot.replicas:
        pool = snapshot.pools.get(key.pool)
        if pool is not None and pool.spec.managed:
            found[key.pool].append(key)
    return found


def missing(pool: GPUPool, snapshot: Snapshot, now: datetime) -> Verdict:
    """What is to be said of a pool none of whose replicas has a live heartbeat."""
    if not pool.spec.managed:
        return Verdict(Rank.NO_HEARTBEAT, "no replica has a live heartbeat.")
    name = pool.metadata.name
    workload = snapshot.workloads.get(name, Workload())
    if workload.refused:
        return Verdict(Rank.NO_HEARTBEAT, workload.refused, Reason.TEMPLATE_REFUSED)
    pods = pods_of(snapshot, name)
    trouble = next(troubles(pods, now), None)
    if trouble is not None:
        return Verdict(Rank.NO_HEARTBEAT, trouble.message, trouble.reason)
    if workload.wanted or pods:
        ready = sum(pod.ready_since is not None for _, pod in pods)
        return Verdict(
            Rank.NO_HEARTBEAT, f"{ready} of {max(workload.wanted, len(pods))} pods are ready.", Reason.POOL_STARTING
        )
    return Verdict(Rank.NO_HEARTBEAT, "it has no replica.", Reason.POOL_EMPTY)


def judge(replica: Replica | None, model: VideoModel) -> Verdict:
    """Whether a replica is able to serve a model."""
    if replica is None or not replica.live:
        return Verdict(Rank.NO_HEARTBEAT, "no replica has a live heartbeat.")
    report = replica.report
    if replica.draining or report.draining:
        return Verdict(Rank.DRAINING, "its live replicas are draining.")
    if report.store_error:
        return Verdict(Rank.NO_STORE, report.store_error)
    if report.triton_error:
        return Verdict(Rank.NO_TRITON, report.triton_error)
    loaded = next((loaded for loaded in report.models if loaded.uid == model.metadata.uid), None)
    if loaded is not None and loaded.state is ModelState.FAILED:
        return Verdict(Rank.LOAD_FAILED, f"VideoModel {loaded.name} does not load: {loaded.message}")
    if loaded is None or loaded.state is ModelState.LOADING or not loaded.digest:
        return Verdict(Rank.LOADING, f"VideoModel {model.metadata.name} is not loaded yet.")
    return Verdict(Rank.ELIGIBLE, "", digest=loaded.digest, loaded=loaded.state is ModelState.READY)


def runs_on(model: VideoModel, pool: GPUPool) -> bool:
    """Whether the pool's accelerator takes the model's number format."""
    return pool.spec.accelerator != CPU or model.spec.precision is Precision.FLOAT32


def holds(model: VideoModel, pool: GPUPool) -> bool:
    """Whether a replica of the pool has the memory for the model and one job, as far as the pool says how much."""
    memory, there = model.spec.memory, pool.spec.template.memory_bytes
    return not (pool.spec.managed and 0 < there < memory.weights_bytes + memory.per_job_bytes)


def slots_of(replica: Replica, key: ReplicaKey, pool: GPUPool | None) -> int:
    """Jobs that the replica takes at a time: none, where the pool does not list it."""
    endpoint = pool.spec.endpoint(key.name) if pool is not None else None
    return min(replica.report.slots, endpoint.max_jobs) if endpoint is not None else 0


def _obstacle(notes: Iterable[Verdict]) -> Obstacle:
    """Where something will pass by itself, that is the reason; else the pool nearest to taking the job gives it."""
    notes = list(notes)
    passing = [note for note in notes if note.rank < Rank.OTHER_WEIGHTS]
    nearest = max(passing or notes, key=lambda note: note.rank)
    if nearest.rank is Rank.OTHER_WEIGHTS:
        return Obstacle(Reason.WEIGHTS_CHANGED, nearest.note)
    if nearest.rank is Rank.TOO_SMALL:
        return Obstacle(Reason.INSUFFICIENT_MEMORY, nearest.note)
    return Obstacle(nearest.reason, nearest.note)


def _names(pools: list[GPUPool]) -> str:
    return ", ".join(f"GPUPool {pool.metadata.name}" for pool in pools)
