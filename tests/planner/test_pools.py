"""What is decided on managed pools: one rule a row."""

import pytest

from tests.planner.builders import MONO, begun, book, held, job, key, managed, pod, pool
from tests.planner.pool_world import (
    AT_ONCE,
    DRAINED,
    EXTERNAL,
    asked,
    at,
    briefly,
    carry_out,
    drains,
    idle,
    planned,
    settled,
    world,
)
from videojob.planner.book import Book
from videojob.planner.decisions import Assign, Drain
from videojob.planner.removal import SCALE_DOWN

HURRIED = managed(scaling=AT_ONCE | {"target_seconds": 10})
CHEAP = {"p/a": pod(), "p/b": pod(deletion_cost=-1000)}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(world(wanted=0), [], id="as it should be"),
        pytest.param(book(pools=[managed()], replicas={}), ["apply 0"], id="a new pool gets its Deployment"),
        pytest.param(
            book(pools=[managed(scaling={"min_replicas": 2})], replicas={}),
            ["apply 2"],
            id="with as many as it has least",
        ),
        pytest.param(world(job(), wanted=0), ["apply 1"], id="a job brings a replica"),
        pytest.param(world(job(), wanted=0, own=managed(paused=True)), [], id="not while the pool is paused"),
        pytest.param(book(job(), pools=[pool()]), [], id="endpoints have no Deployment"),
        # On the way down.
        pytest.param(
            world(held(replica="a"), wanted=2, replicas={"a": idle(), "b": idle()}),
            ["drain b"],
            id="the idle one drains",
        ),
        pytest.param(
            world(held(replica="a"), wanted=2, replicas={"a": idle(), "b": asked()}),
            [],
            id="its runner has not reported it",
        ),
        pytest.param(
            world(held("x", "a"), held("y", "b"), wanted=2, replicas={"a": idle(), "b": idle()}),
            [],
            id="one with a job is never asked",
        ),
        pytest.param(
            world(held(replica="a"), wanted=2, replicas={"a": idle(), "b": DRAINED}),
            ["cost a 1000", "cost b -1000"],
            id="one that has drained gets the lowest cost before the number is lowered",
        ),
        pytest.param(
            world(held(replica="a"), wanted=2, replicas={"a": idle(), "b": DRAINED}, pods=CHEAP),
            ["cost a 1000", "apply 1"],
            id="the costs of the others are not waited for",
        ),
        pytest.param(
            world(
                held(replica="a"),
                wanted=2,
                replicas={"a": idle(), "b": DRAINED},
                pods={"p/a": pod(deletion_cost=-1000), "p/b": pod(deletion_cost=-1000)},
            ),
            ["cost a 1000"],
            id="unless Kubernetes would take one of them",
        ),
        pytest.param(
            world(held(replica="a"), wanted=1, replicas={"a": idle(), "b": DRAINED}, pods=CHEAP),
            [],
            id="after that it stays drained until its pod is gone",
        ),
        pytest.param(
            world(
                held(replica="a"),
                wanted=2,
                replicas={"a": idle(), "b": asked("maintenance", draining=True)},
                pods=CHEAP,
            ),
            ["cost a 1000", "apply 1"],
            id="one that a person has drained goes as well",
        ),
        pytest.param(
            world(held(replica="a"), wanted=2, replicas={"a": idle(), "b": idle(live=False)}, pods=CHEAP),
            ["cost a 1000", "apply 1"],
            id="one without a heartbeat is not asked",
        ),
        pytest.param(
            world(held(replica="a"), wanted=4, replicas={"a": idle()}),
            ["cost a 1000", "apply 1"],
            id="pods that were never made are not waited for",
        ),
        pytest.param(
            world(held("x", "a"), held("y", "b", chunks_done=0), wanted=2, replicas={"a": idle(), "b": asked()}),
            ["undrain b"],
            id="a drain that came too late for a job is taken back",
        ),
        pytest.param(
            world(held(replica="a"), job("b"), wanted=2, own=HURRIED, replicas={"a": idle(), "b": asked()}),
            ["undrain b"],
            id="a job that needs it takes the drain back",
        ),
        pytest.param(
            world(
                held(replica="a"), job("b"), wanted=2, own=HURRIED, replicas={"a": idle(), "b": asked("maintenance")}
            ),
            [],
            id="but never a person's",
        ),
        # Mode External.
        pytest.param(
            world(wanted=0, own=managed(scaling=EXTERNAL, replicas=3)), ["apply 3"], id="a person's number is applied"
        ),
        pytest.param(
            world(wanted=2, own=managed(scaling=EXTERNAL, replicas=1), replicas={"a": idle(), "b": idle()}),
            ["drain a"],
            id="also on the way down one drains first",
        ),
        pytest.param(
            book(pools=[managed(scaling=EXTERNAL | {"min_replicas": 2})], replicas={}),
            ["apply 2"],
            id="an autoscaler's Deployment is made",
        ),
        pytest.param(
            world(
                held(replica="a"),
                wanted=3,
                own=managed(scaling=EXTERNAL),
                replicas={"a": idle()},
                pods={"p/a": pod(deletion_cost=1000)},
            ),
            [],
            id="its number is left alone",
        ),
        pytest.param(
            settled(book(pools=[managed(scaling=EXTERNAL)], replicas={}), 3),
            ["keep"],
            id="the number is kept before we cease to own it",
        ),
        pytest.param(
            world(wanted=1, own=managed(scaling=EXTERNAL), replicas={"a": asked()}, pods={"p/a": pod(deletion_cost=1)}),
            ["undrain a"],
            id="what we have asked to drain serves again",
        ),
    ],
)
def test_what_is_decided(found: Book, expected: list[str]) -> None:
    assert briefly(planned(found)) == expected


