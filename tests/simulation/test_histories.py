"""Seeded histories of faults on the whole operator, in virtual time. `make bench` runs many more."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from tests.simulation.attempt import Settings
from tests.simulation.history import history, play
from tests.simulation.network import Faults
from tests.simulation.scenario import MODEL, Happening, JobPlan, Managed, PoolPlan, Scenario
from videojob.controller import effects
from videojob.planner import pools as planned_pools
from videojob.planner.book import Book
from videojob.planner.removal import Candidate, candidates_of
from videojob.planner.view import View
from videojob.store import JobStore

SEEDS = (
    *range(300),
    *(432, 2288, 2379, 2934, 3468, 3469, 4038, 4928, 5571, 8510, 9964, 12281, 12594, 12868, 13035, 15850, 18091),
)
"""The last ones have found faults, in the operator or in the simulation."""
PROCESSES = min(4, os.cpu_count() or 1)


@pytest.mark.timeout(900)
def test_whatever_goes_wrong_no_job_is_lost() -> None:
    """Nor assigned twice, nor failed for no reason; and all comes to rest."""
    with ProcessPoolExecutor(PROCESSES) as processes:
        wrong = [outcome for outcome in processes.map(history, SEEDS, chunksize=5) if outcome.faults]

    assert not wrong, "\n".join(str(outcome) for outcome in wrong)


def test_a_seed_replays_its_history_exactly() -> None:
    """Also in another process, whose sets have another order."""
    seed = 28
    code = (
        "import hashlib; from tests.simulation.history import history; "
        f"print(hashlib.sha256(str(history({seed}, events=10**6).trace).encode()).hexdigest())"
    )
    environments = [os.environ | {"PYTHONHASHSEED": number} for number in ("1", "2")]
    digests = [
        subprocess.run([sys.executable, "-c", code], env=one, capture_output=True, text=True, check=True).stdout.strip()
        for one in environments
    ]

    trace = history(seed, events=10**6).trace
    assert len(trace) > 50
    assert digests == [hashlib.sha256(str(trace).encode()).hexdigest()] * 2


STALE = Scenario(
    seed=1,
    pools=(PoolPlan("a", "file:///a", {"r0": 1}),),
    jobs=(JobPlan("j0", 1.0, 3, {"model": MODEL, "shots": [{"prompt": "A fox.", "seconds": 2.25}]}, (0,)),),
    happenings=(Happening(8.0, "blind operator", "leader", 60.0), Happening(9.0, "suspend", "j0", 40.0)),
    faults=Faults(),
    store_failing=0.0,
    calm_at=80.0,
    settings=Settings(chunk_seconds=3.0),
)
"""The pause after a failure ends while the leader does not see that its job is to be suspended."""


def test_a_stale_decision_is_refused() -> None:
    settings = Settings(chunk_seconds=3.0, failures={"j0": [0]})
    outcome = play(replace(STALE, settings=settings))

    assert not outcome.faults, outcome


def test_a_stale_decision_without_a_fence_would_be_found() -> None:
    settings = Settings(chunk_seconds=3.0, failures={"j0": [0]})
    with patch.multiple(effects, fence=_nothing, version_fence=_nothing):
        outcome = play(replace(STALE, settings=settings))

    assert any("is assigned although" in fault for fault in outcome.faults), outcome


def test_files_that_stay_would_be_found() -> None:
    with patch.object(JobStore, "purge", _never):
        faults = [fault for seed in range(5) for fault in history(seed).faults]

    assert any("files are left" in fault for fault in faults)


SHRINKING = Scenario(
    seed=1,
    pools=(PoolPlan("a", "file:///a", {}, Managed(0, 2, 1, 2.0, 1, 0, 60)),),
    jobs=(
        JobPlan("j0", 1.0, 5, {"model": MODEL, "shots": [{"prompt": "A fox.", "seconds": 4.25}]}),
        JobPlan("j1", 1.0, 30, {"model": MODEL, "shots": [{"prompt": "A fox.", "seconds": 29.25}]}),
    ),
    happenings=(),
    faults=Faults(),
    store_failing=0.0,
    calm_at=60.0,
    settings=Settings(chunk_seconds=3.0),
)
"""A pool of pods that has one too many as soon as the shorter job is done."""


def test_a_managed_pool_grows_shrinks_and_rests() -> None:
    outcome = play(SHRINKING, events=10**6)

    assert not outcome.faults, outcome
    assert {f"kubelet: pods pool-a-{number} has changed" for number in (1, 2)} < {line[10:] for line in outcome.trace}


def test_a_busy_replica_that_is_to_leave_would_be_found() -> None:
    with patch.object(planned_pools, "candidates_of", _all_idle), patch.object(Book, "stands", _always):
        outcome = play(SHRINKING)

    assert any("is to leave a pool that shrinks" in fault for fault in outcome.faults), outcome


def _all_idle(pool: str, seen: View) -> list[Candidate]:
    return [one._replace(jobs=0) for one in candidates_of(pool, seen)]


def _always(*_: object) -> bool:
    return True


async def _never(*_: object, **__: object) -> None:
    return None


def _nothing(*_: object) -> list[Any]:
    return []
