"""When a replica counts as unable to make anything, and when it is believed again."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from tests.planner.builders import ago, book, job, pool, replica
from tests.planner.deciding import assigned
from tests.runner.fakes import Time
from videojob.api.replica import ReplicaReport
from videojob.planner.facts import ReplicaKey
from videojob.runner.judge import FIRST_PAUSE, LONGEST_PAUSE, WELL, Judge, Verdict, failed, made
from videojob.runner.metrics import RunnerMetrics
from videojob.triton.contract import ChunkError, ErrorCode

ACCELERATOR = ChunkError(ErrorCode.ACCELERATOR_FAILED, "An illegal memory access was encountered.")
MODEL = ChunkError(ErrorCode.MODEL_FAILED, "Shapes differ.")
GONE = ChunkError(ErrorCode.STAGE_GONE, "The process has ended.")
Event = tuple[str, ChunkError] | None
"""A sequence of that job fails, or, None, a piece is made."""


def after(*events: Event, verdict: Verdict = WELL, start: float = 0.0) -> tuple[Verdict, float]:
    """The verdict after these events, one a second, each of a sequence that began just before; and the time."""
    now = start
    for event in events:
        now += 1
        verdict = made(verdict, now) if event is None else failed(verdict, *event, began=now - 0.5, now=now)
    return verdict, now


@pytest.mark.parametrize(
    ("events", "unwell"),
    [
        pytest.param([("a", ACCELERATOR)] * 2, False, id="two may be chance"),
        pytest.param([("a", ACCELERATOR)] * 3, True, id="three of the accelerator, of one job"),
        pytest.param([("a", MODEL)] * 9, False, id="one job fails for ever: it may be the job"),
        pytest.param([("a", MODEL), ("a", MODEL), ("b", MODEL)], True, id="three of two jobs"),
        pytest.param([("a", MODEL)] * 4 + [("b", GONE)], True, id="another job after one that failed for ever"),
        pytest.param([("a", GONE), ("b", GONE)], False, id="two of two jobs"),
        pytest.param([("a", ACCELERATOR), ("a", MODEL), ("a", ACCELERATOR)], False, id="not all of the accelerator"),
        pytest.param([("a", MODEL), ("b", MODEL), None, ("c", MODEL)], False, id="a piece was made meanwhile"),
    ],
)
def test_a_replica_is_unwell_after_failures_in_a_row_that_no_job_need_have_caused(
    events: list[Event], unwell: bool
) -> None:
    verdict, now = after(*events)
    assert verdict.unwell(now) is unwell


def test_what_one_end_of_a_process_does_to_all_its_jobs_is_one_failure() -> None:
    verdict = WELL
    for number in range(64):
        verdict = failed(verdict, f"job {number}", GONE, began=5.0, now=10.0 + number)
    assert verdict.failures == 1


def test_a_trial_acquits_or_doubles_the_pause_up_to_a_limit() -> None:
    verdict, pauses = after(*[("a", ACCELERATOR)] * 3)[0], []
    for _ in range(8):
        assert verdict.unwell(verdict.until - 0.1) and not verdict.on_trial(verdict.until - 0.1)
        assert verdict.on_trial(verdict.until) and not verdict.unwell(verdict.until)
        pauses.append(verdict.pause)
        verdict = after(("b", MODEL), verdict=verdict, start=verdict.until)[0]
    assert pauses == [FIRST_PAUSE * 2**n for n in range(5)] + [LONGEST_PAUSE] * 3
    assert after(None, verdict=verdict, start=verdict.until)[0] == WELL


@given(st.lists(st.none() | st.tuples(st.sampled_from("ab"), st.sampled_from([ACCELERATOR, MODEL, GONE])), max_size=30))
def test_no_piece_that_is_made_leaves_a_replica_suspected(events: list[Event]) -> None:
    verdict, now = after(*events)
    assert after(None, verdict=verdict, start=max(now, verdict.until))[0] == WELL


@pytest.fixture
def watched() -> tuple[Judge, Time, list[str], Callable[[], float | None]]:
    time, registry = Time(), CollectorRegistry()
    judge, called = Judge(time.clock.monotonic, RunnerMetrics(registry, "p", "r")), list[str]()
    judge.unwell = lambda: called.append(judge.error)
    place = {"pool": "p", "replica": "r"}
    return judge, time, called, lambda: registry.get_sample_value("videojob_runner_unwell_total", place)


def fail(judge: Judge, time: Time, error: ChunkError, times: int = 1) -> None:
    for _ in range(times):
        time.seconds += 1
        judge.failed("a", error, time.seconds - 0.5)


def test_the_replica_says_what_is_wrong_and_then_takes_one_job(
    watched: tuple[Judge, Time, list[str], Callable[[], float | None]],
) -> None:
    judge, time, called, count = watched
    fail(judge, time, ACCELERATOR, 3)
    assert called == [judge.error]
    assert "fails whatever it gets" in judge.error and ACCELERATOR.sentence in judge.error
    assert count() == 1

    time.seconds += FIRST_PAUSE
    assert (judge.error, judge.room(4), judge.room(0)) == ("", 1, 0)
    judge.made()
    assert judge.room(4) == 4


@pytest.mark.parametrize("reason", set(ErrorCode) - {ErrorCode.ACCELERATOR_FAILED, ErrorCode.STAGE_GONE, "ModelFailed"})
def test_what_the_job_or_the_runner_has_caused_says_nothing(
    watched: tuple[Judge, Time, list[str], Callable[[], float | None]], reason: ErrorCode
) -> None:
    judge, time, called, _ = watched
    fail(judge, time, ChunkError(reason, "No."), 9)
    assert (called, judge.error) == ([], "")


def test_a_broken_replica_gets_few_of_twenty_jobs_and_fails_none() -> None:
    """Planner and judge together: two replicas of one slot, `r0` with a broken accelerator, a round a minute."""
    waiting = {name: job(name, created=ago(60 - index)) for index, name in enumerate("abcdefghijklmnopqrst")}
    time, rounds, returned = Time(), 0, Counter[str]()
    judge = Judge(time.clock.monotonic, RunnerMetrics(CollectorRegistry(), "p", "r0"))
    pools = [pool(replicas=("r0", "r1"), max_jobs=1)]
    while waiting:
        rounds += 1
        time.seconds += 60
        broken = replica(accelerator_error=judge.error, slots=judge.room(1))
        places = assigned(book(*waiting.values(), pools=pools, replicas={"p/r0": broken, "p/r1": replica(slots=1)}))
        assert "p/r1" in places.values(), "the good replica idles"
        for name, place in places.items():
            if place == "p/r1":
                del waiting[name]
            else:
                returned[name] += 1
                while not judge.error:
                    fail(judge, time, ACCELERATOR)
                waiting[name] = replace(waiting[name], failed_on=ReplicaKey("p", "r0"))
    assert rounds == 20
    assert set(returned.values()) == {1}, "a job was given back to the replica that it failed on"
    assert len(returned) <= 6, "the pauses do not become longer"


def test_a_report_without_the_field_is_of_a_replica_that_is_well() -> None:
    """As an older runner writes it."""
    assert ReplicaReport(slots=1).accelerator_error == ""
