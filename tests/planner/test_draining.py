"""Which replicas must not get another job, as a table."""

from dataclasses import replace
from typing import Any

import pytest

from tests.planner.builders import ago, held, pool, replica
from videojob.api.gpupool import PAUSED_ANNOTATION, GPUPool, GPUPoolSpec, Scaling, ScalingMode
from videojob.planner.draining import with_pods
from videojob.planner.snapshot import Pod, ReplicaKey

READY = Pod(uid="u", created=ago(60), ready_since=ago(30))


def pod_pool(paused: bool = False, replicas: int | None = None, **scaling: Any) -> GPUPool:
    """Pool p, made of pods."""
    made = pool("p")
    rest = made.spec.model_dump(exclude={"endpoints"}) | {"scaling": Scaling(**scaling), "replicas": replicas}
    annotations = {PAUSED_ANNOTATION: "true"} if paused else {}
    metadata = made.metadata.model_copy(update={"annotations": annotations})
    return made.model_copy(update={"spec": GPUPoolSpec(**rest), "metadata": metadata})


def draining(found: GPUPool, busy: str = "", asked: str = "", pods: dict[str, Pod] | None = None) -> str:
    """Which of the replicas a, b and c count as draining."""
    replicas = {ReplicaKey("p", name): replica(draining=name in asked) for name in "abc"}
    known = (
        {ReplicaKey("p", name): READY for name in "abc"}
        if pods is None
        else {ReplicaKey("p", name): one for name, one in pods.items()}
    )
    seen = with_pods(replicas, known, {"p": found}, [held(f"job-{name}", name) for name in busy])
    return "".join(key.name for key, one in seen.items() if one.draining)


@pytest.mark.parametrize(
    ("found", "busy", "asked", "expected"),
    [
        (pod_pool(max_replicas=3), "abc", "", ""),
        (pod_pool(max_replicas=1), "", "", "ab"),
        # Those with a job come last, so that what is free goes at once.
        (pod_pool(max_replicas=2), "ab", "", "c"),
        (pod_pool(max_replicas=1), "abc", "", "ab"),
        # One that was asked to drain is one of those that go.
        (pod_pool(max_replicas=2), "ab", "b", "b"),
        (pod_pool(max_replicas=1, mode=ScalingMode.EXTERNAL, replicas=2), "abc", "", "a"),
        (pod_pool(max_replicas=1, mode=ScalingMode.EXTERNAL), "abc", "", ""),
        (pod_pool(max_replicas=1, paused=True), "abc", "", ""),
    ],
)
def test_replicas_beyond_the_maximum_take_no_more_jobs(found: GPUPool, busy: str, asked: str, expected: str) -> None:
    assert draining(found, busy, asked) == expected


def test_replicas_whose_pods_end_or_are_gone_take_no_more_jobs() -> None:
    ending = replace(READY, ending=True)
    assert draining(pod_pool(max_replicas=2), pods={"a": READY, "b": ending}) == "bc"


def test_replicas_of_a_pool_of_endpoints_need_no_pod() -> None:
    assert draining(pool("p", ["a", "b", "c"]), pods={}) == ""


def test_a_replica_that_was_chosen_to_go_takes_no_more_jobs() -> None:
    key = ReplicaKey("p", "a")
    seen = with_pods({key: replica()}, {key: READY}, {"p": pod_pool()}, [], {key})
    assert seen[key].draining
