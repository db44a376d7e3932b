"""How pools and queues are, in their own status: decisions where it is not what the object shows."""

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from videojob.api.conditions import Condition, ConditionType, set_condition
from videojob.api.gpupool import GPUPool, GPUPoolStatus
from videojob.api.reasons import Reason
from videojob.api.replica import pod_labels
from videojob.api.videoqueue import queue_status
from videojob.planner.book import Book
from videojob.planner.decisions import SetPoolStatus, SetQueueStatus, target
from videojob.planner.eligibility import missing, runs_on
from videojob.planner.facts import Moment, QueueKey
from videojob.planner.pod_health import troubles
from videojob.planner.pools import PoolPlan
from videojob.planner.scaling import ScalingReason
from videojob.planner.verdicts import Rank, Verdict
from videojob.planner.view import View

_BROKEN = (Rank.NO_STORE, Rank.NO_TRITON, Rank.NO_ACCELERATOR, Rank.LOAD_FAILED)
_POD_CONDITIONS = {
    ConditionType.PODS_SCHEDULED: (Reason.SCHEDULED, "Every pod has a node."),
    ConditionType.IMAGES_PULLED: (Reason.PULLED, "Every image is there."),
    ConditionType.PODS_STABLE: (Reason.STABLE, "No container keeps ending."),
}
"""Reason and message of these conditions while they are True."""


def pool_status(book: Book, seen: View, pool: GPUPool, plan: PoolPlan, now: Moment) -> SetPoolStatus | None:
    """The pool's status, where it is not true any more and may be written now.

    Nothing is written of a pool that was not planned: its status may have more than is known of it now.
    """
    if ("gpupools", pool.metadata.uid) in book.unreadable or book.busy(("pool", pool.metadata.name)):
        return None
    status = _Pool(book, seen, pool, plan, now).status()
    return SetPoolStatus(pool, status) if status != pool.status else None


def queue_statuses(book: Book, now: Moment) -> Iterator[SetQueueStatus]:
    """The statuses of queues that are not true any more."""
    pending: Counter[QueueKey] = Counter()
    for shape, found in book.agenda.pending.classes.items():
        pending[shape.queue] += found.count
    active = Counter(job.queue_key for jobs in book.agenda.held.values() for job in jobs.values())
    for key, queue in book.queues.items():
        if ("videoqueues", queue.metadata.uid) in book.unreadable:
            continue
        decision = SetQueueStatus(queue, queue_status(queue, pending=pending[key], active=active[key], now=now.wall))
        if decision.status != queue.status and not book.busy(target(decision)):
            yield decision


class _Replicas(NamedTuple):
    """What the replicas of a pool come to."""

    ready: int
    slots: int
    live: int
    best: Verdict
    """Of the replica that is nearest to taking a job."""
    broken: Sequence[Verdict]


