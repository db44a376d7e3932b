"""The one cycle: all decisions, on jobs and on pools, from one book at one moment.

No I/O and no clock: the same book at the same moment gives the same plan, so a trace can be replayed through it. Its
cost follows from what changed and from what replicas hold, not from how many jobs there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from videojob.planner.book import Book
from videojob.planner.decisions import Decision, Fault, Plan, VerifyLeases
from videojob.planner.demand import demands
from videojob.planner.facts import Moment, ReplicaKey
from videojob.planner.keeping import keeping
from videojob.planner.memory import PoolMemory
from videojob.planner.placing import Placing
from videojob.planner.pools import MakeDeployment, plan_pool
from videojob.planner.settling import settling
from videojob.planner.summary import pool_status, queue_statuses
from videojob.planner.view import View, view


def cycle(book: Book, now: Moment, deployment: MakeDeployment) -> Plan:
    """What to do now. `deployment` makes the Deployment of a managed pool.

    Only the time that the book knows of goes on; everything else is changed by what becomes of the decisions. A pool
    or job that cannot be decided on is in the plan's faults, and holds up no other.
    """
    book.advance(now)
    seen = view(book, now)
    faults: list[Fault] = []
    decisions: list[Decision] = [*keeping(book, seen, now, faults), *settling(book)]
    pools_planned = book.pool_turn(now)
    turn = _pools(book, seen, now, deployment, faults) if pools_planned else _Turn()
    placing = Placing(book, seen, now, turn.leaving, faults)
    decisions += [*turn.decisions, *placing.decide(), *turn.statuses]
    if book.liveness.unconfirmed(now.mono) and not book.busy(("leases",)):
        decisions.append(VerifyLeases())
    wake_seconds = _wake_seconds(book, now, placing.wake_at)
    return Plan(tuple(decisions), wake_seconds, pools_planned, turn.memories, tuple(faults))


@dataclass
class _Turn:
    """What is decided on pools and queues."""

    decisions: list[Decision] = field(default_factory=list)
    statuses: list[Decision] = field(default_factory=list)
    memories: dict[str, PoolMemory] = field(default_factory=dict)
    leaving: set[ReplicaKey] = field(default_factory=set)
    """Replicas that are asked to drain: they get no job of the same plan."""


def _pools(book: Book, seen: View, now: Moment, deployment: MakeDeployment, faults: list[Fault]) -> _Turn:
    """A look at the size of the pools, and at the statuses of pools and queues."""
    turn = _Turn()
    asked = demands(book, seen, now)
    for name, pool in sorted(book.pools.items()):
        try:
            plan = plan_pool(book, seen, pool, asked[name], now, deployment)
            status = pool_status(book, seen, pool, plan, now)
        except Exception as error:
            faults.append(Fault(("deployment", name), error))
            continue
        turn.decisions += plan.decisions
        turn.statuses += [] if status is None else [status]
        turn.memories[name] = plan.memory
        turn.leaving |= plan.leaving
    turn.statuses += queue_statuses(book, now)
    return turn


def _wake_seconds(book: Book, now: Moment, patience_ends: datetime | None) -> float:
    """When time alone makes another plan necessary."""
    walls = [moment for moment in (book.agenda.next_moment(), patience_ends, *_deadlines(book)) if moment is not None]
    seconds = [(moment - now.wall).total_seconds() for moment in walls]
    seconds += [wait for wait in (book.liveness.next_change(now.mono), book.next_rest(now)) if wait is not None]
    return max(min([*seconds, book.next_pool_turn(now)]), 0.0)


def _deadlines(book: Book) -> Iterator[datetime]:
    """Of jobs that replicas hold and were not asked to give back."""
    for jobs in book.agenda.held.values():
        for job in jobs.values():
            if job.deadline is not None and job.assignment is not None and job.assignment.release is None:
                yield job.deadline
