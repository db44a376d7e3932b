"""How many replicas a pool should have, one case a line, and what is remembered from case to case."""

from typing import Any

import pytest

from videojob.api.gpupool import Scaling
from videojob.planner.scaling import Demand, History, Recommendation, Replicas, ScalingDecision, scale

NOW = 10_000.0
LIMITS: dict[str, Any] = {"min_replicas": 0, "max_replicas": 10, "target_seconds": 600}
WINDOW: dict[str, Any] = {"stabilization_seconds": 300, "idle_seconds": 200}


def settled(replicas: int) -> History:
    """Nothing but this number was recommended for a long time, until just now."""
    return History((Recommendation(NOW, replicas),))


def decide(
    demand: Demand,
    wanted: int = 0,
    ready: int | None = None,
    busy: int = 0,
    cold: float | None = None,
    history: History | None = None,
    now: float = NOW,
    jobs_per_replica: int = 1,
    paused: bool = False,
    **scaling: Any,
) -> ScalingDecision:
    limits = Scaling(**LIMITS | WINDOW | scaling)
    replicas = Replicas(wanted, wanted if ready is None else ready, busy)
    past = settled(wanted) if history is None else history
    return scale(limits, jobs_per_replica, demand, replicas, cold, past, now, paused=paused)


def load(backlog: float, jobs: int = 100, running: int = 0) -> Demand:
    return Demand(backlog, jobs - running, running)


NONE = Demand()


