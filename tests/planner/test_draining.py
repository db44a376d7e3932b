"""Which replicas must not get another job, as a table."""

from dataclasses import replace

import pytest

from tests.planner.builders import MOMENT, book, held, key, managed, pod, pool, replica
from videojob.api.gpupool import GPUPool
from videojob.planner.decisions import Drain
from videojob.planner.draining import DRAINED_COST
from videojob.planner.facts import Pod
from videojob.planner.view import view

READY = pod()


def most(replicas: int) -> GPUPool:
    """Pool p of at most so many replicas."""
    return managed(scaling={"max_replicas": replicas})


def draining(
    found: GPUPool, busy: str = "", asked: str = "", pods: dict[str, Pod] | None = None, being_asked: str = ""
) -> str:
    """Which of the replicas a, b and c count as draining."""
    made = book(
        *(held(f"job-{name}", name) for name in busy),
        pools=[found],
        replicas={f"p/{name}": replica(draining=name in asked) for name in "abc"},
        pods=None if pods is None else {f"p/{name}": one for name, one in pods.items()},
    )
    for name in being_asked:
        made.begin(Drain(key(f"p/{name}"), "ScaleDown"))
    return "".join(key.name for key, one in view(made, MOMENT).replicas.items() if one.draining)


@pytest.mark.parametrize(
    ("found", "busy", "asked", "expected"),
    [
        (most(3), "abc", "", ""),
        (most(1), "", "", "ab"),
        # Those with a job come last, so that what is free goes at once.
        (most(2), "ab", "", "c"),
        (most(1), "abc", "", "ab"),
        # One that was asked to drain is one of those that go.
        (most(2), "ab", "b", "b"),
        (managed(scaling={"mode": "External"}, replicas=2), "abc", "", "a"),
        (managed(scaling={"mode": "External"}), "abc", "", ""),
        (managed(scaling={"max_replicas": 1}, paused=True), "abc", "", ""),
    ],
)
def test_replicas_beyond_the_maximum_take_no_more_jobs(found: GPUPool, busy: str, asked: str, expected: str) -> None:
    assert draining(found, busy, asked) == expected


def test_replicas_whose_pods_end_or_are_gone_take_no_more_jobs() -> None:
    ending = replace(READY, ending=True)
    assert draining(most(2), pods={"a": READY, "b": ending}) == "bc"


def test_replicas_of_a_pool_of_endpoints_need_no_pod() -> None:
    assert draining(pool("p", ["a", "b", "c"]), pods={}) == ""


CHEAP = pod(deletion_cost=DRAINED_COST)


@pytest.mark.parametrize(
    ("wanted", "pods", "expected"),
    [
        (2, {"a": READY, "b": CHEAP, "c": READY}, "b"),
        # It has come back into the number that is wanted.
        (3, {"a": READY, "b": CHEAP, "c": READY}, ""),
        # A pod of a rollout, beside those that it will replace.
        (2, {"a": READY, "b": READY, "c": READY}, ""),
        (2, {"a": READY, "b": CHEAP, "c": replace(READY, ending=True)}, "c"),
    ],
)
def test_a_replica_that_kubernetes_is_about_to_remove_takes_no_more_jobs(
    wanted: int, pods: dict[str, Pod], expected: str
) -> None:
    """One that was lost when the number was lowered may show itself again before its pod is gone."""
    made = book(
        pools=[most(3)],
        replicas={f"p/{name}": replica() for name in "abc"},
        pods={f"p/{name}": one for name, one in pods.items()},
        deployments={"p": wanted},
    )
    assert "".join(key.name for key, one in view(made, MOMENT).replicas.items() if one.draining) == expected


def test_a_replica_that_is_being_asked_to_drain_takes_no_more_jobs() -> None:
    assert draining(most(3), being_asked="b") == "b"
