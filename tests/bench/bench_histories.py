"""10,000 seeded histories of faults: see tests/simulation. $HISTORIES and $FIRST_SEED choose others."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.history import Outcome, history

HISTORIES = int(os.environ.get("HISTORIES", "10000"))
FIRST_SEED = int(os.environ.get("FIRST_SEED", "0"))
PROGRESS = 500
WORST = 10


@pytest.mark.timeout(7200)
def test_histories() -> None:
    """Every history ends well; the worst are printed."""
    began, outcomes = time.monotonic(), []
    seeds = range(FIRST_SEED, FIRST_SEED + HISTORIES)
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        for outcome in processes.map(history, seeds, chunksize=10):
            outcomes.append(outcome)
            if outcome.faults:
                print(f"\n{outcome}", flush=True)
            if len(outcomes) % PROGRESS == 0:
                print(_progress(outcomes, time.monotonic() - began), flush=True)
    print(_progress(outcomes, time.monotonic() - began))
    measures: dict[str, Callable[[Outcome], float]] = {
        "virtual seconds": lambda one: one.seconds,
        "writes of operators a job": lambda one: one.writes / one.jobs,
        "attempts a job": lambda one: one.attempts / one.jobs,
        "losses": lambda one: one.losses,
    }
    for name, key in measures.items():
        worst = sorted(outcomes, key=key, reverse=True)[:WORST]
        print(f"worst by {name}: {', '.join(f'seed {one.seed}: {key(one):.1f}' for one in worst)}")
    wrong = [outcome.seed for outcome in outcomes if outcome.faults]
    assert not wrong, f"{len(wrong)} of {len(outcomes)} histories went wrong: seeds {wrong[:50]}"


def _progress(outcomes: list[Outcome], seconds: float) -> str:
    jobs, attempts = sum(one.jobs for one in outcomes), sum(one.attempts for one in outcomes)
    losses, writes = sum(one.losses for one in outcomes), sum(one.writes for one in outcomes)
    wrong = sum(bool(one.faults) for one in outcomes)
    hours = sum(one.seconds for one in outcomes) / 3600
    return (
        f"{len(outcomes)} histories in {seconds:.0f} s, {wrong} went wrong: {hours:.0f} h of virtual time, "
        f"{jobs} jobs, {attempts} attempts, {losses} losses, {writes / max(jobs, 1):.1f} writes of operators a job"
    )
