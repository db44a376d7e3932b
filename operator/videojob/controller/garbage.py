"""What has survived a full garbage collection is in no later one.

Most of what the operator has stays: 50,400 jobs are half a million objects that Python would look at in each full
collection, for half a second in which the event loop stands still, and no record of a job is ever part of a cycle.
Thawing them all now and then would bring that pause back, so it is not done.
"""

import gc
from collections.abc import Mapping

FULL = 2
"""The generation that a full collection is of."""


def freeze_survivors() -> None:
    """From now on, take out of the collections of this process what each full one finds alive.

    So a full collection looks only at what came after the one before, however many jobs there are: Python begins one
    where that has grown by tens of thousands of objects, so that it takes tens of milliseconds. What is frozen is
    still freed by its last reference; a cycle that is frozen stays for good when it dies. It has to be alive at such a
    moment for that, and where nothing grows, such moments do not come.
    """
    if _after not in gc.callbacks:
        gc.callbacks.append(_after)


def _after(phase: str, info: Mapping[str, int]) -> None:
    if phase == "stop" and info["generation"] == FULL:
        gc.freeze()
