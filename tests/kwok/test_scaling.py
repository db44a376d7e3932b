"""Managed pools follow their backlog, or whoever else decides, and never take a replica that is busy."""

import asyncio
import math

from dev.control_plane import NAMESPACE
from tests.controller.world import OperatorProcess, until
from tests.kwok.world import LONG, SCALING, PoolWorld, condition, replica_of
from videojob.api.gpupool import PAUSED_ANNOTATION
from videojob.kube.client import DEPLOYMENTS, GPU_POOLS, PODS
from videojob.workload.pod import read_pod


async def test_a_pool_grows_from_zero_and_goes_back_to_zero(world: PoolWorld, operator: OperatorProcess) -> None:
    pool = await world.managed_pool()
    await world.until_size(pool, 0)
    note = {"metadata": {"annotations": {"example.com/note": "kept"}}}
    template = {"metadata": {"annotations": {"example.com/mesh": "on"}}}
    await world.client.merge_patch(DEPLOYMENTS, f"pool-{pool}", {**note, "spec": {"template": template}}, NAMESPACE)

    await world.job("first")
    await world.until_succeeded()
    assert condition(await world.read_pool(pool), "ScalingActive").status == "True"

    await world.job("long", shots=LONG)
    for index in range(9):
        await world.job(f"burst-{index}", shots=[{"prompt": "A private prompt.", "seconds": 3}])
    grown = await world.until_size(pool, 3)
    assert grown.status.last_scaling is not None and grown.status.last_scaling.reason == "BacklogTooLong"

    # The long job holds one replica when the others have nothing left to do.
    shrunk = await world.until_size(pool, 1)
    assert shrunk.status.last_scaling is not None and shrunk.status.last_scaling.reason == "BacklogDrained"
    assert (await world.until_running("long")).status.phase.value == "Running"
    rested = await world.until_size(pool, 0)
    assert rested.status.last_scaling is not None and rested.status.last_scaling.reason == "Idle"

    jobs = await world.until_succeeded()
    world.made_once(*jobs.values())
    assert {job.status.attempts for job in jobs.values()} == {1}
    found = await world.deployment(pool)
    assert found is not None
    assert found["metadata"]["annotations"]["example.com/note"] == "kept"
    assert found["spec"]["template"]["metadata"]["annotations"]["example.com/mesh"] == "on"
    assert found["metadata"]["ownerReferences"][0]["name"] == pool
    assert "videojob-operator" in {
        entry["manager"] for entry in found["metadata"]["managedFields"] if entry["operation"] == "Apply"
    }

    async def collected() -> bool | None:
        return None if await world.leases(pool) else True

    await until(collected, "the Leases of gone pods are collected")
    assert await operator.metric("videojob_pool_scalings_total", pool=pool, direction="up") >= 2
    assert await operator.metric("videojob_pool_scalings_total", pool=pool, direction="down") >= 2


async def test_two_pools_of_different_accelerators_share_the_jobs_of_a_model(
    world: PoolWorld, operator: OperatorProcess
) -> None:
    scaling = {"minReplicas": 1, "maxReplicas": 2}
    pools = [await world.managed_pool(name, name, scaling=scaling) for name in ("h200", "l40")]
    # A pool that is there first, on a busy machine, could make all of them.
    for pool in pools:
        await world.until_size(pool, 1)
    for index in range(12):
        await world.job(f"job-{index}", shots=[{"prompt": "A private prompt.", "seconds": 6}])
    jobs = await world.until_succeeded()
    assert {job.status.pool for job in jobs.values()} == set(pools)
    world.made_once(*jobs.values())


async def test_an_external_controller_owns_the_replicas(world: PoolWorld, operator: OperatorProcess) -> None:
    pool = await world.managed_pool(scaling={"mode": "External"}, replicas=0)
    await world.scale(pool, 2)
    await world.until_size(pool, 2)
    await world.job("long", shots=LONG)
    busy = replica_of(await world.until_running("long"))
    await world.scale(pool, 1)
    await world.until_size(pool, 1)
    assert set(await world.pods(pool)) == {busy}
    assert condition(await world.read_pool(pool), "ScalingActive").reason == "External"
    # Zero is asked for while the replica is busy and more is waiting: it ends its job, and takes no other one.
    await world.job("later")
    await world.scale(pool, 0)
    jobs = await world.until_succeeded("long")
    await world.until_size(pool, 0)
    assert jobs["long"].status.attempts == 1
    later = await world.read("later")
    assert later is not None and later.status.attempts == 0

    # A scaler that knows nothing but the operator's metric.
    async def scaler() -> None:
        while True:
            backlog = await operator.metric("videojob_pool_backlog_seconds", pool=pool)
            await world.client.merge_patch(
                GPU_POOLS, pool, {"spec": {"replicas": min(2, math.ceil(backlog / 5))}}, subresource="scale"
            )
            await asyncio.sleep(0.2)

    scaling = asyncio.create_task(scaler())
    try:
        jobs = await world.until_succeeded()
        await world.until_size(pool, 0)
    finally:
        scaling.cancel()
    world.made_once(*jobs.values())


