"""When a pool's Deployment is written, and what is remembered of it."""

from dataclasses import replace

import pytest

from tests.planner.builders import MONO, NOW, book, held, job, key, managed, pod
from tests.planner.pool_world import (
    EXTERNAL,
    at,
    briefly,
    carry_out,
    idle,
    make_without_image,
    planned,
    plans,
    settled,
    statuses,
    world,
)
from videojob.api.gpupool import GPUPoolStatus, LastScaling
from videojob.planner.book import Book
from videojob.planner.decisions import Resize, SetPoolStatus
from videojob.planner.liveness import Beat
from videojob.planner.memory import Refusal
from videojob.planner.pools import REFUSED_SECONDS, PoolPlan, applied, cold_started, refused
from videojob.planner.scaling import ScalingReason


def test_a_changed_deployment_is_applied_again_and_an_unchanged_one_is_not() -> None:
    found = world(wanted=1, own=managed(scaling={"min_replicas": 1}), replicas={"a": idle()})
    assert briefly(planned(found)) == []
    # Somebody edits it.
    found.put_deployment("p", replace(found.deployments["p"], generation=9, version=9))
    assert carry_out(found, planned(found)) == ["apply 1"]
    assert briefly(planned(found)) == []
    # The pool's template changes.
    own = found.pools["p"]
    template = own.spec.template.model_copy(update={"runner_image": "runner:2"})
    spec = own.spec.model_copy(update={"template": template})
    metadata = own.metadata.model_copy(update={"resource_version": "2", "generation": 2})
    found.put_pool(own.model_copy(update={"spec": spec, "metadata": metadata}))
    assert carry_out(found, planned(found)) == ["apply 1"]
    # It is deleted.
    found.drop_deployment("p")
    assert briefly(planned(found)) == ["apply 1"]


def refuse(found: Book, at_: float = MONO) -> Book:
    """The book, after the API server has refused the Deployment of pool p."""
    found.remember({"p": refused(found.memories["p"], found.pools["p"], "spec is no good", at_)})
    return found


def changed(found: Book) -> Book:
    """The book, after the spec of pool p has changed."""
    own = found.pools["p"]
    found.put_pool(
        own.model_copy(update={"metadata": own.metadata.model_copy(update={"resource_version": "2", "generation": 2})})
    )
    return found


@pytest.mark.parametrize(
    ("found", "seconds", "expected"),
    [
        (refuse(book(pools=[managed()], replicas={}, deployments={"p": 1})), 0, []),
        (refuse(book(pools=[managed()], replicas={}, deployments={"p": 1})), REFUSED_SECONDS - 0.1, []),
        (refuse(book(pools=[managed()], replicas={}, deployments={"p": 1})), REFUSED_SECONDS, ["apply 1"]),
        (changed(refuse(book(pools=[managed()], replicas={}, deployments={"p": 1}))), 0, ["apply 1"]),
        (refuse(book(job(), pools=[managed()], replicas={}, deployments={"p": 0})), 0, ["resize 1"]),
        (refuse(book(job(), pools=[managed()], replicas={})), 0, []),
    ],
    ids=["refused", "it rests", "it is tried again", "another spec", "the size is not frozen", "there is none"],
)
def test_a_refused_deployment_rests_and_the_size_goes_on(found: Book, seconds: float, expected: list[str]) -> None:
    plan = planned(found, at(seconds))
    assert briefly(plan) == expected
    if seconds < REFUSED_SECONDS and found.pools["p"].metadata.generation == 1:
        assert plan.wake_seconds == pytest.approx(REFUSED_SECONDS - seconds)


def test_a_refused_template_that_is_put_back_is_no_trouble_any_more() -> None:
    found = refuse(world(wanted=0), MONO - 60)
    plan = planned(found)
    assert briefly(plan) == []
    assert plan.memory.refused is None


def test_a_pool_without_an_image_reports_it_and_keeps_its_size_up_to_date() -> None:
    found = book(job(), pools=[managed()], replicas={}, deployments={"p": 0})
    plan = planned(found, making=make_without_image)
    assert briefly(plan) == ["resize 1"]
    assert plan.memory.refused == Refusal(
        "There is no image for triton: set spec.template.image, or the operator's --triton-image.", MONO, 1
    )
    assert plan.wake_seconds == REFUSED_SECONDS


