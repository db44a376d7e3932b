"""Which pool a job counts for, and with how many seconds."""

from collections.abc import Iterable
from dataclasses import replace
from random import Random
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planner.builders import NOW, RESOLVED, ago, begun, held, job, loaded, model, pool, replica, snapshot
from tests.planner.test_invariants import snapshots
from videojob.api.conditions import Reason
from videojob.api.gpupool import PAUSED_ANNOTATION, GPUPool, GPUPoolSpec, Scaling, ScalingMode
from videojob.api.podtemplate import PodTemplate
from videojob.api.replica import ModelState
from videojob.api.videojob import Phase
from videojob.api.videomodel import Estimate
from videojob.planner.decisions import Wait
from videojob.planner.demand import Demand, demands
from videojob.planner.estimate import Estimates, PoolModel
from videojob.planner.plan import plan
from videojob.planner.snapshot import Container, Job, Pod, Replica, ReplicaKey, Snapshot, Workload

TINY = model(estimate=Estimate(chunk_seconds=10))
"""A job of 3 seconds is 5 chunks: 50 seconds."""


def pods(
    name: str = "p",
    most: int = 1,
    models: Iterable[str] = ("tiny",),
    mode: str = "Backlog",
    paused: bool = False,
    **fields: Any,
) -> GPUPool:
    """A managed pool."""
    annotations = {PAUSED_ANNOTATION: "true"} if paused else {}
    spec = GPUPoolSpec(
        accelerator="nvidia-h200",
        models=tuple(models),
        store=pool().spec.store,
        scaling=Scaling(mode=ScalingMode(mode), max_replicas=most),
        **fields,
    )
    metadata = pool(name).metadata.model_copy(update={"annotations": annotations})
    return GPUPool(metadata=metadata, spec=spec)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(job(), Demand(50, 1, 0), id="a job that waits"),
        pytest.param(held(), Demand(30, 0, 1), id="a job that runs counts with what is left"),
        pytest.param(begun(), Demand(30, 1, 0), id="so does one that waits for its next replica"),
        pytest.param(job(failures=1, reason="BackingOff"), Demand(50, 1, 0), id="a job that pauses comes back"),
        pytest.param(job(phase=Phase.SUSPENDED), Demand(50, 1, 0), id="a job that was resumed waits"),
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
    assert demands(snapshot(found, models=[TINY]), Estimates(), NOW) == {"p": expected}


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
    found = demands(snapshot(job("a"), held("b"), models=[TINY], stop=stop), Estimates(), NOW)["p"]
    assert (found.waiting, found.running) == (waits, runs)


def test_a_pool_without_a_job_and_one_that_does_not_run_the_model_have_no_demand() -> None:
    halves = model(precision="bfloat16")
    found = snapshot(job(), models=[halves], pools=[pool("cpu"), pods("gpu"), pods("other", models=["big"])])
    assert demands(found, Estimates(), NOW) == {"cpu": Demand(), "gpu": Demand(50, 1, 0), "other": Demand()}


def many(count: int) -> list[Job]:
    return [job(f"j{index:02}", created=ago(100 - index)) for index in range(count)]


def waiting(*pools: GPUPool, count: int = 12, estimates: Estimates | None = None) -> dict[str, int]:
    live = {f"{pool.metadata.name}/{endpoint.name}": replica() for pool in pools for endpoint in pool.spec.endpoints}
    found = demands(snapshot(*many(count), models=[TINY], pools=pools, replicas=live), estimates or Estimates(), NOW)
    return {name: demand.waiting for name, demand in found.items()}


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


PULLS_NOTHING = Pod(uid="u", created=ago(60), waiting=Container("ErrImagePull"))
CRASHES = Pod(uid="u", created=ago(60), waiting=Container("CrashLoopBackOff"))
NO_NODE = Pod(uid="u", created=ago(60), unschedulable_since=ago(60))
NO_NODE_FOR_LONG = Pod(uid="u", created=ago(900), unschedulable_since=ago(900))
LOADS_NOTHING = replica(models=(loaded(state=ModelState.FAILED),))
SMALL = PodTemplate(memory_bytes=10)


