"""Work that goes on for ever, whatever it meets."""

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from tests.runner.fakes import FORBIDDEN, Time
from videojob.runner.kept import DEFECTS, HEALTHY_SECONDS, LONGEST_PAUSE, keep
from videojob.runner.metrics import RunnerMetrics


class Work:
    """Work that ends as the test says, and what it waited for between."""

    def __init__(self, *ends: Exception | None, lasts: float = 0.0) -> None:
        self._ends: Iterator[Exception | None] = iter(ends)
        self._lasts = lasts
        self.time = Time()
        self.registry = CollectorRegistry()
        self.pauses: list[float] = []

    async def work(self) -> None:
        self.time.seconds += self._lasts
        end = next(self._ends)
        if end is not None:
            raise end

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time.seconds += seconds

    async def keep(self, *passing: type[Exception]) -> None:
        metrics = RunnerMetrics(self.registry, "p", "r")
        monotonic = self.time.clock.monotonic
        await keep("work", self.work, metrics, passing=passing, monotonic=monotonic, sleep=self.pause)

    def errors(self, type_: str) -> float | None:
        labels = {"pool": "p", "replica": "r", "what": "work", "type": type_}
        return self.registry.get_sample_value("videojob_runner_errors_total", labels)


async def test_a_refusal_is_tried_again_without_end_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(*[FORBIDDEN] * 1100, None)

    await work.keep()

    assert (len(work.pauses), work.pauses[:3], max(work.pauses)) == (1100, [1.0, 2.0, 4.0], LONGEST_PAUSE)
    assert work.errors("refused") == 1100
    assert caplog.text.count("forbidden") == 1


async def test_an_error_that_nobody_knows_is_met_again_and_again_before_it_ends_the_process() -> None:
    work = Work(*[KeyError("x")] * DEFECTS)

    with pytest.raises(KeyError):
        await work.keep()
    assert work.errors("unknown") == DEFECTS


async def test_what_went_on_for_long_begins_to_count_anew() -> None:
    work = Work(*[KeyError("x")] * (3 * DEFECTS), None, lasts=HEALTHY_SECONDS)

    await work.keep()

    assert set(work.pauses) == {1.0}


async def test_defects_count_only_in_a_row() -> None:
    work = Work(*[*[KeyError("x")] * (DEFECTS - 1), FORBIDDEN] * 3, None)

    await work.keep()


async def test_what_is_awaited_passes_at_once() -> None:
    work = Work(FORBIDDEN)

    with pytest.raises(type(FORBIDDEN)):
        await work.keep(type(FORBIDDEN))
    assert work.pauses == []
