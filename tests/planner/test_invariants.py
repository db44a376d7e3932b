"""What holds for every plan, whatever the cluster looks like."""

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planner.builders import NOW, ago, applied, begun, held, job, loaded, model, pool, replica, snapshot
from videojob.api.conditions import Reason
from videojob.api.replica import ModelState
from videojob.api.videojob import Phase
from videojob.planner.decisions import Assign, Wait
from videojob.planner.plan import Rules, plan
from videojob.planner.snapshot import Job, Snapshot

REPLICAS = ("p/r0", "p/r1", "q/r0", "q/r1")


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
        return job(name, phase=Phase.SUCCEEDED, completion_time=ago(5), finalizer=True, **fields)
    return job(name, phase=Phase.SUSPENDED if kind == "suspended" else Phase.PENDING, **fields)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    count = draw(st.integers(0, 12))
    found = [draw(jobs(index)) for index in range(count)]
    replicas = {
        name: replica(
            live=draw(st.sampled_from([True, True, True, False])),
            draining=draw(st.sampled_from([False, False, True])),
            slots=draw(st.integers(0, 3)),
            memory_bytes=draw(st.sampled_from([0, 25, 30, 40, 45])),
            models=tuple(
                loaded(
                    name,
                    state=draw(
                        st.sampled_from([ModelState.READY, ModelState.READY, ModelState.UNLOADED, ModelState.LOADING])
                    ),
                )
                for name in ("tiny", "big")
            ),
        )
        for name in draw(st.sets(st.sampled_from(REPLICAS)))
    }
    return snapshot(
        *found,
        models=[model("tiny"), model("big", weights_bytes=20, per_job_bytes=7)],
        pools=[pool(name, ("r0", "r1"), ("tiny", "big"), max_jobs=draw(st.integers(1, 3))) for name in ("p", "q")],
        replicas=replicas,
        stop=draw(st.sampled_from(["None", "None", "Hold", "HoldAndDrain"])),
        busy=draw(st.sets(st.sampled_from([found.uid for found in found]))) if found else (),
    )


@given(snapshots())
def test_a_job_is_decided_on_once_and_never_while_it_is_busy(found: Snapshot) -> None:
    uids = [decision.uid for decision in plan(found, NOW).decisions]
    assert len(uids) == len(set(uids))
    assert not found.busy.intersection(uids)


@given(snapshots())
def test_only_jobs_that_nobody_holds_and_everybody_wants_are_assigned(found: Snapshot) -> None:
    by_uid = {job.uid: job for job in found.jobs}
    for decision in plan(found, NOW).decisions:
        if isinstance(decision, Assign):
            chosen = by_uid[decision.uid]
            assert chosen.assignment is None
            assert not (chosen.deleted or chosen.cancel or chosen.suspend or chosen.phase.finished)
            assert found.replicas[decision.replica].live
            assert not found.replicas[decision.replica].draining
            assert chosen.chunks_done == 0 or chosen.pool == decision.replica.pool


@given(snapshots())
def test_slots_and_memory_are_never_exceeded_by_an_assignment(found: Snapshot) -> None:
    decisions = plan(found, NOW).decisions
    after = applied(found, decisions)
    touched = {decision.replica for decision in decisions if isinstance(decision, Assign)}
    for key in touched:
        report = found.replicas[key].report
        there = [job for job in after.jobs if job.replica_key == key and not job.phase.finished]
        endpoint = next(spot for spot in found.pools[key.pool].spec.endpoints if spot.name == key.name)
        assert len(there) <= min(report.slots, endpoint.max_jobs)
        if report.memory_bytes:
            # What no job uses can be unloaded.
            weights = sum(
                found.models[name].spec.memory.weights_bytes
                for name in {job.model for job in there} & found.models.keys()
            )
            bytes_of = {name: entry.spec.memory.per_job_bytes for name, entry in found.models.items()}
            assert weights + sum(bytes_of.get(job.model, 0) for job in there) <= report.memory_bytes


@given(snapshots())
def test_the_same_snapshot_gives_the_same_plan_in_any_order_of_jobs(found: Snapshot) -> None:
    shuffled = replace(found, jobs=tuple(reversed(found.jobs)))
    first, second = plan(found, NOW), plan(shuffled, NOW)
    assert Counter(map(repr, first.decisions)) == Counter(map(repr, second.decisions))
    assert first.wake_at == second.wake_at


@given(snapshots())
def test_no_job_is_lost(found: Snapshot) -> None:
    """Every live job is held by a replica, or has a decision, even if only to say why it waits."""
    silent = replace(found, jobs=tuple(replace(one, reason="") for one in found.jobs))
    decided = {decision.uid for decision in plan(silent, NOW, Rules(patience_seconds=0)).decisions}
    for one in silent.jobs:
        over = one.phase.finished or (one.deleted and not one.finalizer)
        at_rest = one.suspend and one.phase is Phase.SUSPENDED
        assert over or at_rest or one.assignment is not None or one.uid in decided | found.busy


@given(snapshots())
def test_a_job_is_not_passed_by_one_that_is_alike_and_less_urgent(found: Snapshot) -> None:
    decisions = {decision.uid: decision for decision in plan(found, NOW).decisions}
    fresh = [
        one
        for one in found.jobs
        if one.resolved is None
        and one.assignment is None
        and one.failures == 0
        and one.uid not in found.busy
        and not (one.deleted or one.cancel or one.suspend or one.phase.finished)
    ]
    alike: dict[tuple[str, str], list[Job]] = {}
    for one in sorted(fresh, key=lambda one: (-one.priority, one.created, one.uid)):
        alike.setdefault((one.model, one.queue), []).append(one)
    for group in alike.values():
        got = [isinstance(decisions.get(one.uid), Assign) for one in group]
        assert got == sorted(got, reverse=True)


@settings(max_examples=50)
@given(snapshots())
def test_a_plan_that_was_carried_out_assigns_nothing_more(found: Snapshot) -> None:
    after = applied(found, plan(found, NOW).decisions)
    assert not [decision for decision in plan(after, NOW).decisions if isinstance(decision, Assign)]


@given(snapshots())
def test_a_reason_is_told_once(found: Snapshot) -> None:
    rules = Rules(patience_seconds=0)
    waits = {decision.uid: decision for decision in plan(found, NOW, rules).decisions if isinstance(decision, Wait)}
    told = tuple(
        replace(one, reason=waits[one.uid].reason.value, message=waits[one.uid].message) if one.uid in waits else one
        for one in found.jobs
    )
    again = plan(replace(found, jobs=told), NOW, rules).decisions
    assert not {decision.uid for decision in again if isinstance(decision, Wait)} & waits.keys()
