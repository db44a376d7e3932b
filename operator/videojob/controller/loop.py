"""The planning loop: whatever changed since the last plan is planned together."""

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter

from videojob.controller.leading import Leadership
from videojob.controller.metrics import OperatorMetrics
from videojob.controller.rests import Rests
from videojob.controller.settings import Settings
from videojob.controller.writer import Writer
from videojob.planner.book import Book
from videojob.planner.decisions import Fault, Lane, Plan
from videojob.planner.facts import Moment

logger = logging.getLogger(__name__)

FAILED_SECONDS = 1.0
FAILED_CAP_SECONDS = 30.0
SETTLED_AT_ONCE = 250
"""Jobs that are put elsewhere without a pause where their model has changed: each takes some 50 us."""


class Wake:
    """Wakes the planning loop: set by whatever has changed something."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._event = asyncio.Event()
        self._since: float | None = None

    def set(self) -> None:
        """Something changed."""
        if self._since is None:
            self._since = self._monotonic()
        self._event.set()

    def take(self) -> float | None:
        """All changes are taken account of from now on; how many seconds ago the first of them came, if any did."""
        since, self._since = self._since, None
        self._event.clear()
        return self._monotonic() - since if since is not None else None

    async def wait(self, seconds: float) -> None:
        """Until something changes, but no longer than that."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass


class PlanningLoop:
    """Plans when something changed, when time alone asks for it, and every few seconds in any case."""

    def __init__(
        self,
        book: Book,
        cycle: Callable[[Moment], Plan],
        writer: Writer,
        rests: Rests,
        metrics: OperatorMetrics,
        settings: Settings,
        *,
        wake: Wake,
        leadership: Leadership,
        clock: Callable[[], Moment],
    ) -> None:
        """`cycle` makes a plan from the book."""
        self._book = book
        self._cycle = cycle
        self._writer = writer
        self._rests = rests
        self._metrics = metrics
        self._settings = settings
        self._leadership = leadership
        self._clock = clock
        self._wake = wake
        self._turned = clock().mono
        self._failures = 0
        self._faults: dict[tuple[str, ...], str] = {}

    @property
    def age(self) -> float:
        """Seconds since the loop last turned."""
        return self._clock().mono - self._turned

    async def run(self) -> None:
        """Plan, until cancelled."""
        while True:
            self._turned = self._clock().mono
            await self._settle()
            lag = self._wake.take()
            began = perf_counter()
            wake_seconds = self._turn(lag) if self._leadership.leading else None
            spent = perf_counter() - began
            # Not more than a part of the time: a long plan is made less often, and many changes are planned together.
            pause = max(self._settings.plan_pause_seconds, spent * (1 / self._settings.plan_share - 1))
            await asyncio.sleep(max(pause, self._failed_pause()))
            await self._wake.wait(self._patience(wake_seconds))

    async def _settle(self) -> None:
        """Put jobs elsewhere whose model has changed, and let others run meanwhile."""
        more = True
        while more:
            more = self._book.settle(SETTLED_AT_ONCE)
            await asyncio.sleep(0)

    def _turn(self, lag: float | None) -> float | None:
        """Make one plan and have it carried out; seconds until time alone makes another one necessary."""
        if lag is not None:
            self._metrics.plan_lag_seconds.observe(lag)
        try:
            with self._metrics.planning_seconds.time():
                plan = self._cycle(self._clock())
        except Exception:
            self._failures += 1
            self._metrics.plan_failures.labels("cycle").inc()
            logger.exception("No plan could be made, and none is carried out until one can")
            return None
        self._failures = 0
        self._book.remember(plan.memories)
        for fault in plan.faults:
            self._put_aside(fault)
        self._writer.offer(plan.decisions, keep=() if plan.pools_planned else (Lane.POOLS, Lane.STATUSES))
        return plan.wake_seconds

    def _put_aside(self, fault: Fault) -> None:
        """An object cannot be planned: nothing is decided on it for a while, longer each time."""
        why = f"{type(fault.error).__name__}: {fault.error}"
        self._rests.failed(fault.target)
        self._metrics.plan_failures.labels(fault.target[0]).inc()
        if self._faults.get(fault.target) != why:
            logger.error("%s cannot be planned: %s", " ".join(fault.target), why, exc_info=fault.error)
            self._faults[fault.target] = why

    def _failed_pause(self) -> float:
        if not self._failures:
            return 0.0
        return min(FAILED_SECONDS * 2.0 ** min(self._failures - 1, 10), FAILED_CAP_SECONDS)

    def _patience(self, wake_seconds: float | None) -> float:
        """Seconds until time alone makes another plan necessary."""
        idle = self._settings.idle_seconds
        return idle if wake_seconds is None else max(min(wake_seconds, idle), 0.0)
