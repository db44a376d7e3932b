"""Which replicas go when a pool shrinks."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planner.builders import ago
from videojob.planner.removal import Candidate, deletion_costs, victims


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
    costs = deletion_costs(pods)
    assert sorted(costs, key=costs.__getitem__) == ["drained", "idle", "useful", "busy"]


def test_one_that_still_hands_back_its_job_is_not_drained_yet() -> None:
    costs = deletion_costs([pod("handing", jobs=1, draining=True), pod("idle")])
    assert costs["handing"] > costs["idle"]


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
    costs = deletion_costs(pods)
    ranks = {one.name: 2 if one.jobs else 0 if one.draining else 1 for one in pods}
    for one in pods:
        assert all(costs[one.name] < costs[other.name] for other in pods if ranks[one.name] < ranks[other.name])
