"""Which waiting jobs get a replica, and why the others wait.

Jobs come in order of priority, then age, then uid, across all classes. Capacity only shrinks while a plan is made,
so a class that has found no room has none for any of its jobs: one obstacle answers for all of them. Replicas stand
in a heap by free capacity, whose entries may be too good but never too bad: the top is put right when it is looked
at (lazy evaluation, as in greedy submodular algorithms).
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from videojob.api.reasons import Reason
from videojob.api.replica import HeldJob
from videojob.api.videomodel import VideoModel
from videojob.api.videoqueue import StopPolicy
from videojob.planner.book import Book
from videojob.planner.decisions import Assign, Fault, JobDecision, LeavePool, Wait
from videojob.planner.eligibility import Obstacle, eligible
from videojob.planner.facts import Job, Moment, ReplicaKey, later
from videojob.planner.pending import Shape, Turn, shown
from videojob.planner.resolve import resolve, store_uri
from videojob.planner.verdicts import Verdict
from videojob.planner.view import View

BUSY = Obstacle(Reason.QUEUED, "Every slot that could take the job is busy.")


@dataclass(slots=True)
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


class Place(NamedTuple):
    """Where a job goes."""

    replica: ReplicaKey
    weights_digest: str


class Candidates:
    """Replicas that may take the jobs of a class, by free capacity."""

    def __init__(self, able: Mapping[ReplicaKey, Verdict], rooms: Mapping[ReplicaKey, Room], left: str | None) -> None:
        """`left` is the pool that the jobs were in."""
        self._able = able
        self._rooms = rooms
        self._left = left
        self._heap = [self._entry(key) for key in able]
        heapq.heapify(self._heap)

    def take(self, model: VideoModel) -> Place | None:
        """The replica that the job gets, whose room it takes; None where there is none.

        One of the pool that it was in, that has the model loaded, with most slots free, then most memory, then the
        first by name.
        """
        while self._heap:
            seen = self._heap[0]
            key = seen[-1]
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
        return None

    def _entry(self, key: ReplicaKey) -> tuple[bool, bool, int, float, ReplicaKey]:
        room = self._rooms[key]
        return (key.pool != self._left, not self._able[key].loaded, -room.slots, -room.memory, key)


class Placing:
    """One pass over the pending classes: `decide` once. `wake_at` is then when patience alone makes another one due."""

    def __init__(self, book: Book, seen: View, now: Moment, leaving: Set[ReplicaKey], faults: list[Fault]) -> None:
        """`leaving` are replicas that were chosen to go in this very cycle; what fails is added to `faults`."""
        self._book = book
        self._seen = seen
        self._now = now
        self._leaving = leaving
        self._faults = faults
        self._rooms = rooms(book, seen)
        self._found: dict[tuple[object, ...], Candidates | Obstacle] = {}
        self.wake_at: datetime | None = None

    def decide(self) -> Iterator[JobDecision]:
        """The jobs that get a replica, in their order; then those whose status is to show another reason."""
        obstacles: dict[Shape, Obstacle] = {}
        placed: set[str] = set()
        heads: list[tuple[Turn, Shape, Job]] = []
        rest: dict[Shape, Iterator[tuple[Turn, Job]]] = {}
        for shape, found in self._book.agenda.pending.classes.items():
            if not found.ready:
                continue
            try:
                obstacle = self._obstacle(shape)
            except Exception as error:
                self._faults.append(Fault(("model", shape.model), error))
                continue
            if obstacle is not None:
                obstacles[shape] = obstacle
                continue
            rest[shape] = iter(found.ready.items())
            first, job = next(rest[shape])
            heads.append((first, shape, job))
        heapq.heapify(heads)
        while heads:
            _, shape, job = heads[0]
            model = self._book.models[shape.model]
            place = self._candidates(shape, model).take(model)
            if place is None:
                obstacles[shape] = BUSY
                heapq.heappop(heads)
                continue
            placed.add(job.uid)
            try:
                decision = self._place(job, model, place)
            except Exception as error:
                self._faults.append(Fault(("job", job.uid), error))
            else:
                yield decision
            following = next(rest[shape], None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (following[0], shape, following[1]))
        yield from self._waits(obstacles, placed)

    def _obstacle(self, shape: Shape) -> Obstacle | None:
        """What keeps every job of the class from any replica, however many are free."""
        closed = self._closed(shape)
        if closed is not None:
            return closed
        found = self._eligible(shape, self._book.models[shape.model])
        return found if isinstance(found, Obstacle) else None

    def _closed(self, shape: Shape) -> Obstacle | None:
        """What keeps every job of the class from any replica."""
        queue = self._book.queues.get(shape.queue)
        if queue is None:
            return Obstacle(
                Reason.QUEUE_NOT_FOUND,
                f"There is no VideoQueue {shape.queue.name} in namespace {shape.queue.namespace}: create it.",
            )
        if queue.spec.stop_policy is not StopPolicy.NONE:
            return Obstacle(
                Reason.QUEUE_STOPPED,
                f"VideoQueue {shape.queue.name} has the stopPolicy {queue.spec.stop_policy.value}.",
            )
        if shape.model not in self._book.models:
            return Obstacle(Reason.MODEL_NOT_FOUND, f"There is no VideoModel {shape.model}: create it.")
        if shape.refused is not None:
            return Obstacle(*shape.refused)
        return None

    def _eligible(self, shape: Shape, model: VideoModel) -> Candidates | Obstacle:
        """Classes that differ only in queue share what they find."""
        key = (shape.model, shape.begun, shape.home, shape.store, shape.left, shape.failed_on)
        known = self._found.get(key)
        if known is None:
            found = eligible(self._book, self._seen, shape, model, self._now)
            known = self._found[key] = found if isinstance(found, Obstacle) else self._free(found, shape.left)
        return known

    def _free(self, found: Mapping[ReplicaKey, Verdict], left: str | None) -> Candidates:
        able = {key: one for key, one in found.items() if key in self._rooms and key not in self._leaving}
        return Candidates(able, self._rooms, left)

    def _candidates(self, shape: Shape, model: VideoModel) -> Candidates:
        found = self._eligible(shape, model)
        if isinstance(found, Obstacle):
            raise TypeError(f"{shape} has no candidates: {found}")
        return found

    def _place(self, job: Job, model: VideoModel, place: Place) -> JobDecision:
        pool = self._book.pools[place.replica.pool]
        if job.pool is not None and job.store_uri is not None and job.pool != place.replica.pool:
            return LeavePool(job)
        resolved = job.resolved or resolve(job, model, place.weights_digest)
        return Assign(job, place.replica, resolved, store_uri(job, pool))

    def _waits(self, obstacles: Mapping[Shape, Obstacle], placed: Set[str]) -> Iterator[Wait]:
        """Statuses change with the reason, not with the length of the queue; and a bounded number of them at a time."""
        yield from islice(self._reasons(obstacles, placed), self._book.rules.waits_per_plan)

    def _reasons(self, obstacles: Mapping[Shape, Obstacle], placed: Set[str]) -> Iterator[Wait]:
        pending = self._book.agenda.pending
        for (began, _), job in pending.unannounced.items():
            if not self._patient(began):
                break
            yield self._pause(job)
        for shape, obstacle in obstacles.items():
            for group in pending.classes[shape].showing_other(shown(obstacle.reason, obstacle.message)):
                for began, uid in group:
                    if not self._patient(began):
                        break
                    if uid not in placed:
                        yield Wait(pending.entries[uid].job, obstacle.reason, obstacle.message)

    def _patient(self, began: datetime) -> bool:
        """Whether a job that has waited since then has had enough patience; if not, a plan is due when it has."""
        moment = later(began, self._book.rules.patience_seconds)
        if moment <= self._now.wall:
            return True
        self.wake_at = moment if self.wake_at is None else min(moment, self.wake_at)
        return False

    def _pause(self, job: Job) -> Wait:
        counts = job.hand_backs > 0 and self._book.served_another(job)
        failures = job.failures + counts
        again = self._book.agenda.pending.entries[job.uid].again
        until = f"the next attempt starts at {again:%Y-%m-%dT%H:%M:%SZ}"
        failed = f"{failures} of {job.backoff_limit + 1} allowed attempts failed"
        what = failed if failures else "The job was handed back"
        return Wait(job, Reason.BACKING_OFF, f"{what}; {until}. The last one: {job.reason}: {job.message}", counts)


def rooms(book: Book, seen: View) -> dict[ReplicaKey, Room]:
    """What is free on every replica that has a free slot. A job that is finishing takes neither slot nor memory."""
    found = {}
    opaque = Counter(book.opaque.values())
    for key, replica in seen.replicas.items():
        report = replica.report
        finishing = {(one.uid, one.attempt) for one in report.jobs if one.finishing}
        held = [job for job in book.agenda.held.get(key, {}).values() if (job.uid, job.attempts) not in finishing]
        slots = min(report.slots, seen.places.get(key, 0))
        slots -= opaque[key] + _unseen(book, key, report.jobs)
        if slots <= len(held):
            continue
        room = Room(slots, report.memory_bytes or float("inf"))
        for job in held:
            model = book.models.get(job.model)
            if model is not None:
                room.take(model)
            else:
                room.slots -= 1
        found[key] = room
    return found


def _unseen(book: Book, key: ReplicaKey, reported: Iterable[HeldJob]) -> int:
    """Jobs that a replica makes by its report, and that are known neither to be there nor to be over.

    A leader whose watch of jobs stood still while it was a follower learns from reports alone what was assigned.
    """
    there = book.agenda.held.get(key, {})
    making = [one for one in reported if not one.finishing]
    return sum(one.uid not in there and book.opaque.get(one.uid) != key and _is_ahead(book, one) for one in making)


def _is_ahead(book: Book, reported: HeldJob) -> bool:
    """Whether a runner has seen a job that is not known yet, or a later attempt of it."""
    known = book.jobs.get(reported.uid)
    return reported.uid not in book.finished if known is None else known.attempts < reported.attempt
