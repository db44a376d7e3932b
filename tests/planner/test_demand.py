"""Which pool a job counts for, and with how many seconds."""

from collections.abc import Mapping
from random import Random
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planner.builders import (
    MOMENT,
    RESOLVED,
    ago,
    begun,
    book,
    held,
    job,
    loaded,
    managed,
    model,
    pod,
    pool,
    queue,
    replica,
)
from videojob.api.gpupool import GPUPool
from videojob.api.podtemplate import PodTemplate
from videojob.api.reasons import Reason
from videojob.api.replica import ModelState
from videojob.api.videojob import Phase
from videojob.api.videomodel import Estimate
from videojob.planner.book import Book
from videojob.planner.demand import demands
from videojob.planner.eligibility import Obstacle, eligible
from videojob.planner.estimate import Estimates, PoolModel
from videojob.planner.facts import Container, Job, Pod, Replica
from videojob.planner.scaling import Demand
from videojob.planner.view import view

TINY = model(estimate=Estimate(chunk_seconds=10))
"""A job of 3 seconds is 5 chunks: 50 seconds."""


def pods(name: str = "p", most: int = 1, mode: str = "Backlog", **fields: Any) -> GPUPool:
    """A managed pool of at most so many replicas."""
    return managed(name, scaling={"mode": mode, "max_replicas": most}, **fields)


def asked(found: Book) -> dict[str, Demand]:
    """The demand on every pool of the book."""
    return demands(found, view(found, MOMENT), MOMENT)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(job(), Demand(50, 1, 0), id="a job that waits"),
        pytest.param(held(), Demand(30, 0, 1), id="a job that runs counts with what is left"),
        pytest.param(begun(), Demand(30, 1, 0), id="so does one that waits for its next replica"),
        pytest.param(job(failures=1, reason="BackingOff"), Demand(50, 1, 0), id="a job that pauses comes back"),
        pytest.param(job(phase=Phase.SUSPENDED), Demand(), id="a job that was resumed waits once its status shows it"),
        pytest.param(held(release="Drained"), Demand(30, 0, 1), id="a job that is handed back comes back"),
        pytest.param(held(chunks_done=5), Demand(0, 0, 1), id="a job that only has to be muxed still runs"),
        pytest.param(job(phase=Phase.SUCCEEDED), Demand(), id="a finished job"),
        pytest.param(held(phase=Phase.FAILED), Demand(), id="a job that failed, before its replica let it go"),
        pytest.param(job(suspend=True), Demand(), id="a suspended job"),
        pytest.param(job(cancel=True), Demand(), id="a cancelled job"),
        pytest.param(job(deleted=True), Demand(), id="a deleted job"),
        pytest.param(held(cancel=True), Demand(), id="a cancelled job, before its replica let it go"),
        pytest.param(job(queue="missing"), Demand(), id="a job without a queue waits for that"),
        pytest.param(held(queue="missing"), Demand(30, 0, 1), id="but it runs on if it runs"),
        pytest.param(job(model="missing"), Demand(), id="a job without a model cannot run"),
        pytest.param(held(model="missing"), Demand(0, 0, 1), id="it may run on, nobody knows how long"),
        pytest.param(job(seconds=61.0), Demand(), id="a job beyond the model's limits cannot run"),
        pytest.param(begun(resolved=RESOLVED.model_copy(update={"model_uid": "x"})), Demand(), id="nor a new model"),
        pytest.param(begun(pool="gone"), Demand(), id="nor without the pool that has its chunks"),
        pytest.param(begun(store_uri="file:///old/team/uid-a"), Demand(), id="nor without the store that has them"),
        pytest.param(begun(pool="gone", chunks_done=0), Demand(50, 1, 0), id="without chunks it goes anywhere"),
        pytest.param(held(pool="gone"), Demand(), id="a job on a pool that is gone waits to be taken back"),
    ],
)
def test_what_counts(found: Job, expected: Demand) -> None:
    assert asked(book(found, models=[TINY])) == {"p": expected}


@pytest.mark.parametrize(
    ("stop", "waits", "runs"),
    [
        pytest.param("None", 1, 1, id="an open queue"),
        pytest.param("Hold", 0, 1, id="a held queue's jobs do not start, but run on"),
        pytest.param("HoldAndDrain", 0, 0, id="a drained queue's jobs are taken back"),
        pytest.param(None, 0, 1, id="without its queue no job starts"),
    ],
)
def test_a_stopped_queue_needs_no_replicas(stop: str | None, waits: int, runs: int) -> None:
    found = asked(book(job("a"), held("b"), models=[TINY], stop=stop))["p"]
    assert (found.waiting, found.running) == (waits, runs)


