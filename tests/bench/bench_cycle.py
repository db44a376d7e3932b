"""What a cycle costs with 50,400 jobs and 400 replicas: CPU milliseconds, garbage collection included.

Beside it, in the same run: the same decisions from a book that is built anew, which is what a planner that looks at
every job pays. The ratio is what keeping an index is worth.
"""

import gc
import random
import resource
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from time import perf_counter, process_time

from tests.planner.builders import MONO, NOW, ago, beat, job, key, loaded, model, pool, queue
from tests.planner.builders import replica as a_replica
from videojob.planner.book import Book
from videojob.planner.cycle import cycle
from videojob.planner.decisions import Assign, Plan, Wait
from videojob.planner.facts import Job, Moment

JOBS = 50_400
REPLICAS = 400
POOLS = 4
ROUNDS = 200
GOALS = {"one event": 5.0, "400 assignments": 60.0, "no replica at all": 60.0}


def jobs() -> list[Job]:
    """Jobs as a busy cluster has them: several models, lengths, priorities and ages."""
    draw = random.Random(1)
    return [
        job(
            f"w{number:06}",
            namespace="team",
            model=draw.choice(("tiny", "tiny", "big")),
            created=ago(draw.random() * 5000),
            priority=draw.choice((0, 0, 0, 5, 10)),
            seconds=draw.choice((1.0, 3.0, 5.0, 10.0)),
        )
        for number in range(JOBS)
    ]


def filled(found: list[Job], *, silent: bool = False) -> Book:
    """The book of these jobs, with replicas that are all free, or all silent."""
    made = Book()
    made.put_queue(queue())
    made.put_model(model())
    made.put_model(model("big"))
    for number in range(POOLS):
        models = ("tiny",) if number < POOLS // 2 else ("tiny", "big")
        names = [f"r{index}" for index in range(REPLICAS // POOLS)]
        made.put_pool(pool(f"p{number}", names, models, max_jobs=1))
        one = a_replica(live=not silent, slots=1, models=tuple(loaded(name) for name in models))
        for name in names:
            made.put_beat(key(f"p{number}/{name}"), beat(one))
    for one_job in found:
        made.put_job(one_job)
    return made


class Clock:
    """Time as the operator's loop sees it: 20 ms a turn."""

    def __init__(self) -> None:
        self.turns = 0

    def next(self) -> Moment:
        self.turns += 1
        passed = 0.02 * self.turns
        return Moment(NOW + timedelta(seconds=passed), MONO + passed)


def plan(book: Book, moment: Moment) -> Plan:
    """One cycle."""
    return cycle(book, moment, lambda pool, models, replicas: {})


def measured(turn: Callable[[], object], rounds: int) -> list[float]:
    """CPU milliseconds of each round, in order of size."""
    spent = []
    for _ in range(rounds):
        began = process_time()
        turn()
        spent.append((process_time() - began) * 1000)
    return sorted(spent)


def test_cycle() -> None:
    """Prints a table. That the plans are right is tested elsewhere; here they have to be of the expected size."""
    found = jobs()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    book, clock = filled(found), Clock()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    gc.collect()
    gc.freeze()
    first = plan(book, clock.next())
    assigned = [decision for decision in first.decisions if isinstance(decision, Assign)]
    assert len(assigned) == REPLICAS
    rows = {"400 assignments": measured(lambda: plan(book, clock.next()), ROUNDS)}
    for decision in assigned:
        book.begin(decision)
    number = 0

    def event() -> None:
        nonlocal number
        number += 1
        old = book.jobs[f"uid-w{number:06}"]
        book.put_job(replace(old, version=old.version + number, priority=number % 7))
        plan(book, clock.next())

    longest = 0.0
    began = perf_counter()
    rows["one event"] = measured(event, ROUNDS)
    longest = max(longest, rows["one event"][-1], rows["400 assignments"][-1])
    dark, dark_clock = filled(found, silent=True), Clock()
    waits = [decision for decision in plan(dark, dark_clock.next()).decisions if isinstance(decision, Wait)]
    assert len(waits) == dark.rules.waits_per_plan
    rows["no replica at all"] = measured(lambda: plan(dark, dark_clock.next()), ROUNDS)
    anew = measured(lambda: plan(filled(found), Clock().next()), 3)
    print(f"\n{JOBS:,} jobs, {REPLICAS} replicas, {POOLS} pools; {ROUNDS} rounds each, {perf_counter() - began:.0f} s")
    print(f"{'CPU ms a cycle':24} {'median':>8} {'p95':>8} {'longest':>8} {'goal p95':>9} {'/ built anew':>13}")
    for name, spent in rows.items():
        median, p95 = spent[len(spent) // 2], spent[int(len(spent) * 0.95)]
        ratio = median / anew[len(anew) // 2]
        print(f"{name:24} {median:8.1f} {p95:8.1f} {spent[-1]:8.1f} {GOALS[name]:9.0f} {ratio:13.4f}")
    print(f"{'built anew, then cycle':24} {anew[1]:8.0f} {anew[-1]:8.0f}")
    print(f"memory of the jobs in the book: {grown:.0f} MB")
