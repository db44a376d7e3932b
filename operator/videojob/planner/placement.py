"""Which replica gets a job, or why none does.

Capacity only shrinks while a plan is made. So replicas wait in a heap by free capacity, whose entries may be too good
but never too bad: the top is put right when it is looked at (lazy evaluation, as in greedy submodular algorithms). Jobs
that can run on the same replicas share a heap, and a heap that has run dry answers for all of them at once.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from videojob.api.conditions import Reason
from videojob.api.gpupool import CPU, Endpoint, GPUPool
from videojob.api.replica import ModelState
from videojob.api.videomodel import Precision, VideoModel
from videojob.planner.snapshot import Job, Replica, ReplicaKey, Snapshot


@dataclass
class Room:
    """What is free on a replica."""

    slots: int
    memory: float
    """Bytes; infinite where the replica does not say how much it has."""

    def fits(self, job_bytes: int) -> bool:
        """Whether a job of that size can be added."""
        return self.slots > 0 and self.memory >= job_bytes

    def take(self, job_bytes: int) -> None:
        """Add a job of that size."""
        self.slots -= 1
        self.memory -= job_bytes


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
    digest: str = ""


class Candidates:
    """Replicas that may take jobs of one kind, by free capacity; a dry one says why."""

    def __init__(self, digests: dict[ReplicaKey, str], obstacle: Obstacle, rooms: dict[ReplicaKey, Room]) -> None:
        self._digests = digests
        self._rooms = rooms
        self._obstacle = BUSY if digests else obstacle
        self._heap = [self._entry(key) for key in digests]
        heapq.heapify(self._heap)

    def take(self, job_bytes: int) -> Place | Obstacle:
        """The replica with most slots free, then most memory, then the first by name; the job takes its room."""
        while self._heap:
            seen = self._heap[0]
            key = seen[2]
            now = self._entry(key)
            room = self._rooms[key]
            if not room.fits(job_bytes):
                heapq.heappop(self._heap)
            elif now != seen:
                heapq.heapreplace(self._heap, now)
            else:
                room.take(job_bytes)
                heapq.heapreplace(self._heap, self._entry(key))
                return Place(key, self._digests[key])
        return self._obstacle

    def _entry(self, key: ReplicaKey) -> tuple[int, float, ReplicaKey]:
        room = self._rooms[key]
        return (-room.slots, -room.memory, key)


class Placement:
    """The free capacity of a snapshot's replicas, given out job by job."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        weights = {model.metadata.uid: model.spec.memory.weights_bytes for model in snapshot.models.values()}
        self._memory = {key: _job_memory(replica, weights) for key, replica in snapshot.replicas.items()}
        self._rooms = {
            key: Room(slots_of(replica, key, snapshot.pools.get(key.pool)), self._memory[key])
            for key, replica in snapshot.replicas.items()
        }
        self._candidates: dict[tuple[object, ...], Candidates] = {}
        self._serving: dict[str, list[GPUPool]] = {}
        for _, pool in sorted(snapshot.pools.items()):
            for name in pool.spec.models:
                self._serving.setdefault(name, []).append(pool)
        for job in snapshot.jobs:
            key = job.replica_key
            if key is not None and not job.phase.finished and key in self._rooms:
                self._rooms[key].take(_job_bytes(snapshot.models.get(job.model)))

    def place(self, job: Job, model: VideoModel) -> Place | Obstacle:
        """The replica that gets the job, whose room it takes, or why it waits."""
        begun = (job.resolved.weights_digest, job.resolved.model_uid) if job.resolved else None
        home = job.pool if job.chunks_done > 0 else None
        store = job.store_uri.removesuffix(f"/{job.namespace}/{job.uid}") if home and job.store_uri else None
        key = (job.model, begun, home, store)
        candidates = self._candidates.get(key)
        if candidates is None:
            candidates = self._candidates[key] = self._find(job, model, home, store)
        return candidates.take(model.spec.memory.per_job_bytes)

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
        digests: dict[ReplicaKey, str] = {}
        notes: list[tuple[Rank, str]] = []
        for pool in able:
            judged = {
                ReplicaKey(pool.metadata.name, endpoint.name): self._judge(job, model, pool, endpoint)
                for endpoint in pool.spec.endpoints
            }
            digests |= {key: verdict.digest for key, verdict in judged.items() if verdict.rank is Rank.ELIGIBLE}
            best = max(judged.values(), key=lambda verdict: verdict.rank)
            notes.append((best.rank, f"GPUPool {pool.metadata.name}: {best.note}"))
        return Candidates(digests, _obstacle(notes), self._rooms)

    def _none(self, reason: Reason, message: str) -> Candidates:
        return Candidates({}, Obstacle(reason, message), self._rooms)

    def _judge(self, job: Job, model: VideoModel, pool: GPUPool, endpoint: Endpoint) -> Verdict:
        key = ReplicaKey(pool.metadata.name, endpoint.name)
        verdict = judge(self._snapshot.replicas.get(key), model)
        if verdict.rank is not Rank.ELIGIBLE:
            return verdict
        if job.resolved is not None and job.resolved.weights_digest != verdict.digest:
            return Verdict(Rank.OTHER_WEIGHTS, f"the job has begun with weights that {endpoint.name} does not have.")
        if self._memory[key] < model.spec.memory.per_job_bytes:
            return Verdict(Rank.TOO_SMALL, f"{endpoint.name} has no memory for the models and such a job together.")
        return verdict


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
    if loaded is None or loaded.state is not ModelState.READY or not loaded.digest:
        return Verdict(Rank.LOADING, f"VideoModel {model.metadata.name} is not loaded yet.")
    return Verdict(Rank.ELIGIBLE, "", loaded.digest)


def runs_on(model: VideoModel, pool: GPUPool) -> bool:
    """Whether the pool's accelerator takes the model's number format."""
    return pool.spec.accelerator != CPU or model.spec.precision is Precision.FLOAT32


def slots_of(replica: Replica, key: ReplicaKey, pool: GPUPool | None) -> int:
    """Jobs that the replica takes at a time: none, where the pool does not list it."""
    if pool is None:
        return 0
    limits = [endpoint.max_jobs for endpoint in pool.spec.endpoints if endpoint.name == key.name]
    return min(replica.report.slots, *limits) if limits else 0


def _job_memory(replica: Replica, weights: Mapping[str, int]) -> float:
    """Bytes for jobs: what the weights that are on the replica, or on their way there, leave free."""
    if replica.report.memory_bytes == 0:
        return float("inf")
    models = replica.report.models
    held = sum(weights.get(loaded.uid, 0) for loaded in models if loaded.state is not ModelState.FAILED)
    return replica.report.memory_bytes - held


def _job_bytes(model: VideoModel | None) -> int:
    return model.spec.memory.per_job_bytes if model is not None else 0


def _obstacle(notes: list[tuple[Rank, str]]) -> Obstacle:
    """Where something will pass by itself, that is the reason; else the pool nearest to taking the job gives it."""
    passing = [note for note in notes if note[0] < Rank.OTHER_WEIGHTS]
    rank, message = max(passing or notes, key=lambda note: note[0])
    if rank is Rank.OTHER_WEIGHTS:
        return Obstacle(Reason.WEIGHTS_CHANGED, message)
    if rank is Rank.TOO_SMALL:
        return Obstacle(Reason.DOES_NOT_FIT, message)
    return Obstacle(Reason.POOL_NOT_READY, message)


def _names(pools: list[GPUPool]) -> str:
    return ", ".join(f"GPUPool {pool.metadata.name}" for pool in pools)