def test_a_pool_without_a_job_and_one_that_does_not_run_the_model_have_no_demand() -> None:
    halves = model(precision="bfloat16")
    found = book(job(), models=[halves], pools=[pool("cpu"), pods("gpu"), pods("other", models=["big"])])
    assert asked(found) == {"cpu": Demand(), "gpu": Demand(50, 1, 0), "other": Demand()}


def many(count: int) -> list[Job]:
    return [job(f"j{index:02}", created=ago(100 - index)) for index in range(count)]


def waiting(*pools: GPUPool, count: int = 12, estimates: Estimates | None = None) -> dict[str, int]:
    live = {f"{pool.metadata.name}/{endpoint.name}": replica() for pool in pools for endpoint in pool.spec.endpoints}
    found = book(*many(count), models=[TINY], pools=pools, replicas=live, estimates=estimates)
    return {name: demand.waiting for name, demand in asked(found).items()}


@pytest.mark.parametrize(
    ("pools", "expected"),
    [
        pytest.param([pods("a"), pods("b")], {"a": 6, "b": 6}, id="equal pools share"),
        pytest.param([pods("a"), pods("b", most=3)], {"a": 3, "b": 9}, id="by the replicas that they may have"),
        pytest.param([pool("a", ["r0", "r1"]), pods("b")], {"a": 8, "b": 4}, id="or have, where they are endpoints"),
        pytest.param([pods("a", mode="External"), pods("b")], {"a": 6, "b": 6}, id="whoever scales them"),
    ],
)
def test_jobs_go_where_they_are_done_first(pools: list[GPUPool], expected: dict[str, int]) -> None:
    assert waiting(*pools) == expected


PULLS_NOTHING = pod(ready_since=None, created=ago(60), waiting=Container("ErrImagePull"))
CRASHES = pod(ready_since=None, created=ago(60), waiting=Container("CrashLoopBackOff"))
NO_NODE = pod(ready_since=None, created=ago(60), unschedulable_since=ago(60))
NO_NODE_FOR_LONG = pod(ready_since=None, created=ago(900), unschedulable_since=ago(900))
LOADS_NOTHING = replica(models=(loaded(state=ModelState.FAILED),))
SMALL = PodTemplate(memory_bytes=10)


@pytest.mark.parametrize(
    ("a", "replicas", "one", "deployed", "able"),
    [
        pytest.param(pods("a"), {}, None, None, True, id="a pool that is scaled to zero will start"),
        pytest.param(pods("a", paused=True), {}, None, None, False, id="a paused one will not"),
        pytest.param(pods("a", paused=True), {}, None, (1, ""), True, id="but for the replicas that it has"),
        pytest.param(pods("a", mode="External", replicas=0), {}, None, None, False, id="nor one that is held at zero"),
        pytest.param(pods("a", mode="External", replicas=1), {}, None, None, True, id="one is on its way"),
        pytest.param(pods("a", mode="External"), {}, None, None, True, id="an autoscaler looks at the backlog"),
        pytest.param(pods("a"), {}, None, (0, "bad"), False, id="the API server refuses its template"),
        pytest.param(pods("a"), {"a/r": replica()}, None, (1, "bad"), True, id="those of before go on"),
        pytest.param(pods("a"), {}, PULLS_NOTHING, (1, ""), False, id="its image is not there"),
        pytest.param(pods("a"), {}, CRASHES, (1, ""), False, id="its pods crash"),
        pytest.param(pods("a"), {}, NO_NODE, (1, ""), True, id="a node may be on its way"),
        pytest.param(pods("a"), {}, NO_NODE_FOR_LONG, (1, ""), False, id="none has come for long"),
        pytest.param(pods("a"), {"a/r": LOADS_NOTHING}, None, (1, ""), False, id="the model does not load"),
        pytest.param(pods("a"), {"a/r": replica(models=())}, None, (1, ""), True, id="it has not loaded it yet"),
        pytest.param(pool("a"), {}, None, None, False, id="endpoints without a heartbeat"),
        pytest.param(pool("a"), {"a/r0": replica(live=False)}, None, None, False, id="or with an old one"),
        pytest.param(pool("a"), {"a/r0": replica()}, None, None, True, id="endpoints with one"),
    ],
)
def test_a_pool_that_cannot_take_jobs_is_asked_only_where_no_other_can(
    a: GPUPool, replicas: dict[str, Replica], one: Pod | None, deployed: tuple[int, str] | None, able: bool
) -> None:
    def waits(*pools: GPUPool) -> dict[str, int]:
        wanted, refused = deployed or (0, "")
        found = book(
            job(),
            models=[TINY],
            pools=pools,
            replicas=replicas,
            pods={"a/r": one} if one is not None else None,
            deployments={"a": wanted} if deployed is not None else {},
            refused={"a": refused} if refused else {},
        )
        return {name: demand.waiting for name, demand in asked(found).items()}

    assert waits(a, pods("b")) == ({"a": 1, "b": 0} if able else {"a": 0, "b": 1})
    assert waits(a) == {"a": 1}, "its own trouble is reported, and passes"


