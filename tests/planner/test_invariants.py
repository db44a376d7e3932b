"""What holds for every plan on jobs, whatever the cluster looks like."""

from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planner.builders import MOMENT, MONO, ago, applied, begun, book, held, job, loaded, model, pool, replica
from tests.planner.deciding import brief, decided
from videojob.api import FINALIZER
from videojob.api.reasons import BACKS_OFF, Reason
from videojob.api.replica import ModelState
from videojob.api.videojob import Phase
from videojob.planner.book import Book
from videojob.planner.decisions import Assign, Wait
from videojob.planner.facts import Job, Moment, Replica
from videojob.planner.rules import DEFAULT_RULES, Rules
from videojob.planner.view import view

REPLICAS = ("p/r0", "p/r1", "q/r0", "q/r1")
EAGER = Rules(patience_seconds=0, waits_per_plan=1000)


@st.composite
def jobs(draw: st.DrawFn, index: int) -> Job:
    name = f"j{index:02}"
    fields: dict[str, Any] = {
        "priority": draw(st.integers(-1, 1)),
        "created": ago(draw(st.integers(0, 20))),
        "model": draw(st.sampled_from(["tiny", "big", "missing"])),
        "queue": draw(st.sampled_from(["default", "default", "default", "missing"])),
        "suspend": draw(st.sampled_from([False, False, False, True])),
        "cancel": draw(st.sampled_from([False, False, False, True])),
        "deleted": draw(st.sampled_from([False, False, False, True])),
        "reason": draw(st.sampled_from([reason.value for reason in Reason])),
        "failures": draw(st.integers(0, 5)),
        "active_deadline_seconds": draw(st.sampled_from([None, None, 10, 1000])),
        "ttl_seconds_after_finished": draw(st.sampled_from([None, 0, 1000])),
    }
    kind = draw(st.sampled_from(["new", "new", "new", "begun", "held", "done", "suspended"]))
    home = draw(st.sampled_from(["p", "q"]))
    if kind == "begun":
        return begun(name, home, chunks_done=draw(st.integers(0, 2)), **fields)
    if kind == "held":
        release = draw(st.sampled_from([None, "Cancelled"]))
        return held(name, draw(st.sampled_from(["r0", "r1", "gone"])), home, release, **fields)
    if kind == "done":
        return job(name, phase=Phase.SUCCEEDED, completion_time=ago(5), finalizers=(FINALIZER,), **fields)
    return job(name, phase=Phase.SUSPENDED if kind == "suspended" else Phase.PENDING, **fields)


class Cluster(NamedTuple):
    """What a book is made from."""

    jobs: tuple[Job, ...]
    replicas: dict[str, Replica]
    max_jobs: int
    stop: str
    busy: frozenset[str]

    def book(self, rules: Rules = DEFAULT_RULES) -> Book:
        """The book of this cluster."""
        return book(
            *self.jobs,
            models=[model("tiny"), model("big", weights_bytes=20, per_job_bytes=7)],
            pools=[pool(name, ("r0", "r1"), ("tiny", "big"), max_jobs=self.max_jobs) for name in ("p", "q")],
            replicas=self.replicas,
            stop=self.stop,
            busy=self.busy,
            rules=rules,
        )


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    count = draw(st.integers(0, 12))
    found = tuple(draw(jobs(index)) for index in range(count))
    states = [ModelState.READY, ModelState.READY, ModelState.UNLOADED, ModelState.LOADING]
    replicas = {
        name: replica(
            live=draw(st.sampled_from([True, True, True, False])),
            lost=draw(st.sampled_from([False, False, False, True])),
            draining=draw(st.sampled_from([False, False, True])),
            slots=draw(st.integers(0, 3)),
            memory_bytes=draw(st.sampled_from([0, 25, 30, 40, 45])),
            models=tuple(loaded(name, state=draw(st.sampled_from(states))) for name in ("tiny", "big")),
        )
        for name in draw(st.sets(st.sampled_from(REPLICAS)))
    }
    return Cluster(
        found,
        replicas,
        draw(st.integers(1, 3)),
        draw(st.sampled_from(["None", "None", "Hold", "HoldAndDrain"])),
        frozenset(draw(st.sets(st.sampled_from([one.uid for one in found])))) if found else frozenset(),
    )


def plain(found: Job) -> bool:
    """Whether nobody holds the job, and it is to run."""
    return found.assignment is None and not (found.deleted or found.cancel or found.suspend or found.phase.finished)


@given(clusters())
def test_a_job_is_decided_on_once_and_never_while_it_is_busy(found: Cluster) -> None:
    uids = [decision.job.uid for decision in decided(found.book(EAGER))]
    assert len(uids) == len(set(uids))
    assert not found.busy.intersection(uids)


