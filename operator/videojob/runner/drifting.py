"""How far a video drifts from the first frames of each shot. Pure: it follows from the log of pieces alone.

So an attempt that goes on elsewhere knows what those before it have seen. A piece that an earlier version of this
software has made has no look in its record: it is not judged, and nothing is judged by it.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import asdict
from itertools import accumulate

from videojob.api.drift import SIGNALS, DriftPeak, DriftPolicy, DriftStatus, DriftThresholds
from videojob.api.videojob import Resolved
from videojob.media import Drift, Look, drift
from videojob.store import LookRecord, PieceRecord, UnitRecord


class DriftedError(Exception):
    """A shot has drifted further than its job may."""


def look_record(of: Look) -> LookRecord:
    """The look, as the record of its piece has it."""
    return LookRecord(**{**asdict(of), "small": of.small.hex()})


def look_of(record: LookRecord) -> Look:
    """What the record of a piece says."""
    return Look(**{**record.model_dump(), "small": bytes.fromhex(record.small)})


class Reference:
    """What the pieces of a shot are compared with: its first one of several frames or, until there is one, its first.

    A single frame shows no motion, and the first chunk of some families has no other.
    """

    def __init__(self) -> None:
        self._first: Look | None = None

    def drift(self, now: Look) -> Drift | None:
        """Of the shot's next piece; None where the others are compared with it."""
        if self._first is None or (self._first.motion is None and now.motion is not None):
            self._first = now
            return None
        return drift(self._first, now)


def passed(of: Drift, thresholds: DriftThresholds | None) -> dict[str, float]:
    """The signals that have gone further than they may, with the threshold of each."""
    found = {}
    for signal in SIGNALS if thresholds is not None else ():
        value, most = getattr(of, signal), getattr(thresholds, signal)
        if None not in (value, most) and value > most:
            found[signal] = most
    return found


class Drifting:
    """The drift of a job's pieces, which it is shown in order."""

    def __init__(self, resolved: Resolved, policy: DriftPolicy) -> None:
        self._resolved = resolved
        self._stops = policy is DriftPolicy.STOP
        self._shots = [Reference() for _ in resolved.cut]
        self._ends = [*accumulate(shot.chunks for shot in resolved.cut)]
        self.refreshes = 0
        """Of the job so far."""
        self._frames = 0
        """Of the pieces so far."""
        self._peaks: dict[str, DriftPeak] = {}
        self._beyond = ""

    @classmethod
    def going_on(
        cls, resolved: Resolved, policy: DriftPolicy, units: Iterable[UnitRecord], pieces: Iterable[PieceRecord]
    ) -> "Drifting":
        """As the logs leave it. Of a long video that takes a while: to be called in a worker thread."""
        made = cls(resolved, policy)
        made.refreshes = sum(unit.refreshed for unit in units)
        for piece in pieces:
            made.see(piece)
        return made

    def see(self, piece: PieceRecord) -> Drift | None:
        """How far the next piece has drifted; None where it is not judged."""
        shot = bisect_right(self._ends, piece.index)
        second = float(self._frames / self._resolved.rate)
        self._frames += piece.frames
        found = None if piece.look is None else self._shots[shot].drift(look_of(piece.look))
        if found is not None:
            self._judge(found, shot, second)
        return found

    def _judge(self, found: Drift, shot: int, second: float) -> None:
        for signal in SIGNALS:
            value, before = getattr(found, signal), self._peaks.get(signal)
            if value is not None and (before is None or value > before.value):
                self._peaks[signal] = DriftPeak(value=value, shot=shot, second=round(second, 3))
        for signal, most in passed(found, self._resolved.drift).items():
            value = getattr(found, signal)
            self._beyond = self._beyond or (
                f"In {signal}, shots[{shot}] has drifted by {value:.3f} from its first frames at {second:.3f} s of the "
                f"video; the model allows {most:g}."
            )

    @property
    def status(self) -> DriftStatus | None:
        """The furthest that each signal has gone, if any was judged."""
        return DriftStatus.model_validate({**self._peaks, "refreshes": self.refreshes}) if self._peaks else None

    def check(self) -> None:
        """Raises DriftedError where a piece has gone too far and the job is to stop."""
        if self._stops and self._beyond:
            raise DriftedError(self._beyond)