def test_a_pool_without_the_memory_for_a_model_is_never_asked_and_placement_agrees() -> None:
    assert waiting(pods("a", template=SMALL), pods("b"), count=3) == {"a": 0, "b": 3}
    assert waiting(pods("a", template=SMALL), count=3) == {"a": 0}
    found = book(job(), models=[TINY], pools=[pods("a", template=SMALL)])
    (shape,) = found.agenda.pending.classes
    obstacle = eligible(found, view(found, MOMENT), shape, TINY, MOMENT)
    assert isinstance(obstacle, Obstacle)
    assert obstacle.reason is Reason.INSUFFICIENT_MEMORY
    assert "GPUPool a: template.memoryBytes is too little" in obstacle.message


def test_a_slower_pool_gets_fewer_jobs() -> None:
    assert waiting(pods("a"), pods("b"), estimates=Estimates({PoolModel("b", "tiny"): 20.0})) == {"a": 8, "b": 4}


def test_a_single_job_goes_to_the_faster_pool() -> None:
    slow = Estimates({PoolModel("a", "tiny"): 20.0})
    assert waiting(pods("a"), pods("b"), count=1, estimates=slow) == {"a": 0, "b": 1}


def test_an_external_scaler_may_have_asked_for_more_than_max_replicas() -> None:
    assert waiting(pods("a", mode="External", replicas=3), pods("b")) == {"a": 9, "b": 3}


def test_jobs_that_run_and_jobs_that_are_bound_fill_a_pool_for_the_others() -> None:
    found = book(
        held("long", pool="a", resolved=RESOLVED.model_copy(update={"chunks": 7})),
        begun("bound", pool="a"),
        job("free", created=ago(10)),
        models=[TINY],
        pools=[pods("a"), pods("b")],
    )
    assert asked(found) == {"a": Demand(80, 1, 1), "b": Demand(50, 1, 0)}


def test_what_has_one_pool_comes_before_what_has_a_choice() -> None:
    """Also where the one with the choice is first by name, and was there first."""
    found = book(
        *(job(f"any{index}", model="any", created=ago(900)) for index in range(2)),
        *(job(f"bound{index}", model="bound") for index in range(2)),
        models=[model("any", estimate=Estimate(chunk_seconds=10)), model("bound", estimate=Estimate(chunk_seconds=10))],
        pools=[pods("a", models=["any", "bound"]), pods("b", models=["any"])],
    )
    assert asked(found) == {"a": Demand(100, 2, 0), "b": Demand(100, 2, 0)}


def test_jobs_of_different_length_are_divided_by_their_mean() -> None:
    """A class has no single jobs: what counts is that the pools' parts add up to all jobs and all work."""
    found = book(
        job("short", seconds=1 / 16), job("long"), models=[TINY], pools=[pods("a"), pods("b")], estimates=Estimates()
    )
    assert asked(found) == {"a": Demand(30, 1, 0), "b": Demand(30, 1, 0)}


def test_a_class_that_the_model_does_not_allow_does_not_hide_the_others() -> None:
    found = book(
        job("a", queue="open"),
        job("b", queue="stopped"),
        job("c", queue="missing"),
        job("d", queue="open", seconds=61.0),
        models=[TINY],
        queues=[queue(name="open"), queue("Hold", name="stopped")],
    )
    assert asked(found) == {"p": Demand(50, 1, 0)}


NAMES = ("p", "q", "r")


