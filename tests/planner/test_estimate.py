"""What chunks are predicted to take, and what measuring them changes."""

from math import inf, isclose, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planner.builders import RESOLVED, begun, job, model, pool
from videojob.api.gpupool import GPUPool, GPUPoolStatus, ModelEstimate
from videojob.api.videojob import Resolved
from videojob.api.videomodel import Estimate
from videojob.planner.estimate import Estimates, PoolModel, remaining_work
from videojob.planner.facts import Job
from videojob.planner.resolve import resolve

TINY = model(estimate=Estimate(chunk_seconds=8.0))


def measured(seconds: float) -> Estimates:
    return Estimates({PoolModel("p", "tiny"): seconds})


def sized(**fields: Any) -> Resolved:
    return RESOLVED.model_copy(update=fields)


@pytest.mark.parametrize(
    ("width", "height", "steps", "expected"),
    [
        pytest.param(832, 480, 4, 8.0, id="at the defaults it is the estimate"),
        pytest.param(832, 480, 8, 16.0, id="twice the steps take twice the time"),
        pytest.param(1664, 960, 4, 32.0, id="four times the pixels take four times the time"),
        pytest.param(416, 480, 2, 2.0, id="half of both takes a quarter"),
    ],
)
def test_a_chunk_is_predicted_by_its_work(width: int, height: int, steps: int, expected: float) -> None:
    assert Estimates().chunk_seconds("p", TINY, width, height, steps) == expected


def test_what_was_measured_on_a_pool_counts_there_and_nowhere_else() -> None:
    estimates = measured(2.0)
    assert estimates.chunk_seconds("p", TINY, 832, 480, 4) == 2.0
    assert estimates.chunk_seconds("p", TINY, 832, 480, 8) == 4.0
    assert estimates.chunk_seconds("q", TINY, 832, 480, 4) == 8.0
    assert estimates.chunk_seconds("p", model("other"), 832, 480, 4) == model().spec.estimate.chunk_seconds


@pytest.mark.parametrize(
    ("found", "chunks"),
    [
        pytest.param(job(seconds=3.0), 5.0, id="48 frames: one chunk of 1, four of 12"),
        pytest.param(job(seconds=1 / 16), 1.0, id="a single frame is a chunk"),
        pytest.param(job(seconds=3.0, fps=8), 3.0, id="fewer frames a second, fewer chunks"),
        pytest.param(job(seconds=3.0, steps=8), 10.0, id="more steps, more work a chunk"),
        pytest.param(begun(chunks_done=0), 5.0, id="a job that has begun knows its chunks"),
        pytest.param(begun(chunks_done=2), 3.0, id="finished chunks are not made again"),
        pytest.param(begun(chunks_done=2, resolved=sized(steps=2)), 1.5, id="the resolved size counts"),
        pytest.param(begun(chunks_done=5), 0.0, id="after the last chunk nothing is left"),
        pytest.param(begun(chunks_done=9), 0.0, id="nor is there ever less than nothing"),
    ],
)
def test_what_is_left_of_a_job(found: Job, chunks: float) -> None:
    assert remaining_work(found, TINY) == chunks
    assert Estimates().remaining_seconds("p", found, TINY) == 8.0 * chunks


@given(
    st.floats(0.05, 60),
    st.sampled_from([None, 8, 24]),
    st.sampled_from([None, 416]),
    st.sampled_from([None, 1, 30]),
)
def test_being_assigned_does_not_change_what_is_left(
    seconds: float, fps: int | None, width: int | None, steps: int | None
) -> None:
    before = job(seconds=seconds, fps=fps, width=width, steps=steps)
    after = job(seconds=seconds, resolved=resolve(before, TINY, "sha256:aa"))
    assert remaining_work(before, TINY) == remaining_work(after, TINY)


