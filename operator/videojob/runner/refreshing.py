"""Which units go on without their recent past because the video drifts. The same ones, wherever a job goes on.

A unit is judged by the last piece of the unit that is `LAG` before it, in its shot: where that has gone too far, the
unit is made from what is kept of the beginning alone. Not where one in between was refreshed: what was made before that
says nothing of what it has changed. So it follows from the log of units, which says which were refreshed, and from the
looks of pieces: those in the log, and those that are made again before the unit that they count for.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from videojob.api.drift import DriftPolicy, DriftThresholds
from videojob.api.videojob import Resolved
from videojob.api.videomodel import VideoModelSpec
from videojob.families import Plan, Unit
from videojob.families.streams import shot_of_unit
from videojob.media import Look
from videojob.runner.drifting import Reference, look_of, passed
from videojob.runner.signals import Signal
from videojob.store import PieceRecord, UnitRecord

LAG: Final = 3
"""Units. What is made depends on it. At least `AHEAD` of the pipeline, so that only after a resume is waited for it."""


class Refreshing:
    """The plan of a video, unit by unit as it is made."""

    def __init__(
        self,
        thresholds: DriftThresholds | None,
        planned: Callable[[tuple[int, ...]], Plan],
        refreshes: Iterable[int] = (),
    ) -> None:
        """`planned` gives the plan of the video that is refreshed at those units; without thresholds none is.

        `refreshes` are the units that were refreshed so far, in order.
        """
        self._thresholds = thresholds
        self._planned = planned
        self._refreshes = [*refreshes]
        self.plan = planned(tuple(self._refreshes))
        """As far as it is settled; shots, pieces, and the frames of units are as they stay."""
        self._references = [Reference() for _ in self.plan.shots]
        self._passed: dict[int, str] = {}
        """By unit, what its last piece has passed; of those whose last piece was seen."""
        self._saw = Signal()

    @classmethod
    def going_on(
        cls,
        resolved: Resolved,
        policy: DriftPolicy,
        model: VideoModelSpec,
        units: Sequence[UnitRecord],
        pieces: Iterable[PieceRecord],
    ) -> "Refreshing":
        """As the logs leave it. As with `Drifting`, to be called in a worker thread."""

        def planned(refreshes: tuple[int, ...]) -> Plan:
            return model.plan(replace(resolved.video, refreshes=refreshes))

        thresholds = resolved.drift if policy is DriftPolicy.REFRESH else None
        made = cls(thresholds, planned, [unit.index for unit in units if unit.refreshed])
        for piece in pieces:
            made.see(piece.index, None if piece.look is None else look_of(piece.look))
        return made

    def see(self, index: int, look: Look | None) -> None:
        """The next piece looks like this; None where nobody has looked."""
        if self._thresholds is None:
            return
        piece = self.plan.pieces[index]
        unit = piece.units[-1]
        drift = None if look is None else self._references[self._shot(unit)].drift(look)
        if self.plan.ends_unit(piece):
            beyond = {} if drift is None else passed(drift, self._thresholds)
            self._passed[unit] = ", ".join(f"{signal} by {getattr(drift, signal):.3f}" for signal in beyond)
            self._saw.give()

    def settled(self, index: int) -> bool:
        """Whether `plan` has the unit as it will be made; those before it are settled."""
        judge = self._judge(index)
        return judge is None or judge in self._passed

    def settle(self, index: int) -> Unit:
        """The unit, which is settled, as it is to be made."""
        judge = self._judge(index)
        if judge is not None and self._passed.get(judge):
            self._refreshes.append(index)
            self.plan = self._planned(tuple(self._refreshes))
        return self.plan.units[index]

    def try_settle(self, index: int) -> bool:
        """Settle the unit, if there is such a one, where what it is judged by was seen; whether it is settled."""
        settled = index < len(self.plan.units) and self.settled(index)
        if settled:
            self.settle(index)
        return settled

    async def unit(self, index: int) -> Unit:
        """The next unit to make, once what it is judged by was seen."""
        while not self.settled(index):
            await self._saw.wait()
        return self.settle(index)

    def why(self, index: int) -> str:
        """What had drifted, and how far, where the unit is made without its recent past; empty where it is not."""
        at = bisect_left(self._refreshes, index)
        return self._passed.get(index - LAG, "") if self._refreshes[at : at + 1] == [index] else ""

    def _judge(self, index: int) -> int | None:
        """The unit that decides on this one; None where that is decided."""
        earlier = index - LAG
        if self._thresholds is None or earlier < self.plan.shots[self._shot(index)].units.start:
            return None
        between = bisect_left(self._refreshes, earlier + 1)
        return None if between < len(self._refreshes) else earlier

    def _shot(self, unit: int) -> int:
        return shot_of_unit(self.plan.shots, unit)