@pytest.mark.parametrize(
    ("decision", "wanted", "reason", "message"),
    [
        pytest.param(decide(NONE), 0, "Idle", "No job: 0 replicas.", id="a pool without jobs rests"),
        pytest.param(
            decide(load(50, jobs=1)),
            1,
            "ActivatedFromZero",
            "1 job with a backlog of 50 s and no replica: 1 replica for targetSeconds (600 s).",
            id="one job wakes it",
        ),
        pytest.param(
            decide(load(0, jobs=1)),
            1,
            "ActivatedFromZero",
            "1 job with a backlog of 0 s and no replica: 1 replica for targetSeconds (600 s).",
            id="even if next to nothing of it is left",
        ),
        pytest.param(
            decide(load(1300)),
            3,
            "ActivatedFromZero",
            "100 jobs with a backlog of 1,300 s and no replica: 3 replicas for targetSeconds (600 s).",
            id="it wakes as large as it has to be",
        ),
        pytest.param(
            decide(load(9000)),
            10,
            "ActivatedFromZero",
            "100 jobs with a backlog of 9,000 s and no replica: 15 replicas for targetSeconds (600 s), "
            "maxReplicas is 10.",
            id="but not larger than it may be",
        ),
        pytest.param(
            decide(load(1200), wanted=2),
            2,
            "Steady",
            "2 replicas: the backlog is drained within targetSeconds (600 s).",
            id="two replicas drain 1,200 s within 600 s",
        ),
        pytest.param(
            decide(load(1240), wanted=2),
            3,
            "BacklogTooLong",
            "A backlog of 1,240 s on 2 replicas is more than targetSeconds (600 s): 3 replicas.",
            id="but not 1,240 s",
        ),
        pytest.param(
            decide(load(9000), wanted=10),
            10,
            "AtMaximum",
            "The backlog needs 15 replicas for targetSeconds (600 s), maxReplicas is 10.",
            id="at its maximum the message has what it lacks",
        ),
        pytest.param(
            decide(load(50, jobs=1), wanted=2, min_replicas=2),
            2,
            "AtMinimum",
            "1 replica would be enough, minReplicas is 2.",
            id="at its minimum the message has what would suffice",
        ),
        pytest.param(
            decide(NONE, wanted=2, min_replicas=2), 2, "Idle", "No job: 2 replicas.", id="a minimum stays without jobs"
        ),
        pytest.param(
            decide(load(6000, jobs=3), wanted=1),
            3,
            "BacklogTooLong",
            "A backlog of 6,000 s on 1 replica is more than targetSeconds (600 s): 3 replicas.",
            id="three jobs cannot use a fourth replica",
        ),
        pytest.param(
            decide(load(6000, jobs=3), wanted=1, jobs_per_replica=2),
            2,
            "BacklogTooLong",
            "A backlog of 6,000 s on 1 replica is more than targetSeconds (600 s): 2 replicas.",
            id="nor a third one, where two share a replica",
        ),
        pytest.param(
            decide(load(600), wanted=3),
            3,
            "Stabilizing",
            "1 replica would be enough; that must hold for stabilizationSeconds (300 s).",
            id="fewer would do, but only just now",
        ),
        pytest.param(
            decide(load(600), wanted=3, history=History((Recommendation(NOW - 300, 2), Recommendation(NOW, 1)))),
            1,
            "BacklogDrained",
            "1 replica sufficed for stabilizationSeconds (300 s); a backlog of 600 s is left.",
            id="for the whole window: they go",
        ),
        pytest.param(
            decide(load(600), wanted=3, history=History((Recommendation(NOW - 299, 2), Recommendation(NOW, 1)))),
            2,
            "BacklogDrained",
            "2 replicas sufficed for stabilizationSeconds (300 s); a backlog of 600 s is left.",
            id="not below the highest number of the window",
        ),
        pytest.param(
            decide(load(600), wanted=3, stabilization_seconds=0),
            1,
            "BacklogDrained",
            "1 replica sufficed for stabilizationSeconds (0 s); a backlog of 600 s is left.",
            id="without a window they go at once",
        ),
        pytest.param(
            decide(load(600), wanted=3, history=History()),
            3,
            "Stabilizing",
            "1 replica would be enough; that must hold for stabilizationSeconds (300 s).",
            id="an operator that has just started keeps what is there",
        ),
        pytest.param(
            decide(load(1800), wanted=2, history=History()),
            3,
            "BacklogTooLong",
            "A backlog of 1,800 s on 2 replicas is more than targetSeconds (600 s): 3 replicas.",
            id="but adds what is missing",
        ),
        pytest.param(
            decide(load(600, running=3), wanted=3, busy=3, stabilization_seconds=0),
            3,
            "BusyReplicas",
            "1 replica would be enough, but 3 hold jobs.",
            id="a busy replica stays, however little it has left",
        ),
        pytest.param(
            decide(load(600, running=2), wanted=3, busy=2, stabilization_seconds=0),
            2,
            "BacklogDrained",
            "2 replicas sufficed for stabilizationSeconds (0 s); a backlog of 600 s is left.",
            id="the idle one beside it goes",
        ),
        pytest.param(
            decide(NONE, wanted=2, busy=2, history=settled(0), stabilization_seconds=0, idle_seconds=0),
            2,
            "BusyReplicas",
            "1 replica would be enough, but 2 hold jobs.",
            id="also with a job that does not count any more, such as a cancelled one",
        ),
        pytest.param(
            decide(load(600), wanted=2, busy=5),
            2,
            "BusyReplicas",
            "1 replica would be enough, but 2 hold jobs.",
            id="a busy pod beyond the wanted ones is on its way out, and brings back none",
        ),
        pytest.param(
            decide(load(600), wanted=5, max_replicas=4),
            4,
            "AtMaximum",
            "maxReplicas is 4: 4 replicas.",
            id="a maximum that was lowered holds at once",
        ),
        pytest.param(
            decide(load(6000), wanted=5, busy=5, max_replicas=4),
            5,
            "BusyReplicas",
            "maxReplicas is 4, but 5 replicas hold jobs: each goes when its jobs are done.",
            id="except that a busy replica stays",
        ),
        pytest.param(
            decide(NONE, wanted=1, min_replicas=3),
            3,
            "AtMinimum",
            "minReplicas is 3: 3 replicas.",
            id="so does a minimum that was raised",
        ),
        pytest.param(
            decide(load(600), wanted=1, min_replicas=3),
            3,
            "AtMinimum",
            "minReplicas is 3: 3 replicas.",
            id="with jobs as well",
        ),
        pytest.param(
            decide(load(9000), wanted=2, paused=True),
            2,
            "Paused",
            "Scaling is paused by annotation.",
            id="a paused pool stays as it is",
        ),
        pytest.param(
            decide(load(9000), wanted=20, paused=True),
            20,
            "Paused",
            "Scaling is paused by annotation.",
            id="even beyond its limits",
        ),
    ],
)
def test_the_number_of_replicas(decision: ScalingDecision, wanted: int, reason: str, message: str) -> None:
    assert (decision.wanted, decision.reason, decision.message) == (wanted, reason, message)


