"""Decisions on pools and replicas as writes, each on what it was made on."""

import pytest

from tests.controller.bench import Bench
from tests.controller.objects import (
    deployment_body,
    lease_body,
    pod_body,
    pool_body,
)
from tests.planner.builders import NOW
from videojob.api.gpupool import GPUPoolStatus, LastScaling
from videojob.api.replica import DRAIN_ANNOTATION
from videojob.api.videoqueue import VideoQueueStatus
from videojob.kube.client import (
    DEPLOYMENTS,
    GPU_POOLS,
    LEASES,
    PODS,
    KubeError,
)
from videojob.planner.decisions import (
    ApplyDeployment,
    Drain,
    KeepReplicas,
    Resize,
    SetDeletionCost,
    SetPoolStatus,
    SetQueueStatus,
    VerifyLeases,
)
from videojob.planner.facts import Health, ReplicaKey
from videojob.planner.removal import SCALE_DOWN

R0 = ReplicaKey("p", "r0")


SCALING = LastScaling(time=NOW, from_replicas=2, to_replicas=3, reason="Backlog", message="More.")


@pytest.fixture
def managed(bench: Bench) -> Bench:
    bench.see(GPU_POOLS, pool_body("m", managed=True))
    bench.see(DEPLOYMENTS, deployment_body("m", 5, replicas=2, generation=1))
    return bench


def applied(bench: Bench) -> ApplyDeployment:
    body = '{"metadata": {"name": "pool-m", "labels": {"videojob.dev/pool": "m"}}, "spec": {"replicas": 3}}'
    return ApplyDeployment(bench.book.pools["m"], body, 3, SCALING)


async def test_an_applied_deployment_is_remembered(managed: Bench) -> None:
    decision = applied(managed)
    await managed.effects.apply(decision, managed.api)
    memory = managed.book.memories["m"]
    assert (memory.applied.body, memory.applied.generation) == (decision.body, 2)
    assert memory.last_scaling == SCALING
    assert managed.book.deployments["m"].wanted == 3
    assert (
        managed.metrics.registry.get_sample_value("videojob_pool_scalings_total", {"pool": "m", "direction": "up"}) == 1
    )


@pytest.mark.parametrize("code", [400, 403, 422, 500])
async def test_a_refused_deployment_is_remembered_and_no_error(managed: Bench, code: int) -> None:
    def refuse(verb: str, kind: object, name: str) -> None:
        raise KubeError(code, "spec.template: no")

    managed.server.before = refuse
    await managed.effects.apply(applied(managed), managed.api)
    refused = managed.book.memories["m"].refused
    assert refused is not None
    assert "spec.template: no" in refused.message
    managed.server.before = lambda verb, kind, name: None
    await managed.effects.apply(applied(managed), managed.api)
    assert managed.book.memories["m"].refused is None


@pytest.mark.parametrize("code", [0, 409, 429, 503])
async def test_a_passing_trouble_is_no_refusal(managed: Bench, code: int) -> None:
    def fail(verb: str, kind: object, name: str) -> None:
        raise KubeError(code, "not now")

    managed.server.before = fail
    with pytest.raises(KubeError):
        await managed.effects.apply(applied(managed), managed.api)
    assert managed.book.memories["m"].refused is None


async def test_a_deployment_is_resized_only_as_it_was_decided_on(managed: Bench) -> None:
    decision = Resize(managed.book.pools["m"], managed.book.deployments["m"], 1, SCALING)
    managed.server.put(DEPLOYMENTS, deployment_body("m", 9, replicas=2, generation=1))
    await managed.effects.apply(decision, managed.api)
    assert managed.server.read(DEPLOYMENTS, "pool-m")["spec"]["replicas"] == 1
    managed.server.put(DEPLOYMENTS, deployment_body("m", 20, replicas=7, generation=2))
    with pytest.raises(KubeError) as raised:
        await managed.effects.apply(decision, managed.api)
    assert raised.value.conflict


async def test_replicas_are_kept_only_as_they_were(managed: Bench) -> None:
    decision = KeepReplicas(managed.book.pools["m"], managed.book.deployments["m"])
    managed.server.put(DEPLOYMENTS, deployment_body("m", 20, replicas=7, generation=2))
    with pytest.raises(KubeError) as raised:
        await managed.effects.apply(decision, managed.api)
    assert raised.value.conflict


async def test_a_drain_is_known_at_once_and_only_our_own_is_taken_back(bench: Bench) -> None:
    bench.see(LEASES, lease_body())
    await bench.effects.apply(Drain(R0, SCALE_DOWN), bench.api)
    replica = bench.book.liveness.beats[R0].replica
    assert replica is not None
    assert replica.drain_reason == SCALE_DOWN
    await bench.effects.apply(Drain(R0, None), bench.api)
    assert DRAIN_ANNOTATION not in bench.server.read(LEASES, "p.r0")["metadata"]["annotations"]
    bench.server.put(LEASES, lease_body(version=200, annotations={DRAIN_ANNOTATION: "Upgrade"}))
    with pytest.raises(KubeError):
        await bench.effects.apply(Drain(R0, None), bench.api)
    assert bench.server.read(LEASES, "p.r0")["metadata"]["annotations"][DRAIN_ANNOTATION] == "Upgrade"


async def test_a_replica_that_is_gone_needs_no_drain_and_no_deletion_cost(bench: Bench) -> None:
    await bench.effects.apply(Drain(R0, SCALE_DOWN), bench.api)
    await bench.effects.apply(SetDeletionCost(R0, "uid-pod-r0", 5), bench.api)
    assert not bench.server.written


async def test_a_deletion_cost_is_for_that_pod_alone(bench: Bench) -> None:
    bench.see(PODS, pod_body())
    await bench.effects.apply(SetDeletionCost(R0, "uid-pod-r0", 5), bench.api)
    assert bench.book.pods[R0].deletion_cost == 5
    with pytest.raises(KubeError) as raised:
        await bench.effects.apply(SetDeletionCost(R0, "another", 7), bench.api)
    assert raised.value.conflict


async def test_statuses_are_written_on_the_version_that_was_looked_at(bench: Bench) -> None:
    pool, queue = bench.book.pools["p"], next(iter(bench.book.queues.values()))
    decisions = (SetPoolStatus(pool, GPUPoolStatus(slots=2)), SetQueueStatus(queue, VideoQueueStatus(pending_jobs=3)))
    for decision in decisions:
        await bench.effects.apply(decision, bench.api)
    assert bench.book.pools["p"].status.slots == 2
    assert next(iter(bench.book.queues.values())).status.pending_jobs == 3
    for decision in decisions:
        with pytest.raises(KubeError):
            await bench.effects.apply(decision, bench.api)


async def test_leases_are_listed_before_a_silent_replica_is_lost(bench: Bench) -> None:
    bench.see(LEASES, lease_body(renewed="1"))
    bench.see(LEASES, lease_body(replica="late", renewed="1"))
    contact = bench.book.liveness.contact
    for second in range(0, 41, 2):
        bench.seconds = second
        contact.answered(bench.clock().mono)
    bench.server.put(LEASES, lease_body(replica="late", version=50, renewed="2"))
    assert bench.book.liveness.unconfirmed(bench.clock().mono)
    await bench.effects.apply(VerifyLeases(), bench.api)
    assert bench.server.log[-1] == ("list", "leases", "['labelSelector']"), "with no resourceVersion: consistent"
    bench.book.advance(bench.clock())
    now = bench.clock().mono
    assert bench.book.liveness.health(R0, now) is Health.LOST
    assert bench.book.liveness.health(ReplicaKey("p", "late"), now) is Health.LIVE
