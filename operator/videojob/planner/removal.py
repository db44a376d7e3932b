"""Which replicas of a managed pool go when it shrinks."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import NamedTuple

from videojob.api.replica import ModelState
from videojob.planner.draining import DRAINED_COST
from videojob.planner.facts import Health, ReplicaKey
from videojob.planner.view import View

SCALE_DOWN = "ScaleDown"
"""Reason of the drains that a smaller pool asks for; others, such as a person's, are left alone."""
IDLE_COST, BUSY_COST = 0, 1000


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


def candidates_of(pool: str, seen: View) -> list[Candidate]:
    """The pool's pods that are to stay, as far as it was decided."""
    found = []
    for name, pod in seen.pods[pool]:
        if pod.ending:
            continue
        key = ReplicaKey(pool, name)
        replica = seen.replicas.get(key)
        models = replica.report.models if replica is not None and replica.live else ()
        found.append(
            Candidate(
                name,
                pod.created,
                jobs=seen.held.get(key, 0),
                ready=pod.ready_since is not None,
                models=sum(model.state is ModelState.READY for model in models),
                draining=replica is not None
                and replica.health is not Health.LOST
                and replica.drain_reason == SCALE_DOWN,
            )
        )
    return found


def victims(candidates: Iterable[Candidate], count: int) -> tuple[str, ...]:
    """The names of up to `count` replicas to drain, the first to go first: never one with a job.

    One that is draining already has been chosen before: it counts, whatever it still holds. Then come those not ready,
    then those with the fewest models loaded, then the youngest.
    """
    able = sorted((one for one in candidates if one.draining or one.jobs == 0), key=_usefulness)
    return tuple(one.name for one in able[: max(count, 0)])


def deletion_costs(candidates: Iterable[Candidate], gone: Collection[str]) -> dict[str, int]:
    """The pod deletion cost of every replica: drained ones are the cheapest, busy ones the dearest.

    `gone` are the names of those without a job that get none any more. Kubernetes takes pods that are not ready first,
    whatever they cost. The costs change with every job: write them only before the number of replicas is lowered, and
    only those that differ.
    """
    return {one.name: _cost(one, one.name in gone) for one in candidates}


def _cost(one: Candidate, gone: bool) -> int:
    if one.jobs:
        return BUSY_COST
    return DRAINED_COST if gone or one.draining else IDLE_COST + min(one.models, 100)


def _usefulness(one: Candidate) -> tuple[bool, bool, int, float, str]:
    return (not one.draining, one.ready, one.models, -one.created.timestamp(), one.name)
