"""What keeps a pool's pods from serving, as a table, and how that becomes the reason that a job waits for."""

from typing import Any

import pytest

from tests.planner.builders import NOW, ago, held, job, loaded, model, pool, replica, snapshot
from videojob.api.conditions import ConditionType, Reason, find
from videojob.api.gpupool import GPUPool, GPUPoolSpec, Scaling
from videojob.api.replica import ModelState
from videojob.planner.decisions import Wait
from videojob.planner.demand import Demand
from videojob.planner.placement import Obstacle, Place, Placement, members, missing
from videojob.planner.plan import plan
from videojob.planner.pod_health import CRASHES, NODE_PATIENCE_SECONDS, NamedPod, pods_of, troubles
from videojob.planner.scaling import ScalingReason
from videojob.planner.snapshot import Container, Pod, Replica, ReplicaKey, Snapshot, Workload
from videojob.planner.summary import PoolScaling, summarise


def pod(**fields: Any) -> Pod:
    """A pod that was made a minute ago and is not ready."""
    return Pod(**{"uid": "u", "created": ago(60)} | fields)


READY = pod(ready_since=ago(5))
PENDING = pod(unschedulable_since=ago(10), unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
PULLING = pod(waiting=Container("ImagePullBackOff", "container triton: not found"))
LOOPING = pod(waiting=Container("CrashLoopBackOff"), restarts=5, last_exit=Container("OOMKilled"))


def pod_pool(name: str = "p", **spec: Any) -> GPUPool:
    """A managed pool."""
    made = pool(name)
    rest = made.spec.model_dump(exclude={"endpoints"}) | {"jobs_per_replica": 2, "scaling": Scaling(max_replicas=4)}
    return made.model_copy(update={"spec": GPUPoolSpec(**rest | spec)})


def with_pods(
    pods: dict[str, Pod], *jobs: Any, workload: Workload | None = None, replicas: dict[str, Replica] | None = None
) -> Snapshot:
    """Pool p, made of these pods."""
    made = snapshot(*jobs, pools=[pod_pool()], replicas=replicas or {})
    return Snapshot(
        jobs=made.jobs,
        queues=made.queues,
        models=made.models,
        pools=made.pools,
        replicas=made.replicas,
        pods={ReplicaKey("p", name): found for name, found in pods.items()},
        workloads={"p": workload} if workload else {},
    )


@pytest.mark.parametrize(
    ("found", "condition", "reason", "words"),
    [
        (PENDING, ConditionType.PODS_SCHEDULED, Reason.UNSCHEDULABLE, "Insufficient nvidia.com/gpu"),
        (
            pod(unschedulable_since=ago(NODE_PATIENCE_SECONDS), unschedulable="0/0 nodes are available."),
            ConditionType.PODS_SCHEDULED,
            Reason.NODE_PROVISIONING_TIMEOUT,
            "more than 5 minutes: 0/0 nodes are available. Let the node pool grow",
        ),
        (PULLING, ConditionType.IMAGES_PULLED, Reason.IMAGE_PULL_FAILED, "container triton: not found Correct"),
        (LOOPING, ConditionType.PODS_STABLE, Reason.CRASH_LOOP, "5 times, the last time by OOMKilled. Raise its mem"),
        (
            pod(restarts=CRASHES, last_exit=Container("Error", "no such model")),
            ConditionType.PODS_STABLE,
            Reason.CRASH_LOOP,
            "by Error (no such model). See its log",
        ),
        (
            pod(waiting=Container("CreateContainerConfigError", "container runner: secret is missing")),
            ConditionType.PODS_STABLE,
            Reason.CRASH_LOOP,
            "does not start: CreateContainerConfigError: container runner: secret is missing",
        ),
    ],
)
def test_one_trouble(found: Pod, condition: ConditionType, reason: Reason, words: str) -> None:
    (trouble,) = troubles([NamedPod("a", READY), NamedPod("b", found)], NOW)
    assert (trouble.condition, trouble.reason) == (condition, reason)
    assert trouble.message.startswith("1 of 2 pods, such as b: ")
    assert words in trouble.message


@pytest.mark.parametrize(
    "found",
    [
        READY,
        pod(),
        pod(restarts=CRASHES - 1, last_exit=Container("Error")),
        pod(restarts=CRASHES, last_exit=Container("Error"), ready_since=ago(1)),
        pod(waiting=Container("ContainerCreating")),
        pod(ending=True, waiting=Container("ImagePullBackOff")),
    ],
)
def test_no_trouble(found: Pod) -> None:
    assert list(troubles([NamedPod("a", found)], NOW)) == []


def test_the_gravest_trouble_comes_first_and_each_kind_once() -> None:
    pods = [NamedPod("a", PENDING), NamedPod("b", LOOPING), NamedPod("c", PULLING), NamedPod("d", PULLING)]
    found = list(troubles(pods, NOW))
    assert [one.reason for one in found] == [Reason.IMAGE_PULL_FAILED, Reason.CRASH_LOOP, Reason.UNSCHEDULABLE]
    assert found[0].message.startswith("2 of 4 pods, such as c: ")


def test_pods_of_a_pool_come_by_name() -> None:
    pods = {ReplicaKey("p", "b"): READY, ReplicaKey("q", "a"): READY, ReplicaKey("p", "a"): PENDING}
    assert [one.name for one in pods_of(Snapshot(pods=pods), "p")] == ["a", "b"]


def test_members_are_endpoints_or_the_pods_whose_runners_have_shown_themselves() -> None:
    replicas = {ReplicaKey(*key): replica() for key in (("p", "a"), ("e", "gone"), ("x", "y"))}
    pools = {"p": pod_pool("p"), "e": pool("e", ["r0", "r1"])}
    assert members(Snapshot(pools=pools, replicas=replicas)) == {
        "p": [ReplicaKey("p", "a")],
        "e": [ReplicaKey("e", "r0"), ReplicaKey("e", "r1")],
    }


@pytest.mark.parametrize(
    ("pods", "workload", "reason", "words"),
    [
        ({}, None, Reason.POOL_EMPTY, "it has no replica."),
        ({}, Workload(), Reason.POOL_EMPTY, "it has no replica."),
        ({}, Workload(2), Reason.POOL_STARTING, "0 of 2 pods are ready."),
        ({"a": READY, "b": pod()}, Workload(2), Reason.POOL_STARTING, "1 of 2 pods are ready."),
        ({"a": READY, "b": PENDING}, Workload(2), Reason.UNSCHEDULABLE, "Insufficient nvidia.com/gpu"),
        ({"a": PULLING}, Workload(1, "The API server refuses it."), Reason.TEMPLATE_REFUSED, "refuses it."),
    ],
)
def test_why_a_pool_of_pods_has_no_live_replica(
    pods: dict[str, Pod], workload: Workload | None, reason: Reason, words: str
) -> None:
    found = with_pods(pods, workload=workload)
    verdict = missing(found.pools["p"], found, NOW)
    assert verdict.reason is reason
    assert words in verdict.note
    # The job that waits is told the same.
    waiting = Placement(found, NOW).place(job(), model())
    assert isinstance(waiting, Obstacle)
    assert waiting.reason is reason
    assert waiting.message == f"GPUPool p: {verdict.note}"


def test_a_live_replica_says_more_than_its_pool() -> None:
    found = with_pods(
        {"a": READY, "b": PENDING}, workload=Workload(2), replicas={"p/a": replica(store_error="The store is shut.")}
    )
    waiting = Placement(found, NOW).place(job(), model())
    assert waiting == Obstacle(Reason.POOL_NOT_READY, "GPUPool p: The store is shut.")


def test_jobs_per_replica_bound_the_slots_that_a_pod_reports() -> None:
    found = with_pods({"a": READY}, replicas={"p/a": replica(slots=64)})
    placement = Placement(found, NOW)
    assert [isinstance(placement.place(job(name), model()), Place) for name in "abc"] == [True, True, False]


def test_a_replica_that_has_the_model_loaded_comes_before_one_that_has_unloaded_it() -> None:
    unloaded = replica(models=(loaded(state=ModelState.UNLOADED),))
    found = with_pods({"a": READY, "b": READY}, replicas={"p/a": unloaded, "p/b": replica()})
    placement = Placement(found, NOW)
    places = [placement.place(job(name), model()) for name in "abcd"]
    assert [place.replica.name for place in places if isinstance(place, Place)] == ["b", "b", "a", "a"]


@pytest.mark.parametrize("pods", [{"a": pod(), "b": pod()}, {"a": PENDING}, {"a": LOOPING}, {"a": PULLING}])
def test_a_job_that_waits_for_pods_is_written_once_for_a_reason(pods: dict[str, Pod]) -> None:
    """However many of the pods have come so far: ten thousand jobs may wait for a hundred of them."""
    (wait,) = plan(with_pods(pods, job(), workload=Workload(2)), NOW).decisions
    assert isinstance(wait, Wait)
    told = job(reason=wait.reason, message=wait.message)
    assert plan(with_pods({**pods, "c": READY}, told, workload=Workload(3)), NOW).decisions == ()


def scaled(reason: ScalingReason, wanted: int = 0, **demand: Any) -> dict[str, PoolScaling]:
    return {"p": PoolScaling(Demand(**demand), wanted, reason, "why")}


@pytest.mark.parametrize(
    ("found", "scaling", "ready", "reason"),
    [
        pytest.param(with_pods({}), scaled(ScalingReason.IDLE), True, Reason.SCALED_TO_ZERO, id="no job, no replica"),
        pytest.param(
            with_pods({}), scaled(ScalingReason.PAUSED), False, Reason.POOL_EMPTY, id="paused without a replica"
        ),
        pytest.param(
            with_pods({"a": pod()}, workload=Workload(1)),
            scaled(ScalingReason.STEADY, 1),
            False,
            Reason.POOL_STARTING,
            id="on its way",
        ),
        pytest.param(
            with_pods({"a": READY}, workload=Workload(1), replicas={"p/a": replica()}),
            scaled(ScalingReason.STEADY, 1),
            True,
            Reason.READY,
            id="a replica serves",
        ),
    ],
)
def test_whether_a_pool_of_pods_can_be_used(
    found: Snapshot, scaling: dict[str, PoolScaling], ready: bool, reason: Reason
) -> None:
    status = summarise(found, NOW, scaling).pools["p"]
    condition = find(status.conditions, ConditionType.READY)
    assert condition is not None
    assert (condition.status == "True", condition.reason) == (ready, reason)


def test_what_a_pool_of_pods_tells() -> None:
    found = with_pods(
        {"a": READY, "b": PENDING},
        held("one", replica="a", pool="p"),
        workload=Workload(2),
        replicas={"p/a": replica()},
    )
    status = summarise(found, NOW, scaled(ScalingReason.STEADY, 2, backlog_seconds=1234.0, waiting=3)).pools["p"]
    counts = (status.wanted_replicas, status.replicas, status.ready_replicas, status.loading_replicas)
    assert counts == (2, 2, 1, 1)
    assert (status.busy_replicas, status.running_jobs, status.waiting_jobs) == (1, 1, 3)
    assert status.backlog_seconds == 1200
    states = {condition.type: (condition.status, condition.reason) for condition in status.conditions}
    assert states[ConditionType.PODS_SCHEDULED] == ("False", Reason.UNSCHEDULABLE)
    assert states[ConditionType.IMAGES_PULLED] == ("True", Reason.PULLED)
    assert states[ConditionType.SCALING] == ("True", ScalingReason.STEADY)
    assert status.selector == "videojob.dev/pool=p,videojob.dev/component=replica"
