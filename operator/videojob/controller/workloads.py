"""The Deployments and pods of pools, as the watches show them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from videojob.api.replica import POOL_LABEL
from videojob.kube.client import Json
from videojob.planner.snapshot import Pod, ReplicaKey
from videojob.pods.read import read_pod

ColdStart = Callable[[str, float], None]
"""Called with a pool and the seconds that one of its pods took from its creation to being ready."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """A pool's Deployment."""

    wanted: int
    generation: int
    """Rises whenever anybody changes its spec."""


class Workloads:
    """`changed` is called when a plan could come out differently."""

    def __init__(self, changed: Callable[[], None], cold_start: ColdStart) -> None:
        self._changed = changed
        self._cold_start = cold_start
        self._pods: dict[ReplicaKey, Pod] = {}
        self._deployments: dict[str, Deployed] = {}

    @property
    def pods(self) -> Mapping[ReplicaKey, Pod]:
        """Pods of pools, by replica."""
        return self._pods

    def deployed(self, pool: str) -> Deployed | None:
        """The pool's Deployment, if there is one."""
        return self._deployments.get(pool)

    def restore_pods(self, bodies: Iterable[Json]) -> None:
        """All pods that exist; the others are gone."""
        bodies = list(bodies)
        for key in self._pods.keys() - {_key(body) for body in bodies}:
            del self._pods[key]
        for body in bodies:
            self.apply_pod(body)
        self._changed()

    def apply_pod(self, body: Json, deleted: bool = False) -> None:
        """A pod was seen, or is gone."""
        key = _key(body)
        old = self._pods.get(key)
        if deleted:
            self._pods.pop(key, None)
            self._changed()
            return
        new = self._pods[key] = read_pod(body)
        if old is not None and old.ready_since is None and new.ready_since is not None and not new.restarts:
            self._cold_start(key.pool, (new.ready_since - new.created).total_seconds())
        if old != new:
            self._changed()

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
            new = Deployed(int(body["spec"].get("replicas", 1)), int(body["metadata"]["generation"]))
            old = self._deployments.get(pool)
            if old is not None and old.generation > new.generation:
                return
            self._deployments[pool] = new
        self._changed()


def _key(body: Json) -> ReplicaKey:
    metadata = body["metadata"]
    return ReplicaKey(metadata.get("labels", {}).get(POOL_LABEL, ""), metadata["name"])
