"""How pools and queues are, in their own status."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from videojob.api.conditions import Condition, ConditionType, Reason, set_condition
from videojob.api.gpupool import GPUPool, GPUPoolStatus, LastScaling
from videojob.api.replica import pod_labels
from videojob.api.videoqueue import StopPolicy, VideoQueue, VideoQueueStatus
from videojob.planner.demand import Demand
from videojob.planner.estimate import Estimates
from videojob.planner.placement import Rank, Verdict, judge, members, missing, runs_on, slots_of
from videojob.planner.pod_health import NamedPod, pods_of, troubles
from videojob.planner.scaling import ScalingReason
from videojob.planner.snapshot import QueueKey, ReplicaKey, Snapshot, held_jobs

_REASONS = {
    Rank.NO_HEARTBEAT: Reason.NO_REPLICA,
    Rank.DRAINING: Reason.DRAINED,
    Rank.LOADING: Reason.MODEL_LOADING,
    Rank.NO_STORE: Reason.STORE_UNAVAILABLE,
    Rank.NO_TRITON: Reason.TRITON_UNAVAILABLE,
    Rank.LOAD_FAILED: Reason.MODEL_LOAD_FAILED,
}
_BROKEN = (Rank.NO_STORE, Rank.NO_TRITON, Rank.LOAD_FAILED)


_POD_CONDITIONS = {
    ConditionType.PODS_SCHEDULED: (Reason.SCHEDULED, "Every pod has a node."),
    ConditionType.IMAGES_PULLED: (Reason.PULLED, "Every image is there."),
    ConditionType.PODS_STABLE: (Reason.STABLE, "No container keeps ending."),
}
"""Reason and message of these conditions while they are True."""


class PoolScaling(NamedTuple):
    """What was decided of a pool's size, and from what."""

    demand: Demand
    wanted: int = 0
    reason: ScalingReason | None = None
    message: str = ""
    cold_start_seconds: float | None = None
    estimates: Estimates = Estimates()
    last: LastScaling | None = None


class Summary(NamedTuple):
    """The statuses that a snapshot leads to."""

    pools: Mapping[str, GPUPoolStatus]
    queues: Mapping[QueueKey, VideoQueueStatus]


def summarise(snapshot: Snapshot, now: datetime, scalings: Mapping[str, PoolScaling] = MappingProxyType({})) -> Summary:
    """The status of every pool and queue; one that did not change equals the one that is there."""
    held = held_jobs(snapshot.jobs)
    active: Counter[QueueKey] = Counter()
    pending: Counter[QueueKey] = Counter()
    for job in snapshot.jobs:
        if job.phase.finished:
            continue
        if job.assignment is not None:
            active[job.queue_key] += 1
        elif not job.suspend and not job.cancel and not job.deleted:
            pending[job.queue_key] += 1
    replicas = members(snapshot)
    nothing = PoolScaling(Demand())
    return Summary(
        {
            name: _pool(pool, snapshot, replicas[name], held, scalings.get(name, nothing), now)
            for name, pool in snapshot.pools.items()
        },
        {key: _queue(queue, pending[key], active[key], now) for key, queue in snapshot.queues.items()},
    )


