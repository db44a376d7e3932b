"""What holds whenever a pool scales: of one decision, of any sequence of them, and of a pool in virtual time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from videojob.api.gpupool import Scaling
from videojob.planner.scaling import Demand, History, Recommendation, Replicas, ScalingDecision, ScalingReason, scale

COLD = st.sampled_from([None, 0.0, 30.0, 120.0, 900.0])


@st.composite
def scalings(draw: st.DrawFn) -> Scaling:
    least = draw(st.integers(0, 4))
    return Scaling(
        min_replicas=least,
        max_replicas=draw(st.integers(max(least, 1), 12)),
        target_seconds=draw(st.sampled_from([1, 60, 600])),
        stabilization_seconds=draw(st.sampled_from([0, 1, 60, 300])),
        idle_seconds=draw(st.sampled_from([0, 1, 60, 600])),
    )


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    waiting, running = draw(st.integers(0, 30)), draw(st.integers(0, 12))
    return Demand(draw(st.floats(0, 20_000)) if waiting + running else 0.0, waiting, running)


@st.composite
def replicas(draw: st.DrawFn) -> Replicas:
    wanted = draw(st.integers(0, 14))
    return Replicas(wanted, draw(st.integers(0, wanted)), draw(st.integers(0, wanted)))


@st.composite
def histories(draw: st.DrawFn) -> History:
    times = sorted(draw(st.lists(st.floats(0, 1000), max_size=5)))
    numbers = sorted(draw(st.lists(st.integers(0, 14), min_size=len(times), max_size=len(times))), reverse=True)
    seen = tuple(Recommendation(time, number) for time, number in zip(times, numbers, strict=True))
    return History(seen, draw(st.none() | st.floats(0, 1000)))


JOBS_PER_REPLICA = st.integers(1, 4)
SITUATION = (scalings(), JOBS_PER_REPLICA, demands(), replicas(), COLD, histories())


@given(*SITUATION)
def test_the_number_is_within_its_limits_and_no_busy_replica_goes(
    scaling: Scaling, jobs_per_replica: int, demand: Demand, there: Replicas, cold: float | None, history: History
) -> None:
    made = scale(scaling, jobs_per_replica, demand, there, cold, history, 1000.0)
    assert there.busy <= made.wanted
    assert scaling.min_replicas <= made.wanted <= max(scaling.max_replicas, there.busy)
    assert made.wanted > 0 or demand.jobs == 0
    assert made.wake_seconds is None or 0 < made.wake_seconds <= max(
        scaling.stabilization_seconds, scaling.idle_seconds
    )


@given(*SITUATION)
def test_more_replicas_are_never_asked_for_than_jobs_can_use(
    scaling: Scaling, jobs_per_replica: int, demand: Demand, there: Replicas, cold: float | None, history: History
) -> None:
    made = scale(scaling, jobs_per_replica, demand, there, cold, history, 1000.0)
    if made.wanted > max(there.wanted, scaling.min_replicas):
        assert (made.wanted - 1) * jobs_per_replica < demand.jobs


@given(*SITUATION, st.floats(0, 20_000))
def test_a_longer_backlog_never_means_fewer_replicas(
    scaling: Scaling,
    jobs_per_replica: int,
    demand: Demand,
    there: Replicas,
    cold: float | None,
    history: History,
    more: float,
) -> None:
    assume(demand.jobs > 0)
    longer = demand._replace(backlog_seconds=demand.backlog_seconds + more)
    first = scale(scaling, jobs_per_replica, demand, there, cold, history, 1000.0)
    second = scale(scaling, jobs_per_replica, longer, there, cold, history, 1000.0)
    assert first.wanted <= second.wanted


@given(*SITUATION, st.booleans())
def test_the_same_situation_gives_the_same_decision_at_any_time_of_day(
    scaling: Scaling,
    jobs_per_replica: int,
    demand: Demand,
    there: Replicas,
    cold: float | None,
    history: History,
    paused: bool,
) -> None:
    def made() -> ScalingDecision:
        return scale(scaling, jobs_per_replica, demand, there, cold, history, 1000.0, paused=paused)

    assert made() == made()
    later = History(
        tuple(entry._replace(until=entry.until + 4096) for entry in history.recommendations),
        None if history.idle_since is None else history.idle_since + 4096,
    )
    shifted = scale(scaling, jobs_per_replica, demand, there, cold, later, 1000.0 + 4096, paused=paused)
    assert shifted[:3] == made()[:3]


@given(*SITUATION)
def test_a_pause_changes_nothing(
    scaling: Scaling, jobs_per_replica: int, demand: Demand, there: Replicas, cold: float | None, history: History
) -> None:
    made = scale(scaling, jobs_per_replica, demand, there, cold, history, 1000.0, paused=True)
    assert (made.wanted, made.reason) == (there.wanted, ScalingReason.PAUSED)


@given(
    scalings(),
    COLD,
    st.lists(st.tuples(st.sampled_from([1.0, 20.0, 100.0]), demands(), st.integers(0, 12)), max_size=30),
)
def test_whatever_comes_a_number_that_was_needed_is_kept_for_a_window_and_history_is_bounded(
    scaling: Scaling, cold: float | None, steps: list[tuple[float, Demand, int]]
) -> None:
    now, wanted, history = 0.0, scaling.min_replicas, History()
    needed: list[tuple[float, int]] = []
    for pause, demand, busy in steps:
        now += pause
        made = scale(scaling, 1, demand, Replicas(wanted, wanted, min(busy, wanted)), cold, history, now)
        if made.reason is ScalingReason.IDLE:
            needed.clear()
        if made.wanted > wanted:
            needed.append((now, made.wanted))
        recent = [number for time, number in needed if time > now - scaling.stabilization_seconds]
        assert made.wanted >= max(recent, default=0)
        assert len(made.history.recommendations) <= scaling.max_replicas + 1
        wanted, history = made.wanted, made.history


@dataclass
class Server:
    """A replica in virtual time."""

    ready_at: float
    done_at: float | None = None


@dataclass
class Simulated:
    """A pool in virtual time, in steps of `STEP` seconds: jobs take their turn on replicas that start and stop."""

    STEP = 5.0

    scaling: Scaling
    cold: float
    now: float = 0.0
    servers: list[Server] = field(default_factory=list)
    queue: list[float] = field(default_factory=list)
    history: History = field(default_factory=History)
    wanted: int = 0
    trace: list[tuple[float, int, str]] = field(default_factory=list)
    """Every change: when, to how many replicas, and why."""

    def step(self, arrivals: Iterable[float]) -> None:
        """Jobs of so many seconds arrive; then finished jobs go, waiting ones start, and the pool scales."""
        self.queue += arrivals
        for server in self.servers:
            if server.done_at is not None and server.done_at <= self.now:
                server.done_at = None
            if self.queue and server.done_at is None and server.ready_at <= self.now:
                server.done_at = self.now + self.queue.pop(0)
        ends = [server.done_at for server in self.servers if server.done_at is not None]
        backlog = sum(self.queue) + sum(end - self.now for end in ends)
        ready = sum(server.ready_at <= self.now for server in self.servers)
        demand = Demand(backlog, len(self.queue), len(ends))
        there = Replicas(self.wanted, ready, len(ends))
        made = scale(self.scaling, 1, demand, there, self.cold, self.history, self.now)
        assert made.wanted >= len(ends)
        assert self.scaling.min_replicas <= made.wanted <= self.scaling.max_replicas
        if made.wanted != self.wanted:
            self.trace.append((self.now, made.wanted, made.reason.value))
        self.wanted, self.history = made.wanted, made.history
        self.servers += [Server(self.now + self.cold) for _ in range(self.wanted - len(self.servers))]
        for _ in range(len(self.servers) - self.wanted):
            self.servers.remove(next(server for server in reversed(self.servers) if server.done_at is None))
        self.now += self.STEP

    def run(self, seconds: float, arrivals: Callable[[float], Iterable[float]] = lambda _: ()) -> None:
        """Go on for so many seconds; `arrivals` gives the jobs of a moment."""
        end = self.now + seconds
        while self.now < end:
            self.step(arrivals(self.now))

    @property
    def turns(self) -> int:
        """How often growing turned into shrinking or shrinking into growing."""
        numbers = [0, *(wanted for _, wanted, _ in self.trace)]
        ways = [after > before for before, after in pairwise(numbers)]
        return sum(before != after for before, after in pairwise(ways))


def steady(every: int, seconds: int) -> Callable[[float], Iterable[float]]:
    """A job of so many seconds every so many seconds."""
    return lambda now: [float(seconds)] if now % every == 0 else []


@settings(max_examples=40, deadline=None)
@given(
    every=st.integers(1, 24).map(lambda steps: 5 * steps),
    seconds=st.integers(1, 60).map(lambda steps: 5 * steps),
    cold=st.sampled_from([0.0, 30.0, 120.0]),
    target=st.sampled_from([60, 300, 600]),
    most=st.sampled_from([2, 5, 50]),
)
def test_a_steady_load_makes_the_pool_turn_at_most_once(
    every: int, seconds: int, cold: float, target: int, most: int
) -> None:
    """Up to what the start needs, down to what the load needs, and there it stays; jobs come several times a window."""
    pool = Simulated(Scaling(max_replicas=most, target_seconds=target, stabilization_seconds=300), cold)
    pool.run(14_400, steady(every, seconds))
    assert pool.turns <= 1
    if pool.wanted < most:
        assert sum(pool.queue) <= pool.wanted * target


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.5, 1.5, 2.5, 6.0]), st.sampled_from([0.0, 120.0]))
def test_a_random_load_makes_the_pool_turn_at_most_twice_a_window(seed: int, load: float, cold: float) -> None:
    random = Random(seed)
    pool = Simulated(Scaling(max_replicas=10, stabilization_seconds=300, idle_seconds=600), cold)
    pool.run(7200, lambda _: [60.0] if random.random() < load * Simulated.STEP / 60 else [])
    assert pool.turns <= 2 * 7200 / 300


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 60).map(lambda steps: 5.0 * steps), min_size=1, max_size=60),
    st.sampled_from([0.0, 120.0, 900.0]),
    st.integers(0, 2),
)
def test_after_a_burst_everything_was_made_and_the_pool_rests(burst: list[float], cold: float, least: int) -> None:
    pool = Simulated(Scaling(min_replicas=least, max_replicas=6, idle_seconds=300), cold)
    pool.step(burst)
    pool.run(cold + sum(burst) + 2 * len(burst) * Simulated.STEP)
    assert not pool.queue
    pool.run(1000)
    assert pool.wanted == least
    assert pool.turns <= 1


def test_the_trace_of_a_burst() -> None:
    """40 jobs of a minute, 5 minutes to make them, replicas that need a minute to start."""
    scaling = Scaling(max_replicas=12, target_seconds=300, stabilization_seconds=120, idle_seconds=180)
    pool = Simulated(scaling, cold=60.0)
    pool.step([60.0] * 40)
    pool.run(1000)
    assert pool.trace == [
        (0.0, 10, "ActivatedFromZero"),
        (420.0, 1, "BacklogDrained"),
        (480.0, 0, "Idle"),
    ]


def test_the_trace_of_a_load_that_doubles_and_ends() -> None:
    """A job of two minutes every minute, every half minute for half an hour, and none any more."""
    scaling = Scaling(min_replicas=1, max_replicas=8, target_seconds=300, stabilization_seconds=300, idle_seconds=300)
    pool = Simulated(scaling, cold=60.0)
    pool.run(1800, steady(60, 120))
    pool.run(1800, steady(30, 120))
    pool.run(3600)
    assert pool.trace == [
        (0.0, 1, "ActivatedFromZero"),
        (180.0, 2, "BacklogTooLong"),
        (1920.0, 3, "BacklogTooLong"),
        (2130.0, 4, "BacklogTooLong"),
        (4080.0, 2, "BacklogDrained"),
        (4140.0, 1, "BacklogDrained"),
    ]
