"""What a seed stands for: a small cluster, its jobs, and all that will go wrong, drawn before anything begins."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.simulation.attempt import Settings
from tests.simulation.network import Faults

Json = dict[str, Any]
TEAM = "team"
MODEL = "tiny"
FPS = 4
MANAGED_SHARE = 0.3
"""Of histories: their first pool has pods."""


@dataclass(frozen=True)
class Managed:
    """The replicas of a pool whose pods the operator asks for."""

    least: int
    most: int
    jobs: int
    """That each takes."""
    start_seconds: float
    """From the making of a pod until its runner starts."""
    target_seconds: int
    stabilization_seconds: int
    idle_seconds: int


@dataclass(frozen=True)
class PoolPlan:
    """A pool of endpoints, by name of the replica: how many jobs each takes. A managed one has none."""

    name: str
    store: str
    endpoints: dict[str, int]
    managed: Managed | None = None


@dataclass(frozen=True)
class JobPlan:
    """A job that somebody will create."""

    name: str
    at: float
    chunks: int
    spec: Json
    fails_at: tuple[int, ...] = ()


@dataclass(frozen=True)
class Happening:
    """Something that takes place: what, to whom, when and for how long, in seconds."""

    at: float
    what: str
    whom: str = ""
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Scenario:
    """A history before it begins."""

    seed: int
    pools: tuple[PoolPlan, ...]
    jobs: tuple[JobPlan, ...]
    happenings: tuple[Happening, ...]
    faults: Faults
    store_failing: float
    calm_at: float
    settings: Settings
    operators: int = 2
    skews: dict[str, float] = field(default_factory=dict)

    @property
    def outages(self) -> list[tuple[float, float]]:
        """When nobody reached the API server."""
        return [(one.at, min(one.at + one.seconds, self.calm_at)) for one in self.happenings if one.what == "api away"]


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(seed)
    calm_at = rng.uniform(*rng.choice(((20.0, 60.0), (40.0, 120.0), (60.0, 200.0), (100.0, 350.0))))
    pools = _pools(rng)
    jobs = tuple(_job(rng, number, calm_at) for number in range(rng.randint(2, 6)))
    settings = Settings(
        cut_off_seconds=rng.choice((40.0, 80.0, 160.0)),
        chunk_seconds=rng.choice((1.0, 3.0, 6.0, 12.0)),
        failures={job.name: list(job.fails_at) for job in jobs if job.fails_at},
    )
    operators = rng.choice((1, 1, 2, 2, 2, 3))
    happenings = sorted(_happenings(rng, pools, jobs, operators, calm_at), key=lambda one: (one.at, one.what, one.whom))
    return Scenario(
        seed,
        _managed(random.Random(f"pods {seed}"), pools),
        jobs,
        tuple(happenings),
        _faults(rng),
        rng.choice((0.0, 0.0, 0.02, 0.1)),
        calm_at,
        settings,
        operators,
        {f"operator-{number}": rng.choice((0.0, -2.0, 3.0)) for number in range(operators)},
    )


def _pools(rng: random.Random) -> tuple[PoolPlan, ...]:
    def pool(name: str) -> PoolPlan:
        replicas = {f"r{number}": rng.choice((1, 1, 2)) for number in range(rng.choice((1, 1, 2, 2, 3, 4)))}
        return PoolPlan(name, f"file:///{name}", replicas)

    return tuple(pool(name) for name in ("a", "b")[: rng.choice((1, 1, 2))])


def _managed(rng: random.Random, pools: tuple[PoolPlan, ...]) -> tuple[PoolPlan, ...]:
    """In some histories the first pool is a managed one; what happens to an endpoint happens to one of its pods."""
    if rng.random() < MANAGED_SHARE:
        least = rng.choice((0, 0, 1, 2))
        managed = Managed(
            least,
            max(least, rng.choice((1, 2, 4))),
            rng.choice((1, 1, 2)),
            rng.choice((2.0, 10.0, 40.0)),
            rng.choice((1, 20, 120)),
            rng.choice((0, 10, 60)),
            rng.choice((0, 20, 60)),
        )
        return replace(pools[0], endpoints={}, managed=managed), *pools[1:]
    return pools


def _job(rng: random.Random, number: int, calm_at: float) -> JobPlan:
    chunks = rng.randint(1, 7)
    spec: Json = {
        "model": MODEL,
        "shots": [{"prompt": "A fox.", "seconds": (1 + 4 * (chunks - 1)) / FPS}],
        "priority": rng.choice((0, 0, 0, 5)),
        "backoffLimit": rng.choice((0, 1, 3)),
        "output": {"deletionPolicy": rng.choice(("Retain", "Delete"))},
    }
    if rng.random() < 0.2:
        spec["ttlSecondsAfterFinished"] = rng.choice((0, 30, 200))
    if rng.random() < 0.1:
        spec["activeDeadlineSeconds"] = rng.choice((20, 200))
    if rng.random() < 0.1:
        spec["suspend"] = True
    fails = tuple(sorted(rng.randrange(chunks) for _ in range(rng.choice((0, 0, 0, 0, 1, 2)))))
    return JobPlan(f"j{number}", rng.uniform(0.0, calm_at * 0.7), chunks, spec, fails)


def _faults(rng: random.Random) -> Faults:
    """Most histories have few kinds of faults: one that has all of them shows each of them less clearly."""
    found = Faults()
    rates = {
        "lost": 0.03,
        "unanswered": 0.06,
        "conflict": 0.1,
        "throttled": 0.2,
        "failing": 0.1,
        "gateway": 0.05,
        "slow": 0.1,
        "watch_cut": 0.2,
        "watch_twice": 0.3,
        "watch_swapped": 0.5,
        "watch_late": 0.2,
        "expired": 0.3,
    }
    for name, most in rates.items():
        if rng.random() < 0.3:
            found = replace(found, **{name: rng.uniform(0.0, most)})
    return found


def _happenings(
    rng: random.Random, pools: tuple[PoolPlan, ...], jobs: tuple[JobPlan, ...], operators: int, calm_at: float
) -> list[Happening]:
    replicas = [f"{pool.name}.{replica}" for pool in pools for replica in pool.endpoints]
    found: list[Happening] = []

    def some(share: float, most: int, make: Callable[[], Happening]) -> None:
        if rng.random() < share:
            found.extend(make() for _ in range(rng.randint(1, most)))

    def at() -> float:
        return rng.uniform(2.0, calm_at * 0.9)

    def operator() -> str:
        return rng.choice(("leader", f"operator-{rng.randrange(operators)}"))

    outages = (3.0, 9.0, 20.0, 60.0, 300.0)
    some(0.4, 2, lambda: Happening(at(), "api away", "", rng.choice(outages), rng.choice(("refused", "frozen"))))
    some(0.3, 3, lambda: Happening(at(), "kill runner", rng.choice(replicas), rng.choice((0.5, 8.0, 40.0))))
    some(0.2, 2, lambda: Happening(at(), "pause runner", rng.choice(replicas), rng.choice((5.0, 20.0, 60.0, 150.0))))
    some(0.2, 2, lambda: Happening(at(), "cut runner", rng.choice(replicas), rng.choice((10.0, 40.0, 150.0))))
    some(0.1, 2, lambda: Happening(at(), "replace runner", rng.choice(replicas), rng.choice((30.0, 100.0))))
    some(0.3, 3, lambda: Happening(at(), "kill operator", operator(), rng.choice((0.5, 5.0, 30.0))))
    some(0.15, 2, lambda: Happening(at(), "pause operator", operator(), rng.choice((3.0, 10.0, 40.0))))
    some(0.15, 2, lambda: Happening(at(), "cut operator", operator(), rng.choice((4.0, 12.0, 60.0))))
    some(0.2, 2, lambda: Happening(at(), "blind operator", operator(), rng.choice((20.0, 100.0, 200.0))))
    some(0.2, 2, lambda: Happening(at(), "compact"))
    some(0.2, 2, lambda: Happening(at(), "store down", rng.choice(pools).store, rng.choice((5.0, 40.0, 400.0))))
    some(0.1, 1, lambda: Happening(at(), "lock files", rng.choice(jobs).name, rng.choice((20.0, 400.0))))
    some(0.15, 2, lambda: Happening(at(), "unreadable job", rng.choice(jobs).name))
    kinds = ("videoqueues", "videomodels", "gpupools")
    some(0.15, 2, lambda: Happening(at(), "unreadable", rng.choice(kinds), rng.choice((10.0, 60.0))))
    some(0.1, 1, lambda: Happening(at(), "unreadable report", rng.choice(replicas), rng.choice((10.0, 60.0))))
    garbage = ("leases", "videojobs", "videoqueues", "videomodels", "gpupools", "configmaps")
    some(0.15, 3, lambda: Happening(at(), "garbage", rng.choice(garbage)))
    some(0.15, 1, lambda: Happening(at(), "endpoint gone", rng.choice(replicas), rng.choice((10.0, 60.0))))
    some(0.1, 1, lambda: Happening(at(), "endpoint resized", rng.choice(replicas), 0.0, rng.choice(("1", "2", "3"))))
    some(0.1, 1, lambda: Happening(at(), "drain", rng.choice(replicas), rng.choice((10.0, 60.0))))
    some(
        0.2, 2, lambda: Happening(at(), "hold queue", "", rng.choice((5.0, 60.0)), rng.choice(("Hold", "HoldAndDrain")))
    )
    for job in jobs:
        moment = job.at + rng.expovariate(1 / 40.0) + 0.5
        chance = rng.random()
        if chance < 0.12:
            found.append(Happening(moment, "suspend", job.name, rng.uniform(0.1, 40.0)))
        elif chance < 0.2:
            found.append(Happening(moment, "cancel", job.name))
        elif chance < 0.32:
            found.append(Happening(moment, "delete", job.name))
        elif chance < 0.4:
            found.append(Happening(moment, "give a TTL", job.name, 0.0, str(rng.choice((0, 20, 100)))))
    return [one for one in found if one.at < calm_at]