def test_one_pool_that_cannot_be_made_is_a_fault_of_its_own() -> None:
    """`cycle` reports it and goes on; here is nothing that would hide it."""
    with pytest.raises(ZeroDivisionError):
        planned(book(pools=[managed()], replicas={}), making=lambda *_: 1 / 0)


def test_costs_of_a_pool_that_somebody_else_scales_change_at_most_once_a_minute() -> None:
    """However many jobs come and go."""
    own = managed(scaling=EXTERNAL)
    found = world(wanted=2, own=own, replicas={"a": idle(), "b": idle()}, pods={"p/a": pod(), "p/b": pod()})
    for name in ("p/a", "p/b"):
        found.put_beat(key(name), Beat(idle(), seen=MONO, seconds=1000))
    written: dict[int, list[str]] = {}
    for second in range(180):
        found.drop_job(f"uid-j{second - 1}")
        found.put_job(held(f"j{second}", "ab"[second // 7 % 2], version=second + 1))
        plan = planned(found, at(second))
        assert plan.wake_seconds is None or 0 < plan.wake_seconds <= 60
        if briefly(plan):
            written[second] = carry_out(found, plan)
    assert written == {
        0: ["cost a 1000", "cost b 1"],
        63: ["cost a 1", "cost b 1000"],
        126: ["cost a 1000", "cost b 1"],
    }


def test_a_pool_is_handed_to_somebody_else_without_losing_its_replicas() -> None:
    found = settled(book(pools=[managed(scaling=EXTERNAL)], replicas={}), 3)
    assert carry_out(found, planned(found)) == ["keep"]
    plan = planned(found)
    assert briefly(plan) == ["apply None"]
    carry_out(found, plan)
    assert briefly(planned(found)) == []
    assert found.deployments["p"].wanted == 3
    assert (plan.scaling.wanted, plan.scaling.reason) == (3, ScalingReason.EXTERNAL)
    # It scales: the Deployment is looked at once, and its number is not ours.
    known = found.deployments["p"]
    found.put_deployment("p", replace(known, wanted=7, generation=8, version=8))
    assert carry_out(found, planned(found)) == ["apply None"]
    assert found.deployments["p"].wanted == 7


def test_a_scaling_is_remembered_once_it_was_written() -> None:
    found = world(job(), wanted=0)
    plan = planned(found)
    (decision,) = plan.decisions
    scaling = LastScaling(
        time=NOW,
        from_replicas=0,
        to_replicas=1,
        reason="ActivatedFromZero",
        message="1 job with a backlog of 50 s and no replica: 1 replica for targetSeconds (600 s).",
    )
    assert decision.scaling == scaling  # type: ignore[union-attr]
    assert plan.memory.last_scaling is None
    assert applied(plan.memory, decision, 5).last_scaling == scaling  # type: ignore[arg-type]
    deployed = found.deployments["p"]
    unchanged = Resize(found.pools["p"], deployed, deployed.wanted)
    kept = applied(replace(plan.memory, last_scaling=scaling), unchanged, 5)
    assert kept.last_scaling == scaling


def test_what_cannot_be_read_is_not_decided_on() -> None:
    found = world(job(), wanted=0)
    found.put_unreadable("gpupools", "uid-p", "spec.scaling.mode: Input should be 'Backlog' or 'External'")
    assert planned(found) == PoolPlan(found.memories["p"], planned(found).scaling)
    assert statuses(found) == []


def test_cold_starts_count_three_tenths() -> None:
    memory = cold_started(book().memories["p"], 100)
    assert memory.cold_start_seconds == 100
    assert cold_started(memory, 200).cold_start_seconds == pytest.approx(130)


STATUS = GPUPoolStatus.model_validate(
    {
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
)


def test_a_successor_writes_no_emptier_status_than_there_is() -> None:
    own = [managed(name).model_copy(update={"status": STATUS}) for name in "abc"]
    found = book(pools=own, replicas={})
    written = statuses(found)
    assert [one.pool.metadata.name for one in written] == ["a", "b", "c"]
    for one in written:
        assert one.status.cold_start_seconds == STATUS.cold_start_seconds
        assert one.status.estimates == STATUS.estimates
        assert one.status.last_scaling == STATUS.last_scaling


def test_plans_of_pools_do_not_depend_on_each_other() -> None:
    found = book(job(), pools=[managed("a"), managed("b")], replicas={})
    assert {name: briefly(plan) for name, plan in plans(found).items()} == {"a": ["apply 1"], "b": ["apply 0"]}
    status = statuses(found)
    assert all(isinstance(one, SetPoolStatus) for one in status)
