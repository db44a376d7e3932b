"""How pools and queues are, in their own status."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from videojob.api.conditions import Condition, ConditionType, Reason, set_condition
from videojob.api.gpupool import GPUPool, GPUPoolStatus
from videojob.api.videoqueue import StopPolicy, VideoQueue, VideoQueueStatus
from videojob.planner.placement import Rank, Verdict, judge, runs_on, slots_of
from videojob.planner.snapshot import QueueKey, ReplicaKey, Snapshot

_REASONS = {
    Rank.NO_HEARTBEAT: Reason.NO_REPLICA,
    Rank.DRAINING: Reason.DRAINED,
    Rank.LOADING: Reason.MODEL_LOADING,
    Rank.NO_STORE: Reason.STORE_UNAVAILABLE,
    Rank.NO_TRITON: Reason.TRITON_UNAVAILABLE,
    Rank.LOAD_FAILED: Reason.MODEL_LOAD_FAILED,
}
_BROKEN = (Rank.NO_STORE, Rank.NO_TRITON, Rank.LOAD_FAILED)


class Summary(NamedTuple):
    """The statuses that a snapshot leads to."""

    pools: Mapping[str, GPUPoolStatus]
    queues: Mapping[QueueKey, VideoQueueStatus]


def summarise(snapshot: Snapshot, now: datetime) -> Summary:
    """The status of every pool and queue; one that did not change equals the one that is there."""
    running: Counter[str] = Counter()
    active: Counter[QueueKey] = Counter()
    pending: Counter[QueueKey] = Counter()
    for job in snapshot.jobs:
        if job.phase.finished:
            continue
        if job.assignment is not None:
            running[job.assignment.pool] += 1
            active[job.queue_key] += 1
        elif not job.suspend and not job.cancel and not job.deleted:
            pending[job.queue_key] += 1
    return Summary(
        {name: _pool(pool, snapshot, running[name], now) for name, pool in snapshot.pools.items()},
        {key: _queue(queue, pending[key], active[key], now) for key, queue in snapshot.queues.items()},
    )


def _pool(pool: GPUPool, snapshot: Snapshot, running: int, now: datetime) -> GPUPoolStatus:
    ready = slots = 0
    best = Verdict(Rank.NO_HEARTBEAT, "no replica has a live heartbeat.")
    broken: list[Verdict] = []
    models = [snapshot.models[name] for name in pool.spec.models if name in snapshot.models]
    missing = [name for name in pool.spec.models if name not in snapshot.models]
    for endpoint in pool.spec.endpoints:
        key = ReplicaKey(pool.metadata.name, endpoint.name)
        replica = snapshot.replicas.get(key)
        verdicts = [judge(replica, model) for model in models if runs_on(model, pool)]
        if any(verdict.rank is Rank.ELIGIBLE for verdict in verdicts) and replica is not None:
            ready += 1
            slots += slots_of(replica, key, pool)
        best = max([best, *verdicts], key=lambda verdict: verdict.rank)
        broken += [verdict for verdict in verdicts if verdict.rank in _BROKEN]
    count = f"{ready} of {len(pool.spec.endpoints)} replicas can take jobs"
    if ready:
        trouble = f"; {broken[0].note}" if broken else "."
        state = (True, Reason.READY, count + trouble)
    elif missing and not models:
        state = (False, Reason.MODEL_NOT_FOUND, f"There is no VideoModel {missing[0]}: create it.")
    elif models and not any(runs_on(model, pool) for model in models):
        state = (False, Reason.PRECISION_UNSUPPORTED, "A cpu pool runs float32 models only.")
    else:
        state = (False, _REASONS[best.rank], f"{count}: {best.note}")
    conditions = _ready(pool.status.conditions, state, now, pool.metadata.generation)
    return GPUPoolStatus(
        observed_generation=pool.metadata.generation,
        replicas=len(pool.spec.endpoints),
        ready_replicas=ready,
        running_jobs=running,
        slots=slots,
        conditions=conditions,
    )


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


def _ready(
    conditions: tuple[Condition, ...], state: tuple[bool, Reason, str], now: datetime, generation: int
) -> tuple[Condition, ...]:
    return set_condition(conditions, ConditionType.READY, *state, now, generation)
