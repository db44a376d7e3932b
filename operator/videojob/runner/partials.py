"""What becomes of a unit that is paused between two steps: it is stored, and the next attempt goes on from it.

Only a hint: whatever fails here costs the steps that would have been saved, and never the job anything else.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence

from videojob.api.reasons import REASONS, Reason, parse
from videojob.families import Plan, Unit
from videojob.runner.hold import Permission, Standing
from videojob.runner.recipe import MadeUnit
from videojob.runner.stop import StoppedError
from videojob.store import JobStore, Origin, Partial, StoreError, UnitRecord
from videojob.triton.contract import ChunkError
from videojob.triton.wire import Settings, UnitRequest

log = logging.getLogger(__name__)


def goes_on(error: BaseException) -> bool:
    """Whether the job goes on later from where it stopped: then what its unit has come to is worth keeping."""
    if isinstance(error, ChunkError):
        return True
    if not isinstance(error, StoppedError) or error.lost:
        return False
    reason = parse(error.reason)
    return reason is not Reason.DELETED and (reason is None or not REASONS[reason].final)


class Partials:
    """The partial checkpoints of one job, as one attempt finds and leaves them."""

    def __init__(
        self,
        files: JobStore,
        attempt: int,
        permission: Permission,
        settings: Sequence[Settings],
        images: Callable[[int], bytes],
    ) -> None:
        """`settings` are those of each shot; `images` gives the digest of a shot's, empty where it has none."""
        self._files = files
        self._attempt = attempt
        self._permission = permission
        self._settings = settings
        self._images = images
        self._sought: set[int] = set()
        self._left: set[int] = set()
        """What this attempt has left, where its sequence failed elsewhere."""

    async def find(self, plan: Plan, made: Sequence[UnitRecord], weights: str) -> Partial | None:
        """What the first unit that is not made goes on from, if a sequence before this one has left it.

        Once: one that the model cannot go on from is not tried again.
        """
        index = len(made)
        none_left = self._attempt == 1 and index not in self._left
        if none_left or index in self._sought or index >= len(plan.units):
            return None
        unit = plan.units[index]
        self._sought.add(index)
        try:
            found = await self._files.partials.find(self._origin(unit, made, weights))
        except StoreError as error:
            log.warning("Unit %d is made anew: what it had come to cannot be read: %s", unit.index, error)
            return None
        if found is not None:
            log.info("Unit %d goes on after step %d of %d.", unit.index, found.step, unit.steps)
        return found

    async def keep(self, plan: Plan, made: Sequence[UnitRecord], weights: str, paused: MadeUnit) -> None:
        """Leave what a unit has come to for the next attempt, once those before it are made."""
        unit, partial = plan.units[paused.index], Partial(paused.step or 0, paused.checkpoint)
        try:
            await self._files.partials.put(self._origin(unit, made, weights), self._attempt, partial)
        except StoreError as error:
            log.warning("Step %d of unit %d is lost: %s", partial.step, unit.index, error)
        else:
            self._left.add(unit.index)
            self._sought.discard(unit.index)
            log.info("Unit %d is kept as it is after step %d of %d.", unit.index, partial.step, unit.steps)

    async def committed(self, unit: int) -> None:
        """Delete what the unit went on from. What is left goes with the job's other parts."""
        if unit not in self._sought or self._permission.standing is not Standing.FRESH:
            return
        try:
            await self._files.partials.discard(unit)
        except StoreError as error:
            log.warning("Partial checkpoints of unit %d are left until the video is finished: %s", unit, error)

    def _origin(self, unit: Unit, made: Sequence[UnitRecord], weights: str) -> Origin:
        request = UnitRequest(unit, self._settings[unit.shot]).to_json() + self._images(unit.shot)
        return Origin(
            unit=unit.index,
            steps=unit.steps,
            past={index: made[index].checkpoint.sha256 for index in unit.needs},
            request=hashlib.sha256(request).hexdigest(),
            weights=weights,
        )
