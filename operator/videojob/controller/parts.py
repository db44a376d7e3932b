"""Parts of the operator that run side by side: one that fails is started again, and stops nobody else."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)


class PartError(Exception):
    """The operator cannot go on with a part; the text is a sentence for people."""


@dataclass(frozen=True)
class Restarts:
    """How a part is started again; times are seconds."""

    pause: float = 1.0
    """After the first failure in a row; it doubles with each further one."""
    pause_cap: float = 60.0
    settled: float = 60.0
    """A part that ran for so long has worked."""
    limit: int = 6
    """So many failures in a row, and it will not work."""


async def keep_running(
    name: str,
    part: Callable[[], Awaitable[None]],
    *,
    failed: Callable[[str], None],
    monotonic: Callable[[], float],
    restarts: Restarts = Restarts(),
) -> None:
    """Run a part until cancelled, again and again. Raises PartError where it keeps failing at once, or does itself."""
    failures = 0
    while True:
        began = monotonic()
        why = "it ended by itself"
        try:
            await part()
        except PartError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            logger.exception("The %s failed", name)
        if monotonic() - began >= restarts.settled:
            failures = 0
        failures += 1
        failed(name)
        if failures >= restarts.limit:
            raise PartError(f"The {name} failed {failures} times in a row; the last time: {why}.")
        pause = min(restarts.pause * 2.0 ** (failures - 1), restarts.pause_cap)
        logger.error("The %s is started again in %g s: %s", name, pause, why)
        await asyncio.sleep(pause)
