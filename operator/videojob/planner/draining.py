"""Which replicas of a pool with more pods than it may have must not get another job."""

from collections.abc import Iterator, Mapping

from videojob.api.gpupool import MAX_REPLICAS, GPUPool, ScalingMode
from videojob.planner.facts import Replica, ReplicaKey
from videojob.planner.pod_health import NamedPod


def surplus(
    replicas: Mapping[ReplicaKey, Replica],
    pods: Mapping[str, list[NamedPod]],
    pools: Mapping[str, GPUPool],
    held: Mapping[ReplicaKey, int],
) -> Iterator[ReplicaKey]:
    """As many replicas of each pool as are too many: else each would get the next job as soon as it is free.

    Those that drain already count first, those with a job last.
    """
    for name, found in pods.items():
        staying = [ReplicaKey(name, one.name) for one in found if not one.pod.ending]
        count = len(staying) - _most(pools[name])
        if count <= 0:
            continue
        staying.sort(
            key=lambda key: (not (key in replicas and replicas[key].draining), held.get(key, 0) > 0, key),
        )
        yield from [key for key in staying[:count] if key in replicas]


def _most(pool: GPUPool) -> int:
    """The pods that a pool may have, whatever waits for it."""
    if pool.paused:
        return MAX_REPLICAS
    if pool.spec.scaling.mode is ScalingMode.BACKLOG:
        return pool.spec.scaling.max_replicas
    return MAX_REPLICAS if pool.spec.replicas is None else pool.spec.replicas