@pytest.mark.parametrize(
    ("decision", "wanted", "reason"),
    [
        pytest.param(decide(load(1200)), 2, "ActivatedFromZero", id="a cold start that nobody has seen counts as none"),
        pytest.param(decide(load(1200), cold=200.0), 3, "ActivatedFromZero", id="new replicas have 400 s of the 600 s"),
        pytest.param(decide(load(1200), cold=599.0), 8, "ActivatedFromZero", id="and 150 s at the least"),
        pytest.param(decide(load(1200), cold=9e9), 8, "ActivatedFromZero", id="however slowly they start"),
        pytest.param(decide(load(1800), wanted=2, cold=300.0), 4, "BacklogTooLong", id="those that run have all 600 s"),
        pytest.param(decide(load(1800), wanted=4, ready=2, cold=300.0), 4, "Steady", id="those that start have not"),
        pytest.param(decide(load(1800), wanted=4, cold=300.0), 4, "Stabilizing", id="until they have started"),
        pytest.param(
            decide(load(1300), wanted=2, cold=700.0), 2, "ColdStartExceedsBacklog", id="another one would find nothing"
        ),
        pytest.param(decide(load(1400), wanted=2, cold=700.0), 2, "ColdStartExceedsBacklog", id="nor here, by a hair"),
        pytest.param(decide(load(1401), wanted=2, cold=700.0), 4, "BacklogTooLong", id="but here it would"),
        pytest.param(decide(load(400), wanted=0, cold=700.0), 3, "ActivatedFromZero", id="the first one never does"),
        pytest.param(decide(load(700), wanted=1, ready=0, cold=900.0), 5, "BacklogTooLong", id="nor if none is ready"),
        pytest.param(
            decide(load(1300), wanted=2, cold=700.0, min_replicas=3), 3, "AtMinimum", id="nor one that is asked for"
        ),
    ],
)
def test_the_cold_start(decision: ScalingDecision, wanted: int, reason: str) -> None:
    assert (decision.wanted, decision.reason) == (wanted, reason)


def test_a_person_can_see_that_the_cold_start_made_it_more() -> None:
    assert decide(load(1800), wanted=2, cold=300.0).message == (
        "A backlog of 1,800 s on 2 replicas is more than targetSeconds (600 s): 4 replicas, "
        "as a cold start takes 300 s."
    )


def test_why_another_replica_would_come_too_late() -> None:
    assert decide(load(1300), wanted=2, cold=700.0).message == (
        "The backlog is more than targetSeconds (600 s), but 2 replicas will have drained it before another one has "
        "started (700 s)."
    )


class Pool:
    """Decisions one after another, each with what the last one left."""

    def __init__(self, wanted: int, **scaling: Any) -> None:
        self.wanted, self.history, self.scaling = wanted, History(), scaling
        self.last: ScalingDecision | None = None

    def at(self, seconds: float, demand: Demand, busy: int = 0, **fields: Any) -> tuple[int, str, float | None]:
        """Wanted replicas, reason, and seconds until time alone may change that."""
        self.last = decide(
            demand,
            self.wanted,
            busy=busy,
            history=self.history,
            now=NOW + seconds,
            **self.scaling | fields,
        )
        self.wanted, self.history = self.last.wanted, self.last.history
        return self.last.wanted, self.last.reason.value, self.last.wake_seconds


def test_the_pool_shrinks_once_fewer_were_enough_for_the_whole_window() -> None:
    pool = Pool(1)
    assert pool.at(0, load(1800)) == (3, "BacklogTooLong", None)
    assert pool.at(100, load(700)) == (3, "Stabilizing", 300)
    assert pool.at(200, load(500)) == (3, "Stabilizing", 200)
    assert pool.at(399, load(400)) == (3, "Stabilizing", 1)
    assert pool.at(400, load(400)) == (2, "BacklogDrained", 100)
    assert pool.at(499, load(400)) == (2, "Stabilizing", 1)
    assert pool.at(500, load(400)) == (1, "BacklogDrained", None)
    assert pool.at(600, load(400)) == (1, "Steady", None)


