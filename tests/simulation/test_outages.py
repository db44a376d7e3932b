"""What an API server that is away costs, and that the histories would show it."""

from unittest.mock import patch

import pytest

from tests.simulation.outage import TAKEN_BACK_SECONDS, outage
from videojob.planner.liveness import Liveness

SECONDS = (3.0, 9.0, 20.0, 60.0, 300.0)


@pytest.mark.parametrize("detail", ["refused", "frozen"])
@pytest.mark.parametrize("seconds", SECONDS)
def test_an_outage_costs_no_attempt_and_no_chunk(seconds: float, detail: str) -> None:
    cost = outage(seconds, detail)

    assert not cost.outcome.faults, cost.outcome
    assert (cost.lost, cost.twice) == (0, 0)


def test_a_leader_whose_watches_stand_still_takes_no_job() -> None:
    cost = outage(0.0, "", blind=200.0)

    assert not cost.outcome.faults, cost.outcome
    assert (cost.lost, cost.twice) == (0, 0)


@pytest.mark.parametrize("seconds", SECONDS[1:])
def test_the_job_of_a_runner_that_died_meanwhile_is_taken_back_soon(seconds: float) -> None:
    cost = outage(seconds, "refused", kill=True)

    assert not cost.outcome.faults, cost.outcome
    assert (cost.lost, cost.twice) == (0, 0)
    assert cost.taken_back is not None
    assert cost.taken_back <= TAKEN_BACK_SECONDS


def test_silence_that_counts_as_death_would_be_found() -> None:
    with patch.multiple(Liveness, _suspected=lambda *_: True, _confirmed=lambda *_: True):
        cost = outage(0.0, "", blind=200.0)

    assert cost.lost > 0
    assert any("is taken from" in fault for fault in cost.outcome.faults)