async def test_a_scaler_of_the_deployment_owns_its_replicas(world: PoolWorld, operator: OperatorProcess) -> None:
    pool = await world.managed_pool(scaling={"mode": "External", "minReplicas": 1})
    await world.until_size(pool, 1)

    def scale(replicas: int) -> None:
        options = (f"--replicas={replicas}", "--namespace", NAMESPACE)
        world.cluster.kubectl("scale", "deployment", f"pool-{pool}", *options)

    scale(3)
    await world.until_size(pool, 3)
    await world.job(shots=LONG)
    busy = replica_of(await world.until_running())

    async def costs_set() -> bool | None:
        pods = await world.pods(pool)
        costs = {name: read_pod(pod).deletion_cost for name, pod in pods.items()}
        return True if costs[busy] > max(cost for name, cost in costs.items() if name != busy) else None

    await until(costs_set, "the busy pod has the highest deletion cost")
    scale(1)
    await world.until_size(pool, 1)
    assert set(await world.pods(pool)) == {busy}
    # Another template does not bring another number of replicas.
    scale(2)
    await world.change_pool(pool, template={"image": "example.com/triton:2"})
    await world.until_size(pool, 2)
    jobs = await world.until_succeeded()
    world.made_once(*jobs.values())
    await world.until_size(pool, 2)


async def test_a_paused_pool_keeps_its_size(world: PoolWorld, operator: OperatorProcess) -> None:
    pool = await world.managed_pool()
    await world.until_size(pool, 0)
    await world.client.merge_patch(GPU_POOLS, pool, {"metadata": {"annotations": {PAUSED_ANNOTATION: "true"}}})
    await world.until_condition(pool, "ScalingActive", "Paused")
    await world.job()
    await world.waits("PoolEmpty")
    assert await operator.metric("videojob_pool_paused", pool=pool) == 1
    assert (await world.read_pool(pool)).status.desired_replicas == 0
    await world.client.merge_patch(GPU_POOLS, pool, {"metadata": {"annotations": {PAUSED_ANNOTATION: None}}})
    await world.until_succeeded()


async def test_a_lower_maximum_takes_replicas_as_they_become_free(world: PoolWorld, operator: OperatorProcess) -> None:
    pool = await world.managed_pool(scaling={"minReplicas": 3})
    await world.until_size(pool, 3)
    for index in range(16):
        await world.job(f"job-{index}", shots=[{"prompt": "A private prompt.", "seconds": 3}])
    await world.until_pool(pool, lambda found: found.status.busy_replicas == 3, "all replicas are busy")
    await world.change_pool(pool, scaling={"minReplicas": 0, "maxReplicas": 1})
    shrunk = await world.until_size(pool, 1)
    assert shrunk.status.waiting_jobs > 0
    jobs = await world.until_succeeded()
    world.made_once(*jobs.values())
    assert {job.status.attempts for job in jobs.values()} == {1}


async def test_pods_that_no_node_takes(world: PoolWorld, operator: OperatorProcess) -> None:
    pool = await world.managed_pool(template={"resourceName": "example.com/slice"})
    await world.job()
    job = await world.waits("Unschedulable")
    assert "Insufficient example.com/slice" in str(job.status.conditions)
    found = await world.until_condition(pool, "PodsScheduled", "Unschedulable")
    assert condition(found, "Ready").reason == "Unschedulable"
    await world.change_pool(pool, template={"resourceName": None})
    await world.until_succeeded()
    await world.until_condition(pool, "PodsScheduled", "Scheduled")


async def test_a_template_that_the_api_server_refuses(world: PoolWorld, operator: OperatorProcess) -> None:
    term = {"topologyKey": "no such/key/at all", "labelSelector": {}}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    pool = await world.managed_pool(template={"affinity": affinity})
    await world.job()
    job = await world.waits("TemplateRefused")
    assert "topologyKey" in str(job.status.conditions)
    ready = condition(await world.until_condition(pool, "Ready", "TemplateRefused"), "Ready")
    assert ready.status == "False"
    assert "topologyKey" in ready.message
    await world.change_pool(pool, template={"affinity": None})
    await world.until_succeeded()


async def test_a_refused_template_keeps_no_pool_from_scaling(world: PoolWorld, operator: OperatorProcess) -> None:
    pool = await world.managed_pool(scaling={"minReplicas": 1})
    await world.until_size(pool, 1)
    before = await world.deployment(pool)
    await world.change_pool(pool, template={"affinity": {"nodeAffinity": "none"}}, scaling=SCALING | {"minReplicas": 2})
    grown = await world.until_size(pool, 2)
    assert "The API server refuses the Deployment" in condition(grown, "Ready").message
    await world.change_pool(pool, scaling=SCALING | {"minReplicas": 0})
    await world.until_size(pool, 0)
    assert condition(await world.until_condition(pool, "Ready", "TemplateRefused"), "ScalingActive").reason == "Idle"
    after = await world.deployment(pool)
    assert before is not None and after is not None
    assert after["spec"]["template"] == before["spec"]["template"]
    # Put back as it was, it is what the API server has already.
    await world.change_pool(pool, template={"affinity": None})
    await world.until_condition(pool, "Ready", "ScaledToZero")
    await world.job()
    await world.until_succeeded()


async def test_models_that_do_not_load(world: PoolWorld, operator: OperatorProcess) -> None:
    pool = world.named("p")
    world.pod_runners.broken[pool] = "its weights are not there."
    await world.managed_pool()
    await world.job()
    await world.waits("PoolNotReady")
    found = await world.until_condition(pool, "ModelsLoaded", "ModelLoadFailed")
    assert "its weights are not there" in condition(found, "Ready").message
    # Pods that are replaced load it again.
    world.pod_runners.broken.clear()
    for name in await world.pods(pool):
        await world.client.delete(PODS, name, NAMESPACE)
    await world.until_succeeded()