@given(clusters())
def test_only_jobs_that_nobody_holds_and_everybody_wants_are_assigned(found: Cluster) -> None:
    made = found.book()
    replicas = view(made, MOMENT).replicas
    for decision in decided(made):
        if isinstance(decision, Assign):
            chosen = decision.job
            assert plain(chosen)
            assert replicas[decision.replica].live
            assert not replicas[decision.replica].draining
            assert chosen.chunks_done == 0 or chosen.pool == decision.replica.pool


@given(clusters())
def test_slots_and_memory_are_never_exceeded_by_an_assignment(found: Cluster) -> None:
    made = found.book()
    decisions = decided(made)
    touched = {decision.replica for decision in decisions if isinstance(decision, Assign)}
    after = applied(made, decisions)
    models = after.models
    for key in touched:
        beat = after.liveness.beats[key]
        assert beat.replica is not None
        report = beat.replica.report
        there = list(after.agenda.held[key].values())
        assert len(there) <= min(report.slots, found.max_jobs)
        if report.memory_bytes:
            # What no job uses can be unloaded.
            used = {one.model for one in there} & models.keys()
            weights = sum(models[name].spec.memory.weights_bytes for name in used)
            bytes_of = {name: entry.spec.memory.per_job_bytes for name, entry in models.items()}
            assert weights + sum(bytes_of.get(one.model, 0) for one in there) <= report.memory_bytes


@given(clusters())
def test_the_same_cluster_gives_the_same_plan_in_any_order_of_jobs(found: Cluster) -> None:
    def plan(cluster: Cluster) -> Counter[str]:
        return Counter(f"{one.job.uid} {brief(one)}" for one in decided(cluster.book(EAGER)))

    assert plan(found) == plan(found._replace(jobs=tuple(reversed(found.jobs))))


@given(clusters())
def test_no_job_is_lost(found: Cluster) -> None:
    """Every live job is held by a replica, or has a decision, even if only on why it waits."""
    silent = found._replace(jobs=tuple(replace(one, reason="") for one in found.jobs))
    uids = {decision.job.uid for decision in decided(silent.book(EAGER))}
    for one in silent.jobs:
        over = one.phase.finished or (one.deleted and not one.finalizer)
        suspended = one.suspend and one.phase is Phase.SUSPENDED
        assert over or suspended or one.assignment is not None or one.uid in uids | found.busy


@given(clusters())
def test_a_job_is_not_passed_by_one_that_is_alike_and_less_urgent(found: Cluster) -> None:
    decisions = {decision.job.uid: decision for decision in decided(found.book())}
    alike: dict[tuple[str, str], list[Job]] = {}
    for one in sorted(found.jobs, key=lambda one: (-one.priority, one.created, one.uid)):
        fresh = one.resolved is None and one.failures == 0 and one.phase is Phase.PENDING
        pauses = one.reason in BACKS_OFF
        if plain(one) and fresh and not pauses and one.uid not in found.busy:
            alike.setdefault((one.model, one.queue), []).append(one)
    for group in alike.values():
        got = [isinstance(decisions.get(one.uid), Assign) for one in group]
        assert got == sorted(got, reverse=True)


@settings(max_examples=50)
@given(clusters())
def test_a_plan_that_was_carried_out_assigns_nothing_more(found: Cluster) -> None:
    made = found.book()
    after = applied(made, decided(made))
    assert not [decision for decision in decided(after) if isinstance(decision, Assign)]


@given(clusters())
def test_a_reason_is_written_once(found: Cluster) -> None:
    made = found.book(EAGER)
    waits = {decision.job.uid: decision for decision in decided(made) if isinstance(decision, Wait)}
    for decision in waits.values():
        shown = replace(
            decision.job,
            reason=decision.reason.value,
            message=decision.message,
            version=decision.job.version + 1,
        )
        made.put_job(shown)
    again = {decision.job.uid for decision in decided(made) if isinstance(decision, Wait)}
    assert not again & waits.keys()


@given(clusters(), st.integers(1, 100_000))
def test_what_time_alone_changes_is_known_beforehand(found: Cluster, seconds: int) -> None:
    """Between now and the moment at which a plan is due, no plan comes out differently."""
    made = found.book(Rules(patience_seconds=0, waits_per_plan=1000))
    first = [f"{one.job.uid} {brief(one)}" for one in decided(made)]
    due = made.agenda.next_moment()
    deadlines = [one.deadline for held in made.agenda.held.values() for one in held.values() if one.deadline]
    moments = [moment for moment in (due, *deadlines) if moment is not None]
    later = Moment(ago(-seconds), MONO)
    if all(moment > later.wall for moment in moments):
        assert [f"{one.job.uid} {brief(one)}" for one in decided(made, later)] == first
