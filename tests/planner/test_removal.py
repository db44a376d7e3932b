"""Which replicas go when a pool shrinks."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planner import builders
from tests.planner.builders import MOMENT, ago, book, held, loaded, managed, replica
from videojob.api.replica import ModelState
from videojob.planner.draining import DRAINED_COST
from videojob.planner.removal import (
    BUSY_COST,
    IDLE_COST,
    SCALE_DOWN,
    Candidate,
    candidates_of,
    deletion_costs,
    victims,
)
from videojob.planner.view import view


def pod(name: str, **fields: Any) -> Candidate:
    defaults: dict[str, Any] = {"created": ago(100), "models": 1}
    return Candidate(name, **defaults | fields)


@pytest.mark.parametrize(
    ("pods", "count", "expected"),
    [
        pytest.param([pod("a"), pod("b")], 0, "", id="none is asked for"),
        pytest.param([pod("a"), pod("b")], -1, "", id="nor less than none"),
        pytest.param([pod("b"), pod("a")], 1, "a", id="of equal ones the first by name"),
        pytest.param([pod("a", jobs=1), pod("b")], 2, "b", id="a busy one stays, even if more were to go"),
        pytest.param([pod("a"), pod("b", ready=False)], 1, "b", id="one that is not ready goes first"),
        pytest.param([pod("a", models=2), pod("b")], 1, "b", id="then the one with fewer models loaded"),
        pytest.param([pod("a"), pod("b", created=ago(10))], 1, "b", id="then the youngest"),
        pytest.param([pod("a", models=0), pod("b", ready=False, models=3)], 2, "b a", id="they come in order"),
        pytest.param([pod("a", ready=False), pod("b", draining=True)], 1, "b", id="one that drains was chosen before"),
        pytest.param(
            [pod("a"), pod("b", draining=True, jobs=1)], 1, "b", id="also while it still hands back what it holds"
        ),
    ],
)
def test_who_goes(pods: list[Candidate], count: int, expected: str) -> None:
    assert victims(pods, count) == tuple(expected.split())


def test_kubernetes_takes_drained_ones_first_and_busy_ones_last() -> None:
    pods = [pod("busy", jobs=1), pod("useful", models=3), pod("idle"), pod("drained", draining=True)]
    costs = deletion_costs(pods, ())
    assert sorted(costs, key=costs.__getitem__) == ["drained", "idle", "useful", "busy"]


def test_one_that_gets_no_job_any_more_is_as_cheap_as_one_that_was_asked_to_drain() -> None:
    costs = deletion_costs([pod("silent"), pod("idle"), pod("busy", jobs=1)], {"silent", "busy"})
    assert (costs["silent"], costs["idle"], costs["busy"]) == (DRAINED_COST, IDLE_COST + 1, BUSY_COST)


def test_one_that_still_hands_back_its_job_is_not_drained_yet() -> None:
    costs = deletion_costs([pod("handing", jobs=1, draining=True), pod("idle")], ())
    assert costs["handing"] > costs["idle"]


def test_candidates_are_the_pods_that_stay_with_what_their_replicas_hold() -> None:
    drained = replica(drain_reason=SCALE_DOWN, draining=True)
    unloaded = replica(models=(loaded(state=ModelState.UNLOADED),))
    found = book(
        held("x", "a"),
        held("y", "a", chunks_done=0),
        pools=[managed(), managed("q")],
        replicas={
            "p/a": replica(),
            "p/b": drained,
            "p/c": unloaded,
            "p/d": replica(live=False, drain_reason=SCALE_DOWN),
            "p/e": replica(lost=True, drain_reason=SCALE_DOWN),
            "p/f": replica(drain_reason="maintenance", draining=True),
            "q/a": replica(),
        },
        pods={
            **{f"p/{name}": builders.pod() for name in "abcdef"},
            "p/new": builders.pod(ready_since=None),
            "p/ending": builders.pod(ending=True),
            "q/a": builders.pod(),
        },
    )
    assert candidates_of("p", view(found, MOMENT)) == [
        pod("a", created=ago(60), jobs=2),
        pod("b", created=ago(60), draining=True),
        pod("c", created=ago(60), models=0),
        pod("d", created=ago(60), models=0, draining=True),
        pod("e", created=ago(60), models=0),
        pod("f", created=ago(60)),
        pod("new", created=ago(60), models=0, ready=False),
    ]


PODS = st.lists(
    st.builds(
        Candidate,
        name=st.text("abc", min_size=1, max_size=3),
        created=st.integers(0, 3).map(ago),
        jobs=st.integers(0, 2),
        ready=st.booleans(),
        models=st.integers(0, 200),
        draining=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda one: one.name,
)


@given(PODS, st.integers(-1, 7))
def test_no_busy_replica_is_chosen_and_choices_are_stable(pods: list[Candidate], count: int) -> None:
    chosen = victims(pods, count)
    by_name = {one.name: one for one in pods}
    assert len(chosen) <= max(count, 0)
    assert all(by_name[name].jobs == 0 or by_name[name].draining for name in chosen)
    assert victims(list(reversed(pods)), count) == chosen
    draining = [one._replace(draining=True) if one.name in chosen else one for one in pods]
    assert set(victims(draining, count)) == set(chosen)


@given(PODS)
def test_a_drained_replica_costs_less_than_an_idle_one_and_that_less_than_a_busy_one(pods: list[Candidate]) -> None:
    costs = deletion_costs(pods, ())
    ranks = {one.name: 2 if one.jobs else 0 if one.draining else 1 for one in pods}
    for one in pods:
        assert all(costs[one.name] < costs[other.name] for other in pods if ranks[one.name] < ranks[other.name])
