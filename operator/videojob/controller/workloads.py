"""The Deployments and pods of pools, as the watches show them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from videojob.api.replica import POOL_LABEL
from videojob.kube.client import Json
from videojob.planner.snapshot import Pod, ReplicaKey
from videojob.workload.pod import read_pod

FIELD_MANAGER = "videojob-operator"
"""Owns what the operator says of a Deployment."""
ColdStart = Callable[[str, float], None]
"""Called with a pool and the seconds that one of its pods took from its creation to being ready."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """A pool's Deployment."""

    wanted: int
    generation: int
    """Rises whenever anybody changes its spec."""
    owned: bool = True
    """The number of replicas is one of the fields that this operator owns."""


class Workloads:
    """`changed` is called when a plan could come out differently."""

    def __init__(self, changed: Callable[[], None], cold_start: ColdStart) -> None:
        self._changed = changed
        self._cold_start = cold_start
        self._pods: dict[ReplicaKey, Pod] = {}
        self._started: set[str] = set()
        """uids of pods that have been ready: one that is so again had no cold start."""
        self._deployments: dict[str, Deployed] = {}

    @property
    def pods(self) -> Mapping[ReplicaKey, Pod]:
        """Pods of pools, by replica."""
        return self._pods

    @property
    def deployments(self) -> Mapping[str, Deployed]:
        """Deployments of pools, by pool."""
        return self._deployments

    def deployed(self, pool: str) -> Deployed | None:
        """The pool's Deployment, if there is one."""
        return self._deployments.get(pool)

    def restore_pods(self, bodies: Iterable[Json]) -> None:
        """All pods that exist; the others are gone."""
        bodies = list(bodies)
        for key in self._pods.keys() - {_key(body) for body in bodies}:
            self._forget(key)
        for body in bodies:
            self.apply_pod(body)
        self._changed()

    def apply_pod(self, body: Json, deleted: bool = False) -> None:
        """A pod was seen, or is gone."""
        key = _key(body)
        old = self._pods.get(key)
        if deleted:
            self._forget(key)
            self._changed()
            return
        new = self._pods[key] = read_pod(body)
        if new.ready_since is not None and new.uid not in self._started:
            self._started.add(new.uid)
            if old is not None and not new.restarts:
                self._cold_start(key.pool, (new.ready_since - new.created).total_seconds())
        if old != new:
            self._changed()

    def _forget(self, key: ReplicaKey) -> None:
        pod = self._pods.pop(key, None)
        if pod is not None:
            self._started.discard(pod.uid)

    def restore_deployments(self, bodies: Iterable[Json]) -> None:
        """All Deployments that exist; the others are gone."""
        self._deployments.clear()
        for body in bodies:
            self.apply_deployment(body)
        self._changed()

    def apply_deployment(self, body: Json, deleted: bool = False) -> None:
        """A Deployment was seen, or is gone, or was just written."""
        pool = body["metadata"].get("labels", {}).get(POOL_LABEL, "")
        if deleted or "deletionTimestamp" in body["metadata"]:
            self._deployments.pop(pool, None)
        else:
            metadata = body["metadata"]
            new = Deployed(int(body["spec"].get("replicas", 1)), int(metadata["generation"]), _owned(metadata))
            old = self._deployments.get(pool)
            if old is not None and old.generation > new.generation:
                return
            self._deployments[pool] = new
        self._changed()


def _owned(metadata: Json) -> bool:
    return any(
        entry.get("manager") == FIELD_MANAGER and "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
        for entry in metadata.get("managedFields", [])
    )


def _key(body: Json) -> ReplicaKey:
    metadata = body["metadata"]
    return ReplicaKey(metadata.get("labels", {}).get(POOL_LABEL, ""), metadata["name"])
