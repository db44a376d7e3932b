"""What keeps a pool's pods from serving, as a table, and how that becomes the reason that a job waits for."""

from typing import Any

import pytest

from tests.planner.builders import MOMENT, NOW, ago, book, held, job, loaded, managed, model, pool, replica
from tests.planner.deciding import decided
from tests.planner.pool_world import statuses
from videojob.api.conditions import ConditionType, find
from videojob.api.reasons import REASONS, Reason
from videojob.api.replica import ModelState
from videojob.planner.book import Book
from videojob.planner.decisions import Assign, Wait
from videojob.planner.eligibility import Obstacle, eligible, missing
from videojob.planner.facts import Container, Pod, Replica, ReplicaKey
from videojob.planner.pod_health import CRASHES, NODE_PATIENCE_SECONDS, NamedPod, troubles
from videojob.planner.view import view


def pod(**fields: Any) -> Pod:
    """A pod that was made a minute ago and is not ready."""
    given: dict[str, Any] = {"uid": "u", "created": ago(60)}
    return Pod(**given | fields)


READY = pod(ready_since=ago(5))
PENDING = pod(unschedulable_since=ago(10), unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
PULLING = pod(waiting=Container("ImagePullBackOff", "container triton: not found"))
LOOPING = pod(waiting=Container("CrashLoopBackOff"), restarts=5, last_exit=Container("OOMKilled"))


OWN = managed(jobs_per_replica=2, scaling={"idle_seconds": 0})


def with_pods(
    pods: dict[str, Pod],
    *jobs: Any,
    wanted: int | None = None,
    refused: str = "",
    replicas: dict[str, Replica] | None = None,
    **fields: Any,
) -> Book:
    """Pool p, made of these pods."""
    return book(
        *jobs,
        pools=fields.pop("pools", [OWN]),
        replicas=replicas or {},
        pods={f"p/{name}": found for name, found in pods.items()},
        deployments={} if wanted is None else {"p": wanted},
        refused={"p": refused} if refused else {},
        **fields,
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
    found = book(pools=[managed("p"), managed("q")], replicas={}, pods={"p/b": READY, "q/a": READY, "p/a": PENDING})
    assert [one.name for one in view(found, MOMENT).pods["p"]] == ["a", "b"]


def test_members_are_endpoints_or_the_pods_whose_runners_have_shown_themselves() -> None:
    replicas = {"p/a": replica(), "e/gone": replica(), "x/y": replica()}
    found = book(pools=[managed("p"), pool("e", ["r0", "r1"])], replicas=replicas)
    assert view(found, MOMENT).members == {
        "p": [ReplicaKey("p", "a")],
        "e": [ReplicaKey("e", "r0"), ReplicaKey("e", "r1")],
    }


@pytest.mark.parametrize(
    ("pods", "wanted", "refused", "reason", "words"),
    [
        ({}, None, "", Reason.POOL_EMPTY, "it has no replica."),
        ({}, 0, "", Reason.POOL_EMPTY, "it has no replica."),
        ({}, 2, "", Reason.POOL_STARTING, "0 of 2 pods are ready."),
        ({"a": READY, "b": pod()}, 2, "", Reason.POOL_STARTING, "1 of 2 pods are ready."),
        ({"a": READY, "b": PENDING}, 2, "", Reason.UNSCHEDULABLE, "Insufficient nvidia.com/gpu"),
        ({"a": PULLING}, 1, "The API server refuses it.", Reason.TEMPLATE_REFUSED, "refuses it."),
    ],
)
def test_why_a_managed_pool_has_no_live_replica(
    pods: dict[str, Pod], wanted: int | None, refused: str, reason: Reason, words: str
) -> None:
    found = with_pods(pods, job(), wanted=wanted, refused=refused)
    seen = view(found, MOMENT)
    verdict = missing(found, seen, found.pools["p"], MOMENT)
    assert verdict.reason is reason
    assert words in verdict.note
    # The job that waits has the same reason.
    (shape,) = found.agenda.pending.classes
    obstacle = eligible(found, seen, shape, model(), MOMENT)
    assert isinstance(obstacle, Obstacle)
    assert obstacle.reason is (Reason.POOL_NOT_READY if REASONS[reason].summarised else reason)
    assert obstacle.message == f"GPUPool p: {verdict.note}"


def waits(found: Book) -> list[Wait]:
    """What is decided on the jobs, which get no replica."""
    decisions = decided(found)
    assert all(isinstance(one, Wait) for one in decisions)
    return [one for one in decisions if isinstance(one, Wait)]


def test_the_obstacle_of_a_live_replica_goes_before_its_pools() -> None:
    found = with_pods(
        {"a": READY, "b": PENDING}, job(), wanted=2, replicas={"p/a": replica(store_error="The store is shut.")}
    )
    (wait,) = waits(found)
    assert (wait.reason, wait.message) == (Reason.POOL_NOT_READY, "GPUPool p: The store is shut.")


def places(found: Book) -> list[str]:
    """The replicas that jobs are given to, in order."""
    return [one.replica.name for one in decided(found) if isinstance(one, Assign)]


def test_jobs_per_replica_bound_the_slots_that_a_pod_reports() -> None:
    assert places(with_pods({"a": READY}, *map(job, "abc"), replicas={"p/a": replica(slots=64)})) == ["a", "a"]


def test_a_replica_that_has_the_model_loaded_comes_before_one_that_has_unloaded_it() -> None:
    unloaded = replica(models=(loaded(state=ModelState.UNLOADED),))
    found = with_pods({"a": READY, "b": READY}, *map(job, "abcd"), replicas={"p/a": unloaded, "p/b": replica()})
    assert places(found) == ["b", "b", "a", "a"]


@pytest.mark.parametrize("pods", [{"a": pod(), "b": pod()}, {"a": PENDING}, {"a": LOOPING}, {"a": PULLING}])
def test_a_job_that_waits_for_pods_is_written_once_for_a_reason(pods: dict[str, Pod]) -> None:
    """However many of the pods have come so far: ten thousand jobs may wait for a hundred of them."""
    (wait,) = waits(with_pods(pods, job(), wanted=2))
    waiting = job(reason=wait.reason.value, message=wait.message)
    assert waits(with_pods({**pods, "c": READY}, waiting, wanted=3)) == []


@pytest.mark.parametrize(
    ("found", "ready", "reason"),
    [
        pytest.param(with_pods({}), True, Reason.SCALED_TO_ZERO, id="no job, no replica"),
        pytest.param(with_pods({}, pools=[managed(paused=True)]), False, Reason.POOL_EMPTY, id="paused at zero"),
        pytest.param(with_pods({"a": pod()}, job(), wanted=1), False, Reason.POOL_STARTING, id="on its way"),
        pytest.param(
            with_pods({"a": READY}, wanted=1, replicas={"p/a": replica()}), True, Reason.READY, id="a replica serves"
        ),
        pytest.param(
            with_pods({"a": READY}, wanted=1, refused="It is no good.", replicas={"p/a": replica()}),
            True,
            Reason.READY,
            id="one of before serves, though the template is refused",
        ),
    ],
)
def test_whether_a_managed_pool_can_be_used(found: Book, ready: bool, reason: Reason) -> None:
    (decision,) = statuses(found)
    condition = find(decision.status.conditions, ConditionType.READY)
    assert condition is not None
    assert (condition.status == "True", condition.reason) == (ready, reason)


def test_what_a_managed_pool_shows() -> None:
    found = with_pods(
        {"a": READY, "b": PENDING},
        held("one", replica="a", pool="p"),
        *(job(name, seconds=300.0 / 16) for name in "xyz"),
        wanted=2,
        replicas={"p/a": replica()},
        models=[model()],
    )
    (decision,) = statuses(found)
    status = decision.status
    counts = (status.desired_replicas, status.replicas, status.ready_replicas, status.loading_replicas)
    assert counts == (2, 2, 1, 1)
    assert (status.busy_replicas, status.running_jobs, status.waiting_jobs) == (1, 1, 3)
    assert status.backlog_seconds == float(f"{status.backlog_seconds:.2g}") > 100
    states = {condition.type: (condition.status, condition.reason) for condition in status.conditions}
    assert states[ConditionType.PODS_SCHEDULED] == ("False", Reason.UNSCHEDULABLE)
    assert states[ConditionType.IMAGES_PULLED] == ("True", Reason.PULLED)
    assert states[ConditionType.SCALING_ACTIVE][0] == "True"
    assert status.selector == "videojob.dev/pool=p,videojob.dev/component=replica"
