"""How many replicas a managed pool should have.

A pool wants as many replicas as drain its predicted backlog within `targetSeconds`. It grows at once and shrinks
slowly: a replica goes only when fewer were enough, and fewer were busy, for the whole of `stabilizationSeconds`. Busy
replicas count because backlog alone would swing on a steady load: a pool that needs two and a half replicas has hardly
any backlog with three, and a growing one with two.

Moments are seconds of any one monotonic clock.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import NamedTuple

from videojob.api.gpupool import Scaling

LEAST_SHARE = 0.25
"""Of targetSeconds: what a new replica contributes at least, however slowly it starts. It bounds what is asked for."""
ROUNDING = 1e-9


class Demand(NamedTuple):
    """What a pool is asked to do."""

    backlog_seconds: float = 0.0
    """Predicted replica seconds of the jobs that run or wait here."""
    waiting: int = 0
    """Jobs that wait."""
    running: int = 0
    """Jobs that a replica holds, and may keep."""

    @property
    def jobs(self) -> int:
        """Jobs that run or wait."""
        return self.waiting + self.running


class Replicas(NamedTuple):
    """The replicas of a managed pool."""

    wanted: int
    """As many as the last decision asked for."""
    ready: int
    """Of these, the ones that are past their cold start: one that was ready and misses a heartbeat is no new one."""
    busy: int
    """Of these, the ones that hold a job."""


class ScalingReason(StrEnum):
    """Why a pool has the number of replicas that it has."""

    ACTIVATED_FROM_ZERO = "ActivatedFromZero"
    BACKLOG_TOO_LONG = "BacklogTooLong"
    BACKLOG_DRAINED = "BacklogDrained"
    STEADY = "Steady"
    STABILIZING = "Stabilizing"
    """Fewer would be enough, but not yet for long enough."""
    BUSY_REPLICAS = "BusyReplicas"
    """Fewer would be enough, but none of these is idle."""
    COLD_START_EXCEEDS_BACKLOG = "ColdStartExceedsBacklog"
    """More are needed to keep to targetSeconds, but they would find no work left."""
    AT_MAXIMUM = "AtMaximum"
    AT_MINIMUM = "AtMinimum"
    IDLE = "Idle"
    PAUSED = "Paused"
    EXTERNAL = "External"
    """Somebody else decides: scaling.mode is External."""


class Recommendation(NamedTuple):
    """Replicas that were needed, and until when."""

    until: float
    replicas: int


@dataclass(frozen=True, slots=True)
class History:
    """What decisions on a pool remember.

    An empty one, as after a restart, keeps the replicas that there are for a whole window.
    """

    recommendations: tuple[Recommendation, ...] = ()
    """Of the stabilisation window; only those that no later one exceeds, so there are never more than replicas."""
    idle_since: float | None = None
    """When the pool was first seen without any job."""


class ScalingDecision(NamedTuple):
    """How many replicas a pool should have."""

    wanted: int
    reason: ScalingReason
    message: str
    """For people. It changes with the decision, not with every second."""
    history: History
    """For the next decision."""
    wake_seconds: float | None
    """After so long another decision is due, even if nothing changes; None where time alone changes nothing."""


def scale(
    scaling: Scaling,
    jobs_per_replica: int,
    demand: Demand,
    replicas: Replicas,
    cold_start_seconds: float | None,
    history: History,
    now: float,
    *,
    paused: bool = False,
) -> ScalingDecision:
    """The replicas of one managed pool in mode Backlog: the same for the same arguments.

    The number lies between minReplicas and maxReplicas, except that a busy replica is never taken away. A cold start
    that was never measured (None) counts as none.
    """
    if paused:
        return ScalingDecision(
            replicas.wanted, ScalingReason.PAUSED, "Scaling is paused by annotation.", History(), None
        )
    return _Case(scaling, jobs_per_replica, demand, replicas, cold_start_seconds or 0.0, history, now).decide()


class _Case:
    """One decision: its inputs by short names."""

    def __init__(
        self,
        scaling: Scaling,
        jobs_per_replica: int,
        demand: Demand,
        replicas: Replicas,
        cold_start: float,
        history: History,
        now: float,
    ) -> None:
        self.least, self.most = scaling.min_replicas, scaling.max_replicas
        self.target = scaling.target_seconds
        self.window, self.idle_after = scaling.stabilization_seconds, scaling.idle_seconds
        self.demand = demand
        self.usable = -(-demand.jobs // jobs_per_replica)
        self.current = replicas.wanted
        self.ready = min(replicas.ready, replicas.wanted)
        # A pod beyond the wanted ones is on its way out: its job must not bring back a replica.
        self.busy = min(replicas.busy, replicas.wanted)
        self.cold_start = cold_start
        self.history = history
        self.now = now

    def decide(self) -> ScalingDecision:
        jobless = self.demand.jobs == 0 and self.busy == 0
        idle_since = (self.now if self.history.idle_since is None else self.history.idle_since) if jobless else None
        if idle_since is not None and self.current > self.least and self.now >= idle_since + self.idle_after:
            return self._rest(idle_since)
        needed = self._needed()
        too_late = needed > self.current and self._too_late()
        if too_late:
            needed = self.current
        recommended = self._within(max(needed, self.busy))
        recommendations = self._remember(recommended)
        stable = max(entry.replicas for entry in recommendations)
        wanted = recommended if recommended > self.current else min(self.current, stable)
        wanted = max(self._within(wanted), self.busy)
        reason, message = self._explain(wanted, needed, recommended, too_late)
        wakes = [recommendations[0].until + self.window] if wanted > max(recommended, self.busy) else []
        if idle_since is not None and wanted > self.least:
            wakes.append(idle_since + self.idle_after)
        wake = min(wakes) - self.now if wakes else None
        return ScalingDecision(wanted, reason, message, History(recommendations, idle_since), wake)

    def _rest(self, idle_since: float) -> ScalingDecision:
        """No job for idleSeconds: whatever was recommended before does not matter any more."""
        message = f"No job for idleSeconds ({self.idle_after:,} s): {_count(self.least)}."
        recommendations = (Recommendation(self.now, self.least),)
        return ScalingDecision(self.least, ScalingReason.IDLE, message, History(recommendations, idle_since), None)

    def _needed(self) -> int:
        """Replicas that drain the backlog within the target; those that still have to start have less of it left."""
        if self.demand.jobs == 0:
            return min(self.current, 1)
        backlog = self.demand.backlog_seconds
        beyond = backlog - self.ready * self.target
        if beyond <= ROUNDING:
            needed = _ceil(backlog / self.target)
        else:
            needed = self.ready + _ceil(beyond / max(self.target - self.cold_start, self.target * LEAST_SHARE))
        return min(max(needed, 1), self.usable)

    def _too_late(self) -> bool:
        """The replicas that there are drain everything before another one has started."""
        return self.ready > 0 and self.demand.backlog_seconds <= self.ready * self.cold_start

    def _within(self, replicas: int) -> int:
        return min(max(replicas, self.least), self.most)

    def _remember(self, recommended: int) -> tuple[Recommendation, ...]:
        """The window after one more recommendation. The last one held until now, however long nobody asked."""
        kept = list(self.history.recommendations) or [Recommendation(self.now, self.current)]
        kept[-1] = kept[-1]._replace(until=self.now)
        kept = [entry for entry in kept if entry.until > self.now - self.window and entry.replicas > recommended]
        return (*kept, Recommendation(self.now, recommended))

    def _explain(self, wanted: int, needed: int, recommended: int, too_late: bool) -> tuple[ScalingReason, str]:
        """The first rule that says why it is this number."""
        target = f"targetSeconds ({self.target:,} s)"
        backlog = f"backlog of {self.demand.backlog_seconds:,.0f} s"
        capped = f", maxReplicas is {self.most:,}" if needed > self.most else ""
        more = (f", as a cold start takes {self.cold_start:,.0f} s" if self.cold_start else "") + capped
        if wanted > self.current:
            if needed < wanted:
                return ScalingReason.AT_MINIMUM, f"minReplicas is {self.least:,}: {_count(wanted)}."
            if self.current == 0:
                return ScalingReason.ACTIVATED_FROM_ZERO, (
                    f"{_jobs(self.demand.jobs)} with a {backlog} and no replica: {_count(needed)} for {target}{more}."
                )
            return ScalingReason.BACKLOG_TOO_LONG, (
                f"A {backlog} on {_count(self.current)} is more than {target}: {_count(needed)}{more}."
            )
        if wanted > self.most:
            return ScalingReason.BUSY_REPLICAS, (
                f"maxReplicas is {self.most:,}, but {_count(wanted)} hold jobs: each goes when its jobs are done."
            )
        if needed > self.most:
            return ScalingReason.AT_MAXIMUM, f"The backlog needs {_count(needed)} for {target}{capped}."
        if wanted < self.current:
            if wanted == self.most:
                return ScalingReason.AT_MAXIMUM, f"maxReplicas is {self.most:,}: {_count(wanted)}."
            return ScalingReason.BACKLOG_DRAINED, (
                f"{_count(wanted)} sufficed for stabilizationSeconds ({self.window:,} s); a {backlog} is left."
            )
        if too_late:
            return ScalingReason.COLD_START_EXCEEDS_BACKLOG, (
                f"The backlog is more than {target}, but {_count(self.ready)} will have drained it before another "
                f"one has started ({self.cold_start:,.0f} s)."
            )
        if self.demand.jobs == 0 and wanted == self.least:
            return ScalingReason.IDLE, f"No job: {_count(wanted)}."
        if recommended < wanted:
            return ScalingReason.STABILIZING, self._patience(recommended)
        if needed < wanted and self.busy == wanted:
            return ScalingReason.BUSY_REPLICAS, f"{_count(needed)} would be enough, but {wanted:,} hold jobs."
        if needed < wanted:
            return ScalingReason.AT_MINIMUM, f"{_count(needed)} would be enough, minReplicas is {self.least:,}."
        if self.demand.jobs == 0:
            return ScalingReason.STABILIZING, self._patience(recommended)
        return ScalingReason.STEADY, f"{_count(wanted)}: the backlog is drained within {target}."

    def _patience(self, recommended: int) -> str:
        if self.demand.jobs == 0:
            return f"No job; {_count(self.least)} after idleSeconds ({self.idle_after:,} s)."
        return f"{_count(recommended)} would be enough; that must hold for stabilizationSeconds ({self.window:,} s)."


def _ceil(number: float) -> int:
    return ceil(number - ROUNDING)


def _count(replicas: int) -> str:
    return f"{replicas:,} replica{'' if replicas == 1 else 's'}"


def _jobs(jobs: int) -> str:
    return f"{jobs:,} job{'' if jobs == 1 else 's'}"