@pytest.mark.parametrize(
    ("chunks", "wall_seconds", "jobs", "resolved", "expected"),
    [
        pytest.param(1, 8.0, 1, RESOLVED, 8.0, id="as predicted"),
        pytest.param(1, 13.0, 1, RESOLVED, 9.0, id="one chunk moves the estimate by a fifth of the way"),
        pytest.param(1, 3.0, 1, RESOLVED, 7.0, id="and down as well"),
        pytest.param(2, 26.0, 1, RESOLVED, 9.8, id="two chunks count as two observations"),
        pytest.param(1, 26.0, 2, RESOLVED, 9.0, id="a replica that two jobs share works on each half of the time"),
        pytest.param(1, 26.0, 1, sized(steps=8), 9.0, id="a chunk of twice the work counts half"),
        pytest.param(1, 1e6, 1, RESOLVED, 14.4, id="a clock that jumped counts as five times the estimate"),
        pytest.param(1, 1e-6, 1, RESOLVED, 6.72, id="or as a fifth of it"),
        pytest.param(1, 0.0, 1, RESOLVED, 8.0, id="no time is no observation"),
        pytest.param(1, -5.0, 1, RESOLVED, 8.0, id="nor is less than none"),
        pytest.param(1, nan, 1, RESOLVED, 8.0, id="nor what is no number"),
        pytest.param(1, inf, 1, RESOLVED, 8.0, id="nor for ever"),
        pytest.param(0, 5.0, 1, RESOLVED, 8.0, id="no chunk is no observation"),
        pytest.param(1, 5.0, 0, RESOLVED, 8.0, id="nobody's chunk is none either"),
        pytest.param(1, 5.0, 1, sized(steps=0), 8.0, id="nor is one without work"),
    ],
)
def test_an_observation(chunks: int, wall_seconds: float, jobs: int, resolved: Resolved, expected: float) -> None:
    after = Estimates().observe("p", TINY, resolved, chunks, wall_seconds, jobs)
    assert after.default_chunk_seconds("p", TINY) == pytest.approx(expected)
    assert after.default_chunk_seconds("q", TINY) == 8.0


@given(st.lists(st.tuples(st.integers(-1, 50), st.floats(), st.integers(-1, 4)), max_size=30))
def test_whatever_is_observed_the_estimate_stays_a_time(seen: list[tuple[int, float, int]]) -> None:
    estimates = Estimates()
    for chunks, wall_seconds, jobs in seen:
        before = estimates.default_chunk_seconds("p", TINY)
        estimates = estimates.observe("p", TINY, RESOLVED, chunks, wall_seconds, jobs)
        after = estimates.default_chunk_seconds("p", TINY)
        assert 0.001 <= after <= 86_400
        assert before / 5 - 1e-9 <= after <= before * 5 + 1e-9


@pytest.mark.parametrize("real", [0.3, 4.0, 300.0])
def test_a_default_that_is_far_off_is_corrected_within_40_chunks(real: float) -> None:
    estimates = Estimates()
    for _ in range(40):
        estimates = estimates.observe("p", TINY, RESOLVED, 1, real, 1)
    assert isclose(estimates.default_chunk_seconds("p", TINY), real, rel_tol=0.1)


def test_a_moment_in_which_every_replica_waits_does_not_make_the_estimate_of_a_large_pool() -> None:
    estimates = Estimates()
    for wall_seconds in [8.0] * 1000 + [16.0] * 20:
        estimates = estimates.observe("p", TINY, RESOLVED, 1, wall_seconds, 1)
    assert 8.0 < estimates.default_chunk_seconds("p", TINY) < 11.0


def remembering(*entries: ModelEstimate, models: tuple[str, ...] = ("tiny", "big")) -> GPUPool:
    return pool(models=models).model_copy(update={"status": GPUPoolStatus(estimates=entries)})


def test_a_restarted_operator_knows_what_the_status_remembers() -> None:
    estimates = Estimates({PoolModel("p", "tiny"): 2.3456, PoolModel("p", "big"): 123.4, PoolModel("q", "tiny"): 9.0})
    entries = estimates.remembered(remembering())
    assert entries == (
        ModelEstimate(model="big", chunk_seconds=120.0),
        ModelEstimate(model="tiny", chunk_seconds=2.3),
    )
    after = Estimates.restored([remembering(*entries)])
    assert after.measured == {PoolModel("p", "big"): 120.0, PoolModel("p", "tiny"): 2.3}
    assert after.remembered(remembering()) == entries


def test_only_models_that_the_pool_serves_and_that_were_measured_are_remembered() -> None:
    estimates = Estimates({PoolModel("p", "gone"): 5.0, PoolModel("p", "tiny"): 5.0})
    assert [entry.model for entry in estimates.remembered(remembering())] == ["tiny"]


@pytest.mark.parametrize("seconds", [0.0, -1.0, nan, inf])
def test_nonsense_in_a_status_is_left_out(seconds: float) -> None:
    entry = ModelEstimate.model_construct(model="tiny", chunk_seconds=seconds)
    assert Estimates.restored([remembering(entry)]).measured == {}