def _pool(
    pool: GPUPool,
    snapshot: Snapshot,
    replicas: list[ReplicaKey],
    held: Counter[ReplicaKey],
    scaling: PoolScaling,
    now: datetime,
) -> GPUPoolStatus:
    name, managed = pool.metadata.name, pool.spec.managed
    pods = pods_of(snapshot, name)
    there = len([one for one in pods if not one.pod.ending]) if managed else len(pool.spec.endpoints)
    wanted = scaling.wanted if managed else there
    ready = slots = 0
    best = missing(pool, snapshot, now)
    broken: list[Verdict] = []
    models = [snapshot.models[model] for model in pool.spec.models if model in snapshot.models]
    unknown = [model for model in pool.spec.models if model not in snapshot.models]
    for key in replicas:
        replica = snapshot.replicas.get(key)
        verdicts = [judge(replica, model) for model in models if runs_on(model, pool)]
        if any(verdict.rank is Rank.ELIGIBLE for verdict in verdicts) and replica is not None:
            ready += 1
            slots += slots_of(replica, key, pool)
        best = max([best, *verdicts], key=lambda verdict: verdict.rank)
        broken += [verdict for verdict in verdicts if verdict.rank in _BROKEN]
    count = f"{ready} of {wanted} replicas can take jobs"
    if ready:
        refused = snapshot.workloads[name].refused if name in snapshot.workloads else ""
        notes = [note for note in (refused, *(verdict.note for verdict in broken)) if note]
        trouble = f"; {notes[0]}" if notes else "."
        state = (True, Reason.READY, count + trouble)
    elif unknown and not models:
        state = (False, Reason.MODEL_NOT_FOUND, f"There is no VideoModel {unknown[0]}: create it.")
    elif models and not any(runs_on(model, pool) for model in models):
        state = (False, Reason.PRECISION_UNSUPPORTED, "A cpu pool runs float32 models only.")
    elif best.reason is Reason.POOL_EMPTY and scaling.reason is ScalingReason.IDLE:
        # It can be used, which is what `helm --wait` and `kubectl wait` want to know.
        state = (True, Reason.SCALED_TO_ZERO, "No job: the first one brings a replica.")
    else:
        reason = _REASONS[best.rank] if best.reason is Reason.POOL_NOT_READY else best.reason
        state = (False, reason, f"{count}: {best.note}")
    generation = pool.metadata.generation
    conditions = _ready(pool.status.conditions, state, now, generation)
    if managed:
        conditions = _managed_conditions(conditions, pods, broken, scaling, now, generation)
    staying = {key for key in replicas if (found := snapshot.replicas.get(key)) is not None and found.live}
    return GPUPoolStatus(
        observed_generation=generation,
        wanted_replicas=wanted,
        replicas=there,
        ready_replicas=ready,
        busy_replicas=len([key for key in held if key.pool == name]),
        loading_replicas=max(0, min(wanted, max(there, len(staying))) - ready),
        running_jobs=sum(jobs for key, jobs in held.items() if key.pool == name),
        waiting_jobs=scaling.demand.waiting,
        slots=slots,
        backlog_seconds=_two_digits(scaling.demand.backlog_seconds),
        cold_start_seconds=None if scaling.cold_start_seconds is None else round(scaling.cold_start_seconds),
        estimates=scaling.estimates.remembered(pool),
        last_scaling=scaling.last,
        selector=",".join(f"{label}={value}" for label, value in pod_labels(name).items()) if managed else "",
        conditions=conditions,
    )


def _managed_conditions(
    conditions: tuple[Condition, ...],
    pods: list[NamedPod],
    broken: list[Verdict],
    scaling: PoolScaling,
    now: datetime,
    generation: int,
) -> tuple[Condition, ...]:
    """The conditions of a managed pool, beside Ready."""
    states: dict[ConditionType, tuple[bool, StrEnum, str]] = {
        type_: (True, reason, message) for type_, (reason, message) in _POD_CONDITIONS.items()
    }
    for trouble in troubles(pods, now):
        states[trouble.condition] = (False, trouble.reason, trouble.message)
    failed = [verdict for verdict in broken if verdict.rank is Rank.LOAD_FAILED]
    states[ConditionType.MODELS_LOADED] = (
        (False, Reason.MODEL_LOAD_FAILED, failed[0].note)
        if failed
        else (True, Reason.LOADED, "No model has failed to load.")
    )
    if scaling.reason is not None:
        active = scaling.reason not in (ScalingReason.PAUSED, ScalingReason.EXTERNAL)
        states[ConditionType.SCALING] = (active, scaling.reason, scaling.message)
    for type_, state in states.items():
        conditions = set_condition(conditions, type_, *state, now, generation)
    return conditions


def _queue(queue: VideoQueue, pending: int, active: int, now: datetime) -> VideoQueueStatus:
    policy = queue.spec.stop_policy
    open_ = policy is StopPolicy.NONE
    message = "Jobs are assigned." if open_ else f"stopPolicy is {policy.value}."
    state = (open_, Reason.READY if open_ else Reason.STOPPED, message)
    return VideoQueueStatus(
        observed_generation=queue.metadata.generation,
        pending_jobs=pending,
        active_jobs=active,
        conditions=_ready(queue.status.conditions, state, now, queue.metadata.generation),
    )


def _two_digits(seconds: float) -> int:
    """Rounded so that a pool's status changes seldom; never 0 where there is something to do."""
    return max(int(float(f"{seconds:.2g}")), seconds > 0)


def _ready(
    conditions: tuple[Condition, ...], state: tuple[bool, Reason, str], now: datetime, generation: int
) -> tuple[Condition, ...]:
    return set_condition(conditions, ConditionType.READY, *state, now, generation)