def test_a_new_peak_starts_the_window_again() -> None:
    pool = Pool(3)
    assert pool.at(0, load(400)) == (3, "Stabilizing", 300)
    assert pool.at(200, load(1300)) == (3, "Steady", None)
    assert pool.at(300, load(400)) == (3, "Stabilizing", 300)
    assert pool.at(599, load(400)) == (3, "Stabilizing", 1)
    assert pool.at(600, load(400)) == (1, "BacklogDrained", None)


def test_a_number_holds_until_the_next_decision_however_late_that_comes() -> None:
    pool = Pool(3)
    assert pool.at(0, load(1800)) == (3, "Steady", None)
    assert pool.at(5000, load(400)) == (3, "Stabilizing", 300)


def test_a_gap_between_two_jobs_does_not_cost_a_replica() -> None:
    pool = Pool(3)
    for seconds in range(0, 2000, 50):
        busy = 2 if seconds % 100 else 3
        assert pool.at(seconds, load(500, running=busy), busy=busy)[0] == 3


def test_the_last_replica_goes_after_idle_seconds_without_any_job() -> None:
    pool = Pool(1)
    assert pool.at(0, load(50, jobs=1, running=1), busy=1) == (1, "Steady", None)
    assert pool.at(100, NONE, busy=1)[0] == 1
    assert pool.at(120, NONE) == (1, "Stabilizing", 200)
    assert pool.last is not None
    assert pool.last.message == "No job; 0 replicas after idleSeconds (200 s)."
    assert pool.at(319, NONE) == (1, "Stabilizing", 1)
    assert pool.at(320, NONE) == (0, "Idle", None)
    assert pool.last.message == "No job for idleSeconds (200 s): 0 replicas."
    assert pool.at(321, NONE) == (0, "Idle", None)
    assert pool.last.message == "No job: 0 replicas."
    assert pool.at(900, NONE, min_replicas=2) == (2, "AtMinimum", None)


def test_a_job_starts_the_idle_time_again() -> None:
    pool = Pool(1)
    assert pool.at(0, NONE) == (1, "Stabilizing", 200)
    assert pool.at(199, load(50, jobs=1))[0] == 1
    assert pool.at(250, NONE) == (1, "Stabilizing", 200)


def test_after_idle_seconds_all_replicas_go_however_long_the_window() -> None:
    pool = Pool(5, min_replicas=1, stabilization_seconds=5000)
    assert pool.at(0, NONE) == (5, "Stabilizing", 200)
    assert pool.at(200, NONE) == (1, "Idle", None)


def test_without_a_window_one_replica_stays_for_idle_seconds() -> None:
    pool = Pool(5, stabilization_seconds=0)
    assert pool.at(0, NONE) == (1, "BacklogDrained", 200)
    assert pool.at(200, NONE) == (0, "Idle", None)


def test_a_restarted_operator_waits_for_a_window_and_for_idle_seconds_once_more() -> None:
    pool = Pool(5, idle_seconds=400)
    assert pool.at(0, NONE) == (5, "Stabilizing", 300)
    assert pool.at(300, NONE) == (1, "BacklogDrained", 100)
    assert pool.at(400, NONE) == (0, "Idle", None)


def test_after_a_pause_the_window_starts_again() -> None:
    pool = Pool(3)
    assert pool.at(0, load(400)) == (3, "Stabilizing", 300)
    assert pool.at(200, load(400), paused=True) == (3, "Paused", None)
    assert pool.at(400, load(400)) == (3, "Stabilizing", 300)


def test_a_maximum_that_is_raised_is_used_and_one_that_is_lowered_leaves_busy_replicas() -> None:
    pool = Pool(2)
    assert pool.at(0, load(6000, running=2), busy=2, max_replicas=4)[:2] == (4, "BacklogTooLong")
    assert pool.at(1, load(6000, running=4), busy=4, max_replicas=8)[:2] == (8, "BacklogTooLong")
    assert pool.at(2, load(6000, running=6), busy=6, max_replicas=4)[:2] == (6, "BusyReplicas")
    assert pool.at(3, load(6000, running=5), busy=5, max_replicas=4)[:2] == (5, "BusyReplicas")
    assert pool.at(4, load(6000, running=4), busy=4, max_replicas=4)[:2] == (4, "AtMaximum")
