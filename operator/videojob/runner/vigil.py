"""Whoever waits for a stage looks from time to time whether it still works, and has it ended where it hangs."""

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

from videojob.runner.patience import Patience, Verdict
from videojob.triton.progress import Progress

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Without an answer, after which whoever waits for it looks, and looks again."""


class Control(Protocol):
    """What is asked of a server's `control` model."""

    async def progress(self, stage: str) -> Progress | None:
        """The note of a stage; None where it is not known. Raises nothing."""
        ...

    async def end_stage(self, stage: str, seen: Progress) -> bool:
        """End the process of a stage that hangs since it was `seen`; whether it is gone. Raises nothing."""
        ...


class Vigil:
    """Over the stages of one server, by their names there."""

    def __init__(self, control: Control, monotonic: Callable[[], float]) -> None:
        self._control = control
        self._monotonic = monotonic
        self._stages: defaultdict[str, Patience] = defaultdict(Patience)

    async def look(self, stage: str, unit_seconds: float) -> str:
        """Look at a stage that owes an answer: why none is to be expected, or nothing where it may come.

        One that hangs is ended: then Triton answers with an error.
        """
        patience = self._stages[stage]
        patience.look(self._monotonic(), await self._control.progress(stage))
        silent, verdict = max(patience.silent, patience.unknown), patience.verdict(unit_seconds)
        if verdict is Verdict.WAIT:
            return ""
        if verdict is Verdict.END and (seen := patience.seen) is not None:
            log.warning("%s has made no step for %.0f s: its process %d is ended.", stage, silent, seen.pid)
            if await self._control.end_stage(stage, seen):
                patience.ended = seen.pid
                return ""
            if await self._control.progress(stage) != seen:
                return ""
            return f"{stage} has made no step for {silent:.0f} s, and its process cannot be ended."
        return f"{stage} has not answered for {silent:.0f} s."

    def ended(self, stage: str) -> bool:
        """Whether the process that the stage had at the last look is gone, because it was to be ended."""
        patience = self._stages[stage]
        return patience.seen is not None and patience.seen.pid == patience.ended

    def answered(self, stage: str) -> None:
        """A stage has given an answer."""
        self._stages[stage].answered()

    def step_seconds(self, stage: str, unit_seconds: float) -> float:
        """Within which a step of the stage should have ended."""
        return self._stages[stage].step_seconds(unit_seconds)
