"""Which replicas of a pool of pods go when it shrinks."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

DRAINED_COST, IDLE_COST, BUSY_COST = -1000, 0, 1000


class Candidate(NamedTuple):
    """A pod of a pool, as one that may go."""

    name: str
    created: datetime
    jobs: int = 0
    """Jobs that it holds."""
    ready: bool = True
    models: int = 0
    """Models that it has loaded."""
    draining: bool = False
    """It was asked to take no more jobs."""


def victims(candidates: Iterable[Candidate], count: int) -> tuple[str, ...]:
    """The names of up to `count` replicas to drain, the first to go first: never one with a job.

    One that is draining already has been chosen before: it counts, whatever it still holds. Then come those not ready,
    then those with the fewest models loaded, then the youngest.
    """
    able = sorted((one for one in candidates if one.draining or one.jobs == 0), key=_usefulness)
    return tuple(one.name for one in able[: max(count, 0)])


def deletion_costs(candidates: Iterable[Candidate]) -> dict[str, int]:
    """The pod deletion cost of every replica: drained ones are the cheapest, busy ones the dearest.

    Kubernetes takes pods that are not ready first, whatever they cost. The costs change with every job: write them only
    before the number of replicas is lowered, and only those that differ.
    """
    return {
        one.name: BUSY_COST if one.jobs else DRAINED_COST if one.draining else IDLE_COST + min(one.models, 100)
        for one in candidates
    }


def _usefulness(one: Candidate) -> tuple[bool, bool, int, float, str]:
    return (not one.draining, one.ready, one.models, -one.created.timestamp(), one.name)
