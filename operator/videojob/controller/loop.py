"""The planning loop: whatever changed since the last plan is planned together."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter

from videojob.controller.metrics import OperatorMetrics
from videojob.controller.settings import Settings
from videojob.controller.writer import Writer
from videojob.planner.plan import plan
from videojob.planner.snapshot import Snapshot

logger = logging.getLogger(__name__)


class PlanningLoop:
    """Plans when something changed, when time alone asks for it, and every few seconds in any case."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        writer: Writer,
        metrics: OperatorMetrics,
        settings: Settings,
        *,
        leading: Callable[[], bool],
        next_expiry: Callable[[], float | None],
        monotonic: Callable[[], float],
    ) -> None:
        self._snapshot = snapshot
        self._writer = writer
        self._metrics = metrics
        self._settings = settings
        self._leading = leading
        self._next_expiry = next_expiry
        self._monotonic = monotonic
        self._wake = asyncio.Event()
        self._turned = monotonic()
        self._woken: float | None = None

    @property
    def age(self) -> float:
        """Seconds since the loop last turned."""
        return self._monotonic() - self._turned

    def wake(self) -> None:
        """Something changed."""
        if not self._wake.is_set():
            self._woken = self._monotonic()
            self._wake.set()

    async def run(self) -> None:
        """Plan, until cancelled."""
        while True:
            self._turned = self._monotonic()
            self._wake.clear()
            began = perf_counter()
            wake_at = self._plan() if self._leading() else None
            spent = perf_counter() - began
            # Not more than a part of the time: a long plan is made less often, and many changes are planned together.
            await asyncio.sleep(max(self._settings.plan_pause_seconds, spent * (1 / self._settings.plan_share - 1)))
            try:
                async with asyncio.timeout(self._patience(wake_at)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _plan(self) -> datetime | None:
        if self._woken is not None:
            self._metrics.plan_lag_seconds.observe(self._monotonic() - self._woken)
            self._woken = None
        with self._metrics.planning_seconds.time():
            made = plan(self._snapshot(), datetime.now(UTC), self._settings.rules)
        self._writer.offer(made.decisions)
        return made.wake_at

    def _patience(self, wake_at: datetime | None) -> float:
        """Seconds until time alone makes another plan necessary."""
        seconds = [self._settings.idle_seconds]
        if wake_at is not None:
            seconds.append((wake_at - datetime.now(UTC)).total_seconds())
        seconds += [wait for wait in (self._next_expiry(), self._writer.next_rest()) if wait is not None]
        return max(min(seconds), 0.0)
