"""Work that goes on for ever: what it meets is reported, and it begins again.

What the API server refuses (rights that an administrator took, an object that is not there yet) passes when somebody
changes it: it is tried again without end, with bounded pauses. An error that is not known is a defect: that is tried
again as well, because the next version of an object may not have what this one has, but a task that fails so again and
again ends the process, whose restart may help.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from videojob.kube.client import KubeError
from videojob.runner.metrics import RunnerMetrics

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
DEFECTS = 10
"""Errors in a row that are not known, after which the process ends."""
HEALTHY_SECONDS = 300.0
"""Work that went on for so long begins to count anew."""


async def keep(
    name: str,
    work: Callable[[], Awaitable[None]],
    metrics: RunnerMetrics,
    *,
    passing: tuple[type[Exception], ...] = (),
    monotonic: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Do the work until it returns. Raises what is in `passing`, and the last of DEFECTS errors in a row."""
    pause, defects, logged = FIRST_PAUSE, 0, ""
    while True:
        began = monotonic()
        try:
            return await work()
        except passing:
            raise
        except Exception as error:
            known = isinstance(error, KubeError)
            metrics.error(name, known=known)
            if monotonic() - began >= HEALTHY_SECONDS:
                pause, defects, logged = FIRST_PAUSE, 0, ""
            defects = 0 if known else defects + 1
            if not known:
                log.exception("The task %s met an error that it does not know, and begins again", name)
            elif str(error) != logged:
                log.warning("The task %s is refused, and tries again: %s", name, error)
            logged = str(error)
            if defects >= DEFECTS:
                raise
        await sleep(pause)
        pause = min(LONGEST_PAUSE, 2 * pause)
