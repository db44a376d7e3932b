"""Whatever pod goes, and however: jobs go on elsewhere, nothing counts as their failure, no chunk is made twice."""

from dev.control_plane import NAMESPACE
from tests.controller.world import OperatorProcess, until
from tests.kwok.nodes import MANAGED, add_nodes
from tests.kwok.world import LONG, PATIENCE, PoolWorld, replica_of
from videojob.kube.client import PODS, Json, ResourceKind
from videojob.workload.pod import DELETION_COST

NODES = ResourceKind("nodes", "/api/v1", namespaced=False)


async def busy_and_idle(world: PoolWorld) -> tuple[str, str, str]:
    """A pool of two replicas one of which has a long job; its name and those of the busy and the idle pod."""
    pool = await world.managed_pool(scaling={"minReplicas": 2, "maxReplicas": 2})
    await world.until_size(pool, 2)
    await world.job(shots=LONG)
    busy = replica_of(await world.until_running())
    (idle,) = set(await world.pods(pool)) - {busy}
    return pool, busy, idle


async def test_a_busy_pod_that_is_deleted_hands_its_job_back(world: PoolWorld, operator: OperatorProcess) -> None:
    pool, busy, _ = await busy_and_idle(world)
    await world.client.delete(PODS, busy, NAMESPACE)
    await world.becomes(
        lambda job: job.status.assignment is not None and replica_of(job) != busy, "another replica has the job"
    )
    jobs = await world.until_succeeded()
    world.made_once(*jobs.values())
    assert jobs["job"].status.attempts == 2
    await world.until_size(pool, 2)
    assert busy not in await world.leases(pool)


async def test_a_scale_down_behind_the_operators_back_may_take_the_busy_pod(
    world: PoolWorld, operator: OperatorProcess
) -> None:
    pool, busy, idle = await busy_and_idle(world)
    for name, cost in ((busy, "-5000"), (idle, "5000")):
        await world.client.merge_patch(PODS, name, {"metadata": {"annotations": {DELETION_COST: cost}}}, NAMESPACE)
    # Not by the pool, but behind the operator's back; it then puts the number right.
    world.cluster.kubectl("scale", "deployment", f"pool-{pool}", "--replicas=1", "--namespace", NAMESPACE)
    jobs = await world.until_succeeded()
    world.made_once(*jobs.values())
    assert jobs["job"].status.attempts == 2
    await world.until_size(pool, 2)
    assert busy not in await world.pods(pool)


async def test_a_runner_that_is_killed_loses_the_chunk_in_flight(world: PoolWorld, operator: OperatorProcess) -> None:
    _, busy, _ = await busy_and_idle(world)
    world.pod_runners.lose_pod(busy)
    jobs = await world.until_succeeded()
    world.made_once(*jobs.values())
    assert jobs["job"].status.attempts == 2


async def test_a_new_template_is_rolled_out_pod_by_pod(world: PoolWorld, operator: OperatorProcess) -> None:
    pool, *before = await busy_and_idle(world)
    most, least = 0, 2
    await world.change_pool(pool, template={"image": "example.com/triton:2"})

    async def rolled() -> bool | None:
        nonlocal most, least
        pods = await world.pods(pool)
        # One that ends is still there for as long as its grace period lasts.
        staying = sum("deletionTimestamp" not in pod["metadata"] for pod in pods.values())
        most, least = max(most, staying), min(least, staying)
        images = {pod["spec"]["initContainers"][0]["image"] for pod in pods.values()}
        return True if images == {"example.com/triton:2"} and len(pods) == 2 else None

    await until(rolled, "every pod is of the new template", PATIENCE)
    assert (most, least) in ((2, 1), (2, 2))
    jobs = await world.until_succeeded()
    world.made_once(*jobs.values())
    assert not set(before) & set(await world.pods(pool))


async def test_nodes_are_lost(world: PoolWorld, operator: OperatorProcess) -> None:
    accelerator = f"a100-{world.namespace}"
    add_nodes(world.cluster, accelerator, 3, gpus=1)
    pool = await world.managed_pool(accelerator=accelerator, scaling={"minReplicas": 2, "maxReplicas": 2})
    await world.until_size(pool, 2)
    await world.job(shots=LONG)
    busy = replica_of(await world.until_running())
    node = (await world.pods(pool))[busy]["spec"]["nodeName"]

    world.pod_runners.lose_node(node)
    await world.client.merge_patch(NODES, node, {"metadata": {"annotations": {MANAGED: None}}})
    await world.becomes(
        lambda job: job.status.assignment is not None and replica_of(job) != busy, "another replica has the job"
    )
    # What Kubernetes' documentation prescribes for a node that is off and does not come back.
    taint: Json = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
    await world.client.merge_patch(NODES, node, {"spec": {"taints": [taint]}})

    async def replaced() -> bool | None:
        pods = await world.pods(pool)
        return True if busy not in pods and len(pods) == 2 else None

    await until(replaced, "a pod on another node takes the place of the lost one", PATIENCE)
    force = ("--force", "--grace-period=0", "--wait=false", "--ignore-not-found")
    world.cluster.kubectl("delete", "pod", busy, "--namespace", NAMESPACE, *force)
    jobs = await world.until_succeeded()
    world.made_once(*jobs.values())

    async def collected() -> bool | None:
        return None if busy in await world.leases(pool) else True

    await until(collected, "the lost pod's Lease is collected", PATIENCE)
    await world.until_size(pool, 2)