@st.composite
def jobs(draw: st.DrawFn, index: int) -> Job:
    name, home = f"j{index:02}", draw(st.sampled_from(NAMES))
    fields: dict[str, Any] = {
        "model": draw(st.sampled_from(["tiny", "big"])),
        "priority": draw(st.integers(-1, 1)),
        "created": ago(draw(st.integers(0, 20))),
        "seconds": draw(st.sampled_from([0.1, 1.0, 3.0, 5.0])),
        "reason": draw(st.sampled_from(["Queued", "ChunkFailed", "Drained"])),
    }
    kind = draw(st.sampled_from(["new", "new", "new", "begun", "held"]))
    resolved = RESOLVED.model_copy(update={"model_uid": f"uid-{fields['model']}"})
    if kind == "begun":
        return begun(name, home, chunks_done=draw(st.integers(0, 2)), resolved=resolved, **fields)
    if kind == "held":
        return held(name, "r0", home, resolved=resolved, **fields)
    return job(name, **fields)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Job], Mapping[str, Any]]:
    """Jobs, and what else a book is built from; every job can run."""
    found = [draw(jobs(index)) for index in range(draw(st.integers(0, 15)))]
    models = [
        model(name, estimate=Estimate(chunk_seconds=draw(st.sampled_from([1, 10, 33.3])))) for name in ("tiny", "big")
    ]
    pools = [pods(name, draw(st.integers(1, 5)), models=("tiny", "big")) for name in NAMES]
    return found, {"models": models, "pools": pools, "replicas": {}}


@given(clusters(), st.randoms(use_true_random=False))
def test_totals_are_those_of_the_jobs_however_they_came(
    cluster: tuple[list[Job], Mapping[str, Any]], random: Random
) -> None:
    """By deltas: some come, change and go before the rest comes, in any order."""
    found, fields = cluster
    expected = asked(book(*found, **fields))
    waits = [one for one in found if one.assignment is None]
    assert sum(demand.waiting for demand in expected.values()) == len(waits)
    assert sum(demand.running for demand in expected.values()) == len(found) - len(waits)
    kept = book(**fields)
    shuffled = list(found)
    random.shuffle(shuffled)
    for one in shuffled:
        other = random.choice(["Queued", "Drained", "BackingOff"])
        kept.put_job(job(one.name, model=one.model, reason=other, seconds=2.0))
        if random.random() < 0.3:
            kept.drop_job(one.uid)
    random.shuffle(shuffled)
    for one in shuffled:
        kept.drop_job(one.uid)
        kept.put_job(one)
    kept.advance(MOMENT)
    assert asked(kept) == expected


@given(clusters())
def test_the_work_of_a_job_counts_for_one_pool_only(cluster: tuple[list[Job], Mapping[str, Any]]) -> None:
    """With equal estimates everywhere the pools' seconds add up to those of the jobs."""
    found, fields = cluster
    alone = {name: [managed(name, models=("tiny", "big"), scaling={"max_replicas": 1})] for name in NAMES}
    demand = asked(book(*found, **fields))
    total = sum(
        asked(book(one, **{**fields, "pools": alone[one.pool or "p"]}))[one.pool or "p"].backlog_seconds
        for one in found
    )
    assert sum(one.backlog_seconds for one in demand.values()) == pytest.approx(total)


@given(st.integers(1, 200), st.lists(st.integers(1, 9), min_size=2, max_size=4))
def test_pools_that_share_jobs_drain_together(count: int, most: list[int]) -> None:
    """To within one job: none would be done earlier with a job that another one has got."""
    names = [f"p{index}" for index in range(len(most))]
    found = book(
        *(job(f"j{index}") for index in range(count)),
        models=[TINY],
        pools=[pods(name, number) for name, number in zip(names, most, strict=True)],
        replicas={},
    )
    demand = asked(found)
    assert sum(one.waiting for one in demand.values()) == count
    assert {name: 50.0 * one.waiting for name, one in demand.items()} == {
        name: one.backlog_seconds for name, one in demand.items()
    }
    for name, number in zip(names, most, strict=True):
        for other, their in zip(names, most, strict=True):
            if demand[name].waiting:
                assert demand[name].backlog_seconds / number <= (demand[other].backlog_seconds + 50) / their + 1e-6


def test_the_cost_does_not_grow_with_the_jobs_that_wait() -> None:
    def spent(count: int) -> float:
        found = book(
            *(job(f"j{index}", created=ago(index)) for index in range(count)),
            *(held(f"h{index}") for index in range(100)),
            models=[TINY],
            pools=[pods("p", 100), pods("q", 50), pods("r", 20)],
        )
        seen = view(found, MOMENT)
        times = []
        for _ in range(5):
            began = process_time()
            demands(found, seen, MOMENT)
            times.append(process_time() - began)
        return min(times)

    assert spent(10_000) < 3 * spent(200) + 0.001