@pytest.mark.parametrize(
    ("a", "replicas", "pod", "workload", "able"),
    [
        pytest.param(pods("a"), {}, None, None, True, id="a pool at rest will start"),
        pytest.param(pods("a", paused=True), {}, None, None, False, id="a paused one will not"),
        pytest.param(pods("a", paused=True), {}, None, Workload(1), True, id="but for the replicas that it has"),
        pytest.param(pods("a", mode="External", replicas=0), {}, None, None, False, id="nor one that is held at zero"),
        pytest.param(pods("a", mode="External", replicas=1), {}, None, None, True, id="one is on its way"),
        pytest.param(pods("a", mode="External"), {}, None, None, True, id="an autoscaler looks at the backlog"),
        pytest.param(pods("a"), {}, None, Workload(0, "bad"), False, id="the API server refuses its template"),
        pytest.param(pods("a"), {"a/r": replica()}, None, Workload(1, "bad"), True, id="those of before go on"),
        pytest.param(pods("a"), {}, PULLS_NOTHING, Workload(1), False, id="its image is not there"),
        pytest.param(pods("a"), {}, CRASHES, Workload(1), False, id="its pods crash"),
        pytest.param(pods("a"), {}, NO_NODE, Workload(1), True, id="a node may be on its way"),
        pytest.param(pods("a"), {}, NO_NODE_FOR_LONG, Workload(1), False, id="none has come for long"),
        pytest.param(pods("a"), {"a/r": LOADS_NOTHING}, None, Workload(1), False, id="the model does not load"),
        pytest.param(pods("a"), {"a/r": replica(models=())}, None, Workload(1), True, id="it has not loaded it yet"),
        pytest.param(pool("a"), {}, None, None, False, id="endpoints without a heartbeat"),
        pytest.param(pool("a"), {"a/r0": replica(live=False)}, None, None, False, id="or with an old one"),
        pytest.param(pool("a"), {"a/r0": replica()}, None, None, True, id="endpoints with one"),
    ],
)
def test_a_pool_that_cannot_take_jobs_is_asked_only_where_no_other_can(
    a: GPUPool, replicas: dict[str, Replica], pod: Pod | None, workload: Workload | None, able: bool
) -> None:
    def waits(*pools: GPUPool) -> dict[str, int]:
        found = replace(
            snapshot(job(), models=[TINY], pools=pools, replicas=replicas),
            pods={ReplicaKey("a", "r"): pod} if pod is not None else {},
            workloads={"a": workload} if workload is not None else {},
        )
        return {name: demand.waiting for name, demand in demands(found, Estimates(), NOW).items()}

    assert waits(a, pods("b")) == ({"a": 1, "b": 0} if able else {"a": 0, "b": 1})
    assert waits(a) == {"a": 1}, "its own trouble is told, and passes"


def test_a_pool_without_the_memory_for_a_model_is_never_asked_and_the_job_says_so() -> None:
    assert waiting(pods("a", template=SMALL), pods("b"), count=3) == {"a": 0, "b": 3}
    assert waiting(pods("a", template=SMALL), count=3) == {"a": 0}
    (told,) = plan(snapshot(job(created=ago(60)), models=[TINY], pools=[pods("a", template=SMALL)]), NOW).decisions
    assert isinstance(told, Wait)
    assert told.reason == Reason.INSUFFICIENT_MEMORY
    assert "GPUPool a: template.memoryBytes is too little" in told.message


def test_a_slower_pool_gets_fewer_jobs() -> None:
    assert waiting(pods("a"), pods("b"), estimates=Estimates({PoolModel("b", "tiny"): 20.0})) == {"a": 8, "b": 4}


def test_a_single_job_goes_to_the_faster_pool() -> None:
    slow = Estimates({PoolModel("a", "tiny"): 20.0})
    assert waiting(pods("a"), pods("b"), count=1, estimates=slow) == {"a": 0, "b": 1}


def test_an_external_scaler_may_have_asked_for_more_than_max_replicas() -> None:
    wide = pods("a", mode="External")
    wide = wide.model_copy(update={"spec": wide.spec.model_copy(update={"replicas": 3})})
    assert waiting(wide, pods("b")) == {"a": 9, "b": 3}


def test_jobs_that_run_and_jobs_that_are_bound_fill_a_pool_for_the_others() -> None:
    found = snapshot(
        held("long", pool="a", resolved=RESOLVED.model_copy(update={"chunks": 7})),
        begun("bound", pool="a"),
        job("free", created=ago(10)),
        models=[TINY],
        pools=[pods("a"), pods("b")],
    )
    assert demands(found, Estimates(), NOW) == {"a": Demand(80, 1, 1), "b": Demand(50, 1, 0)}


def test_the_more_urgent_job_chooses_first() -> None:
    fast = Estimates({PoolModel("a", "tiny"): 2.0, PoolModel("b", "tiny"): 3.0})
    jobs = [job("short", seconds=1 / 16, created=ago(90)), job("long", priority=1)]
    found = demands(snapshot(*jobs, models=[TINY], pools=[pods("a"), pods("b")]), fast, NOW)
    assert found == {"a": Demand(10, 1, 0), "b": Demand(3, 1, 0)}


@given(snapshots(), st.randoms(use_true_random=False))
def test_no_job_counts_twice_and_order_does_not_matter(found: Snapshot, random: Random) -> None:
    before = demands(found, Estimates(), NOW)
    shuffled = list(found.jobs)
    random.shuffle(shuffled)
    after = demands(replace(found, jobs=tuple(shuffled)), Estimates(), NOW)
    assert before.keys() == found.pools.keys()
    for name, demand in before.items():
        assert after[name].backlog_seconds == pytest.approx(demand.backlog_seconds)
        assert after[name][1:] == demand[1:]
        assert demand.running <= sum(job.replica_key is not None and job.replica_key.pool == name for job in found.jobs)
    waits = sum(job.assignment is None and not job.phase.finished for job in found.jobs)
    assert sum(demand.waiting for demand in before.values()) <= waits


def test_ten_thousand_jobs_take_a_fraction_of_a_second() -> None:
    jobs = [job(f"j{index}", created=ago(index)) for index in range(9_000)]
    jobs += [held(f"h{index}") for index in range(1_000)]
    found = snapshot(*jobs, models=[TINY], pools=[pods("p", 100), pods("q", 50), pods("r", 20)])

    def spent() -> float:
        began = process_time()
        demands(found, Estimates(), NOW)
        return process_time() - began

    assert min(spent() for _ in range(5)) < 0.3
