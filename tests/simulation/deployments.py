"""What Kubernetes does with the Deployments of managed pools: pods that start after a while, and go by their cost.

A pod that is deleted ends gracefully: its runner hands its jobs back first, and is killed when the grace is over. Where
there are too many, those that are not ready go first, then those with the lowest deletion cost, then the youngest.
"""

from typing import TYPE_CHECKING

from tests.simulation.documents import Json
from tests.simulation.runners import NAMESPACE
from videojob.api.replica import POOL_LABEL, lease_name, pod_labels
from videojob.kube.client import LEASES, PODS
from videojob.workload.deployment import deployment_name
from videojob.workload.pod import DELETION_COST

if TYPE_CHECKING:
    from tests.simulation.world import World

GRACE_SECONDS = 30.0
KUBELET = "kubelet"
RUNS = "simulation/runs"
"""Finalizer of a pod whose containers run."""


class Deployments:
    """The controllers of Deployments, and the machines that run their pods."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._made = 0
        self._created: dict[str, float] = {}
        self._ending: dict[str, float] = {}
        """Since when, by name of the pod."""

    def pods(self, pool: str) -> list[Json]:
        """The pods of a pool that are to stay."""
        found = [pod for pod in self._world.server.objects("pods") if pod["metadata"]["labels"][POOL_LABEL] == pool]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def running(self, pool: str) -> list[str]:
        """Names of the pods of a pool whose containers run."""
        names = [pod["metadata"]["name"] for pod in self.pods(pool)]
        return [name for name in names if f"{pool}.{name}" in self._world.runners]

    def step(self) -> None:
        """What happens from time to time."""
        for plan in self._world.scenario.pools:
            if plan.managed is None:
                continue
            self._resize(plan.name)
            for pod in self.pods(plan.name):
                self._run(plan.name, pod["metadata"]["name"], plan.managed.start_seconds)
        for pod in self._world.server.objects("pods"):
            if "deletionTimestamp" in pod["metadata"]:
                self._end(pod["metadata"]["labels"][POOL_LABEL], pod["metadata"]["name"])

    def unrested(self) -> list[str]:
        """Pools that are not as small as they should be without any job."""
        found = []
        for plan in self._world.scenario.pools:
            if plan.managed is None:
                continue
            least, wanted = plan.managed.least, self._wanted(plan.name)
            pods = [
                pod for pod in self._world.server.objects("pods") if plan.name == pod["metadata"]["labels"][POOL_LABEL]
            ]
            if not wanted == len(pods) == len(self.pods(plan.name)) == least:
                found.append(f"pool {plan.name} has {len(pods)} pods of {wanted}, and should come to rest with {least}")
        return found

    def _wanted(self, pool: str) -> int | None:
        found = self._world.server.collection("deployments").objects.get((NAMESPACE, deployment_name(pool)))
        return None if found is None else int(found["spec"].get("replicas", 1))

    def _resize(self, pool: str) -> None:
        wanted, pods = self._wanted(pool), self.pods(pool)
        if wanted is None:
            return
        for _ in range(wanted - len(pods)):
            self._make(pool)
        for pod in sorted(pods, key=self._worth)[: max(len(pods) - wanted, 0)]:
            name = pod["metadata"]["name"]
            self._world.ledger.removed(f"{pool}.{name}", ready=_ready(pod))
            self._world.server.handle("DELETE", PODS.path(NAMESPACE, name), {}, None, "application/json", KUBELET)

    def _worth(self, pod: Json) -> tuple[bool, int, float]:
        metadata = pod["metadata"]
        cost = int(metadata.get("annotations", {}).get(DELETION_COST, "0"))
        return _ready(pod), cost, -self._created[metadata["name"]]

    def _make(self, pool: str) -> None:
        self._made += 1
        name = f"{deployment_name(pool)}-{self._made}"
        body = {"metadata": {"name": name, "labels": pod_labels(pool), "finalizers": [RUNS]}}
        self._created[name] = self._world.clock.monotonic()
        self._world.server.handle("POST", PODS.path(NAMESPACE), {}, body, "application/json", KUBELET)

    def _run(self, pool: str, name: str, start_seconds: float) -> None:
        world, key = self._world, f"{pool}.{name}"
        if world.clock.monotonic() < self._created[name] + start_seconds:
            return
        world.keep_runner(pool, name)
        runner = world.runners.get(key)
        self._show(name, ready=runner is not None and not runner.process.dead and runner.serves)

    def _show(self, name: str, *, ready: bool) -> None:
        found = self._world.server.collection("pods").objects[NAMESPACE, name]
        if ready == _ready(found):
            return
        condition = {
            "type": "Ready",
            "status": str(ready),
            "lastTransitionTime": self._world.clock.now().isoformat(timespec="seconds"),
        }
        status = {"phase": "Running", "conditions": [condition]}
        self._world.server.force("pods", NAMESPACE, name, lambda pod: {**pod, "status": status}, KUBELET)

    def _end(self, pool: str, name: str) -> None:
        """Let the runner stop; once it has, or must, the pod is gone, and its Lease with it."""
        world, now = self._world, self._world.clock.monotonic()
        runner = world.runners.get(f"{pool}.{name}")
        since = self._ending.setdefault(name, now)
        if runner is not None and not runner.process.dead:
            runner.stop()
            if now < since + GRACE_SECONDS:
                return
            runner.process.kill()
        world.runners.pop(f"{pool}.{name}", None)
        world.server.force("pods", NAMESPACE, name, _unfinalized, KUBELET)
        lease = lease_name(pool, name)
        if (NAMESPACE, lease) in world.server.collection("leases").objects:
            world.server.handle("DELETE", LEASES.path(NAMESPACE, lease), {}, None, "application/json", KUBELET)


def _ready(pod: Json) -> bool:
    return any(one["status"] == "True" for one in pod.get("status", {}).get("conditions", ()))


def _unfinalized(pod: Json) -> Json:
    return {**pod, "metadata": {**pod["metadata"], "finalizers": []}}