def test_a_busy_target_is_left_alone() -> None:
    """A write that is under way, or has just failed, on the Deployment, on the Lease or on the pod."""

    def found() -> Book:
        return world(held(replica="a"), wanted=2, replicas={"a": idle(), "b": DRAINED}, pods=CHEAP)

    for target, expected in {
        ("deployment", "p"): ["cost a 1000"],
        ("pod", "p", "a"): ["apply 1"],
        ("pod", "p", "b"): ["cost a 1000"],  # What it costs is not known for certain.
        ("lease", "p", "b"): [],  # Whether it drains is not known for certain.
        ("job", "uid-a"): ["cost a 1000", "apply 1"],
    }.items():
        one = found()
        one.rest(target, MONO + 5)
        assert briefly(planned(one)) == expected, target
        assert briefly(planned(one, at(6))) == ["cost a 1000", "apply 1"], target
    asked_before = world(held(replica="a"), wanted=2, replicas={"a": idle(), "b": idle()})
    asked_before.begin(Drain(key("p/b"), SCALE_DOWN))
    assert briefly(planned(asked_before)) == []


def test_a_replica_that_is_getting_a_job_is_not_asked_to_drain() -> None:
    found = world(held(replica="a"), job("b"), wanted=2, replicas={"a": idle(), "b": idle()})
    assert briefly(planned(found)) == ["drain b"]
    found.begin(Assign(found.jobs["uid-b"], key("p/b"), begun().resolved, "file:///store"))  # type: ignore[arg-type]
    assert briefly(planned(found)) == []


def test_what_is_asked_to_drain_gets_no_job_of_the_same_plan() -> None:
    found = planned(world(held(replica="a"), wanted=3, replicas={"a": idle(), "b": idle(), "c": asked()}))
    assert briefly(found) == ["drain b"]
    assert found.leaving == {key("p/b")}
    back = world(held("x", "a"), held("y", "b", chunks_done=0), wanted=2, replicas={"a": idle(), "b": asked()})
    assert planned(back).leaving == frozenset()


def test_from_two_replicas_to_one_step_by_step() -> None:
    found = world(held(replica="a"), wanted=2, replicas={"a": idle(), "b": idle()})
    assert carry_out(found, planned(found)) == ["drain b"]
    assert carry_out(found, planned(found)) == []
    drains(found, "p/b")
    assert carry_out(found, planned(found)) == ["cost a 1000", "cost b -1000"]
    assert carry_out(found, planned(found)) == ["apply 1"]
    # kube-controller-manager takes its time: until the pod is gone, it stays as it is.
    assert carry_out(found, planned(found)) == []
    found.drop_pod(key("p/b"))
    found.drop_beat(key("p/b"), MONO, left=True)
    assert carry_out(found, planned(found)) == []
