"""An API server that is away while ten runners work: what it costs, in virtual time."""

from dataclasses import dataclass

from tests.simulation.attempt import Settings
from tests.simulation.history import Outcome, play_world
from tests.simulation.network import Faults
from tests.simulation.runners import LEASE_SECONDS
from tests.simulation.scenario import FPS, MODEL, Happening, JobPlan, PoolPlan, Scenario

RUNNERS = 10
BEGIN_SECONDS = 60.0
CHUNK_SECONDS = 10.0
TAKEN_BACK_SECONDS = 20.0 + LEASE_SECONDS
"""After the return of the API server a job of a runner that was killed meanwhile is taken back within so long."""


@dataclass
class Cost:
    """What an outage has cost."""

    outcome: Outcome
    lost: int
    """Attempts that were taken from runners that lived."""
    twice: int
    """Chunks that were begun twice although one had been committed."""
    taken_back: float | None = None
    """Seconds from the return of the API server until the job of a runner that was killed was taken back."""


def outage(seconds: float, detail: str, *, kill: bool = False, blind: float = 0.0) -> Cost:
    """Let the API server be away; `kill` one runner meanwhile, or keep the leader's watches still for so long."""
    chunks = int((BEGIN_SECONDS + seconds) / CHUNK_SECONDS) + 6
    jobs = tuple(JobPlan(f"j{number}", 1.0 + number / 10, chunks, _spec(chunks)) for number in range(RUNNERS))
    happenings = [Happening(BEGIN_SECONDS, "api away", "", seconds, detail)] if seconds else []
    if kill:
        happenings.append(Happening(BEGIN_SECONDS + seconds / 2, "kill runner", "a.r3", 1e6))
    if blind:
        happenings.append(Happening(BEGIN_SECONDS, "blind operator", "leader", blind))
    calm_at = BEGIN_SECONDS + seconds + max(blind, 120.0)
    pool = PoolPlan("a", "file:///a", {f"r{number}": 1 for number in range(RUNNERS)})
    settings = Settings(cut_off_seconds=600.0, chunk_seconds=CHUNK_SECONDS)
    outcome, world = play_world(Scenario(1, (pool,), jobs, tuple(happenings), Faults(), 0.0, calm_at, settings))
    ledger = world.ledger
    taken = next(iter(ledger.taken_back.values()), None)
    # Of the runner that was killed, the chunk that it was making is made once more.
    twice = sum(count - 1 for (uid, _), count in ledger.begun.items() if uid not in ledger.taken_back or not kill)
    taken_back = taken - BEGIN_SECONDS - seconds if taken is not None else None
    return Cost(outcome, outcome.losses - kill, twice + len(ledger.remade) * kill, taken_back)


def _spec(chunks: int) -> dict[str, object]:
    return {"model": MODEL, "shots": [{"prompt": "A fox.", "seconds": (1 + 4 * (chunks - 1)) / FPS}]}