class _Pool:
    """One status: its inputs by short names."""

    def __init__(self, book: Book, seen: View, pool: GPUPool, plan: PoolPlan, now: Moment) -> None:
        self.book = book
        self.seen = seen
        self.pool = pool
        self.name = pool.metadata.name
        self.plan = plan
        self.held = seen.held_in[self.name]
        self.now = now
        self.models = [book.models[model] for model in pool.spec.models if model in book.models]

    def status(self) -> GPUPoolStatus:
        managed, demand, memory = self.pool.spec.managed, self.plan.scaling.demand, self.plan.memory
        pods = sum(not one.pod.ending for one in self.seen.pods[self.name])
        there = pods if managed else len(self.pool.spec.endpoints)
        wanted = self.plan.scaling.wanted if managed else there
        replicas = self._replicas()
        conditions = self._set(self.pool.status.conditions, ConditionType.READY, *self._ready(replicas, wanted))
        if managed:
            conditions = self._managed(conditions, replicas.broken)
        return GPUPoolStatus(
            observed_generation=self.pool.metadata.generation,
            desired_replicas=wanted,
            replicas=there,
            ready_replicas=replicas.ready,
            busy_replicas=len(self.held),
            loading_replicas=max(0, min(wanted, max(there, replicas.live)) - replicas.ready),
            running_jobs=sum(self.held.values()),
            waiting_jobs=demand.waiting,
            slots=replicas.slots,
            backlog_seconds=_two_digits(demand.backlog_seconds),
            cold_start_seconds=None if memory.cold_start_seconds is None else round(memory.cold_start_seconds),
            estimates=self.book.estimates.remembered(self.pool),
            last_scaling=memory.last_scaling,
            selector=",".join(f"{label}={value}" for label, value in pod_labels(self.name).items()) if managed else "",
            conditions=conditions,
        )

    def _replicas(self) -> _Replicas:
        models = [model for model in self.models if runs_on(model, self.pool)]
        ready = slots = live = 0
        best = missing(self.book, self.seen, self.pool, self.now)
        broken: list[Verdict] = []
        for key in self.seen.members[self.name]:
            replica = self.seen.replicas.get(key)
            verdicts = [self.book.verdicts.judge(key, replica, model) for model in models]
            if replica is not None and replica.live:
                live += 1
                if any(verdict.rank is Rank.ELIGIBLE for verdict in verdicts):
                    ready += 1
                    slots += min(replica.report.slots, self.seen.places.get(key, 0))
            best = max([best, *verdicts], key=lambda verdict: verdict.rank)
            broken += [verdict for verdict in verdicts if verdict.rank in _BROKEN]
        return _Replicas(ready, slots, live, best, broken)

    def _ready(self, replicas: _Replicas, wanted: int) -> tuple[bool, Reason, str]:
        count = f"{replicas.ready} of {wanted} replicas can take jobs"
        if replicas.ready:
            refused = self.plan.memory.refused
            notes = [refused.message] if refused is not None else [verdict.note for verdict in replicas.broken]
            return True, Reason.READY, f"{count}; {notes[0]}" if notes else f"{count}."
        unknown = [model for model in self.pool.spec.models if model not in self.book.models]
        if unknown and not self.models:
            return False, Reason.MODEL_NOT_FOUND, f"There is no VideoModel {unknown[0]}: create it."
        if self.models and not any(runs_on(model, self.pool) for model in self.models):
            return False, Reason.PRECISION_UNSUPPORTED, "A cpu pool runs float32 models only."
        best = replicas.best
        if best.reason is Reason.POOL_EMPTY and self.plan.scaling.reason is ScalingReason.IDLE:
            # It can be used, which is what `helm --wait` and `kubectl wait` want to know.
            return True, Reason.SCALED_TO_ZERO, "No job: the first one brings a replica."
        return False, best.reason, f"{count}: {best.note}"

    def _managed(self, conditions: tuple[Condition, ...], broken: Sequence[Verdict]) -> tuple[Condition, ...]:
        """The conditions of a managed pool, beside Ready."""
        states: dict[ConditionType, tuple[bool, StrEnum, str]] = {
            type_: (True, reason, message) for type_, (reason, message) in _POD_CONDITIONS.items()
        }
        for trouble in troubles(self.seen.pods[self.name], self.now.wall):
            states[trouble.condition] = (False, trouble.reason, trouble.message)
        failed = [verdict for verdict in broken if verdict.rank is Rank.LOAD_FAILED]
        states[ConditionType.MODELS_LOADED] = (
            (False, Reason.MODEL_LOAD_FAILED, failed[0].note)
            if failed
            else (True, Reason.LOADED, "No model has failed to load.")
        )
        scaling = self.plan.scaling
        if scaling.reason is not None:
            active = scaling.reason not in (ScalingReason.PAUSED, ScalingReason.EXTERNAL)
            states[ConditionType.SCALING_ACTIVE] = (active, scaling.reason, scaling.message)
        for type_, state in states.items():
            conditions = self._set(conditions, type_, *state)
        return conditions

    def _set(
        self, conditions: tuple[Condition, ...], type_: ConditionType, state: bool, reason: StrEnum, message: str
    ) -> tuple[Condition, ...]:
        return set_condition(conditions, type_, state, reason, message, self.now.wall, self.pool.metadata.generation)


def _two_digits(seconds: float) -> int:
    """Rounded so that a pool's status changes seldom; never 0 where there is something to do."""
    return max(int(float(f"{seconds:.2g}")), seconds > 0)
