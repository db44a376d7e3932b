"""Seconds of work: by a clock, and by CUDA's events, which no CPU has. Theirs are played here."""

from typing import Any

import pytest
import torch

from videojob.models import stopwatch
from videojob.models.stopwatch import BY_CLOCK, of_clock, of_events, stopwatch_on


class Queue:
    """The work of a device, and the milliseconds at which it reaches what is queued."""

    def __init__(self) -> None:
        self.reached = 100.0
        self.done = True

    def work(self, milliseconds: float) -> None:
        self.reached += milliseconds
        self.done = False

    def event(self, *, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.at: float | None = None

    def record(self) -> None:
        self.at = self._queue.reached

    def synchronize(self) -> None:
        self._queue.done = True

    def elapsed_time(self, end: "Event") -> float:
        """As CUDA's: an error where the later event has not been reached yet."""
        assert self._queue.done and self.at is not None and end.at is not None
        return end.at - self.at


def test_events_give_the_seconds_between_them_once_the_device_has_reached_both() -> None:
    queue = Queue()
    first = of_events(queue.event)()
    queue.work(1500)
    second = of_events(queue.event)()
    queue.work(250)
    assert (first(), second()) == (1.75, 0.25)


def test_a_clock_gives_the_seconds_since_work_began() -> None:
    times = iter([5.0, 7.0, 7.5, 9.0])
    watch = of_clock(lambda: next(times))
    first, second = watch(), watch()
    assert (second(), first()) == (0.5, 4.0)


@pytest.mark.parametrize(("device", "by"), [("cuda", "events"), ("cuda:1", "events"), ("cpu", "clock")])
def test_events_are_for_cuda_alone(monkeypatch: pytest.MonkeyPatch, device: str, by: str) -> None:
    watches: dict[str, Any] = {"events": of_events(), "clock": BY_CLOCK}
    monkeypatch.setattr(stopwatch, "of_events", lambda: watches["events"])
    assert stopwatch_on(torch.device(device)) is watches[by]
