"""Which replicas of a pool with more pods than it may have, or will have, must not get another job."""

from collections.abc import Iterator, Mapping

from videojob.api.gpupool import MAX_REPLICAS, GPUPool, ScalingMode
from videojob.planner.facts import Deployed, Replica, ReplicaKey
from videojob.planner.pod_health import NamedPod

DRAINED_COST = -1000
"""The pod deletion cost of replicas that go before all others when the Deployment's number is lowered."""


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


def leaving(pods: Mapping[str, list[NamedPod]], deployments: Mapping[str, Deployed]) -> Iterator[ReplicaKey]:
    """The replicas that Kubernetes is about to remove: the number is lowered, and they go first.

    One that was lost may show itself again just then.
    """
    for name, found in pods.items():
        staying = [one for one in found if not one.pod.ending]
        deployed = deployments.get(name)
        if deployed is not None and len(staying) > deployed.wanted:
            yield from (ReplicaKey(name, one.name) for one in staying if one.pod.deletion_cost <= DRAINED_COST)


def _most(pool: GPUPool) -> int:
    """The pods that a pool may have, whatever waits for it."""
    if pool.paused:
        return MAX_REPLICAS
    if pool.spec.scaling.mode is ScalingMode.BACKLOG:
        return pool.spec.scaling.max_replicas
    return MAX_REPLICAS if pool.spec.replicas is None else pool.spec.replicas
