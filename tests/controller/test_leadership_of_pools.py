"""What a leader does of pools between two moments that the real parts do not let a test choose.

The API server here takes every write and remembers it: a real one cannot be told not to delete a pod yet.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from prometheus_client import CollectorRegistry

from tests.planner.builders import ago, replica
from videojob.controller.cache import Cache
from videojob.controller.metrics import OperatorMetrics
from videojob.controller.pools import Pools
from videojob.controller.summaries import Summaries
from videojob.controller.workloads import Workloads
from videojob.kube.client import GPU_POOLS, KubeClient, ResourceKind
from videojob.planner.draining import with_pods
from videojob.planner.removal import SCALE_DOWN
from videojob.planner.snapshot import Replica, ReplicaKey, Snapshot
from videojob.workload.deployment import PodDefaults

Json = dict[str, Any]
STATUS = {
    "wantedReplicas": 0,
    "coldStartSeconds": 20,
    "estimates": [{"model": "tiny", "chunkSeconds": 3.0}],
    "lastScaling": {
        "time": "2026-11-22T11:00:00Z",
        "fromReplicas": 1,
        "toReplicas": 0,
        "reason": "Idle",
        "message": "No job.",
    },
}


class World:
    """Pools of pods, and an API server that an operator writes to while it leads."""

    def __init__(self, *pools: str, replicas: int, scaling: Json) -> None:
        self.leads = True
        self.seconds = 1000.0
        self.written: list[tuple[str, str, Any]] = []
        self.replicas: dict[ReplicaKey, Replica] = {}
        self.after_a_write: Callable[[], None] = lambda: None
        self._specs = {
            name: {
                "accelerator": "nvidia-h200",
                "models": ["tiny"],
                "store": {"url": "s3://videos"},
                "scaling": scaling,
            }
            for name in pools
        }
        self.cache = Cache(lambda: 1, lambda: None)
        self.workloads = Workloads(lambda: None, lambda pool, seconds: None)
        for name in pools:
            self.cache.apply(GPU_POOLS, self._pool(name, 1, STATUS))
            labels = {"videojob.dev/pool": name}
            self.workloads.apply_deployment(
                {
                    "metadata": {"name": f"pool-{name}", "generation": 1, "labels": labels},
                    "spec": {"replicas": replicas},
                }
            )
        self.pools = Pools(
            cast("KubeClient", self),
            self.cache,
            self.workloads,
            PodDefaults(triton_image="triton:1", runner_image="runner:1"),
            OperatorMetrics(CollectorRegistry()),
            self.snapshot,
            leading=lambda: self.leads,
            monotonic=lambda: self.seconds,
            pause_seconds=1,
        )
        self.summaries = Summaries(
            cast("KubeClient", self),
            self.cache,
            self.snapshot,
            self.pools.scalings,
            lambda: self.leads,
            1,
        )

    def snapshot(self) -> Snapshot:
        known = self.cache.snapshot()
        replicas = with_pods(self.replicas, self.workloads.pods, known.pools, known.jobs, self.pools.leaving)
        return replace(known, replicas=replicas, pods=dict(self.workloads.pods), workloads=self.pools.workloads())

    def pod(self, name: str, age: float, pool: str = "a", **annotations: str) -> None:
        """A pod that is ready, with a runner."""
        self.workloads.apply_pod(
            {
                "metadata": {
                    "name": name,
                    "uid": name,
                    "labels": {"videojob.dev/pool": pool},
                    "creationTimestamp": ago(age).isoformat(),
                    "annotations": annotations,
                },
                "status": {
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
                },
            }
        )
        self.replicas.setdefault(ReplicaKey(pool, name), replica())

    def drains(self, name: str) -> None:
        """Its runner says that it drains, as it was asked to."""
        found = replica(draining=True)
        report = found.report.model_copy(update={"draining": True})
        self.replicas[ReplicaKey("a", name)] = replace(found, report=report, drain_reason=SCALE_DOWN)

    async def apply(self, kind: ResourceKind, name: str, body: Json, namespace: str, manager: str) -> Json:
        answer = copy.deepcopy(body)
        answer["metadata"]["generation"] = 2
        self._write("apply", name, body["spec"]["replicas"])
        return answer

    async def merge_patch(self, kind: ResourceKind, name: str, body: Json, namespace: str) -> Json:
        self._write(kind.plural, name, next(iter(body["metadata"]["annotations"].values())))
        return {}

    async def json_patch(
        self, kind: ResourceKind, name: str, operations: list[Json], namespace: str | None, *, subresource: str
    ) -> Json:
        status = operations[-1]["value"]
        self._write("status", name, status)
        return self._pool(name, len(self.written) + 1, json.loads(json.dumps(status, default=str)))

    def _write(self, what: str, name: str, value: Any) -> None:
        self.written.append((what, name, value))
        self.after_a_write()

    def _pool(self, name: str, version: int, status: Json) -> Json:
        metadata = {"name": name, "uid": name, "resourceVersion": str(version), "generation": 1}
        return {"metadata": metadata, "spec": self._specs[name], "status": status}


async def test_a_drained_replica_stays_drained_until_its_pod_is_gone() -> None:
    world = World("a", replicas=2, scaling={"minReplicas": 1, "idleSeconds": 0, "stabilizationSeconds": 0})
    world.pod("old", 90)
    world.pod("young", 60)
    await world.pools.turn()
    assert ("leases", "a-young", SCALE_DOWN) in world.written
    world.drains("young")
    await world.pools.turn()
    assert world.written[-2:] == [("pods", "young", "-1000"), ("apply", "pool-a", 1)]
    # kube-controller-manager takes its time: the pod that was paid for is still there.
    world.pod("young", 60, **{"controller.kubernetes.io/pod-deletion-cost": "-1000"})
    world.written.clear()
    await world.pools.turn()
    assert [what for what, _, _ in world.written if what == "leases"] == []
    assert world.snapshot().replicas[ReplicaKey("a", "young")].draining
    assert not world.snapshot().replicas[ReplicaKey("a", "old")].draining


async def test_a_successor_writes_no_status_of_a_pool_before_it_has_looked_after_it() -> None:
    world = World("a", "b", "c", replicas=0, scaling={})
    await world.summaries.turn()
    assert world.written == []
    await world.pools.turn()
    await world.summaries.turn()
    told = {name: status for what, name, status in world.written if what == "status"}
    assert told.keys() == {"a", "b", "c"}
    for status in told.values():
        assert {name: status[name] for name in ("coldStartSeconds", "estimates")} == {
            name: STATUS[name] for name in ("coldStartSeconds", "estimates")
        }
        assert status["lastScaling"]["reason"] == "Idle"


async def test_one_that_leads_no_more_writes_no_more_also_in_the_middle_of_a_turn() -> None:
    world = World("a", "b", replicas=2, scaling={"minReplicas": 1})

    def depose() -> None:
        world.leads = False

    world.after_a_write = depose
    await world.pools.turn()
    assert len(world.written) == 1
    await world.pools.turn()
    await world.summaries.turn()
    assert len(world.written) == 1
