"""Which replicas must not get another job."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace

from videojob.api.gpupool import MAX_REPLICAS, GPUPool, ScalingMode
from videojob.planner.snapshot import Job, Pod, Replica, ReplicaKey, held_jobs


def with_pods(
    replicas: Mapping[ReplicaKey, Replica],
    pods: Mapping[ReplicaKey, Pod],
    pools: Mapping[str, GPUPool],
    jobs: Iterable[Job],
    leaving: Set[ReplicaKey] = frozenset(),
) -> dict[ReplicaKey, Replica]:
    """The replicas, where one that must not get another job counts as draining.

    That is one whose pod ends or is gone, or which was chosen to go; and, of a pool with more pods than it may have, as
    many as are too many: else each would get the next job as soon as it is free, and none would ever go. Those with a
    job are the last to count.
    """
    found = dict(replicas)
    for key, replica in replicas.items():
        pool = pools.get(key.pool)
        if pool is None or not pool.spec.managed or replica.draining:
            continue
        pod = pods.get(key)
        if pod is None or pod.ending or key in leaving:
            found[key] = replace(replica, draining=True)
    staying: dict[str, list[ReplicaKey]] = {}
    for key, pod in pods.items():
        if not pod.ending:
            staying.setdefault(key.pool, []).append(key)
    surplus = {name: len(keys) - _most(pools[name]) for name, keys in staying.items() if name in pools}
    if not any(count > 0 for count in surplus.values()):
        return found
    held = held_jobs(jobs)
    for name, count in surplus.items():
        order = sorted(staying[name], key=lambda key: (not (key in found and found[key].draining), held[key] > 0, key))
        for key in order[: max(0, count)]:
            if key in found:
                found[key] = replace(found[key], draining=True)
    return found


def _most(pool: GPUPool) -> int:
    """The pods that a pool may have, whatever waits for it."""
    if pool.paused:
        return MAX_REPLICAS
    if pool.spec.scaling.mode is ScalingMode.BACKLOG:
        return pool.spec.scaling.max_replicas
    return MAX_REPLICAS if pool.spec.replicas is None else pool.spec.replicas
