"""Seconds that a stage computes, on the device that it computes on."""

import time
from collections.abc import Callable
from typing import Any, Final

import torch

Stopwatch = Callable[[], Callable[[], float]]
"""Called when work begins; what it returns is called when the work is done, and gives the seconds between."""


def of_clock(clock: Callable[[], float] = time.perf_counter) -> Stopwatch:
    """Wall time, of a device whose work is done when the call of it returns. `clock` gives seconds that only grow."""

    def begin() -> Callable[[], float]:
        began = clock()
        return lambda: clock() - began

    return begin


BY_CLOCK: Final = of_clock()


def of_events(event: Callable[..., Any] = torch.cuda.Event) -> Stopwatch:
    """Time on a CUDA device, from when it reaches the work to when it has done it. The end waits for that.

    What the host does before is left out; another process whose kernels come in between is not.
    """

    def begin() -> Callable[[], float]:
        first, last = event(enable_timing=True), event(enable_timing=True)
        first.record()

        def seconds() -> float:
            last.record()
            last.synchronize()
            milliseconds: float = first.elapsed_time(last)
            return milliseconds / 1000

        return seconds

    return begin


def stopwatch_on(device: torch.device) -> Stopwatch:
    """The one for stages that compute there."""
    return of_events() if device.type == "cuda" else BY_CLOCK
