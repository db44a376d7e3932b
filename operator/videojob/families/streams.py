"""Streams: shots that go on from each other, and where each of them stands in the video.

A shot that the next one keeps ends where one of the model's parts does, as near as can be to its own end: else the
motion would skip what is made beyond it. What such a shot has too many or too few frames, the next one makes up for, as
far as each has a part, and the last one a frame.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from videojob.families.plan import Memory, ShotPlan, Video


@dataclass(frozen=True)
class StreamShot(ShotPlan):
    """A shot in its stream."""

    stream: int
    """The stream's first unit."""
    begins: int
    """The position in the video of the stream's first frame."""
    recent: int
    """The first unit that the shot's recent past may hold."""

    @property
    def place(self) -> int:
        """Of its first unit, counted from the first of the stream."""
        return self.units.start - self.stream


class Before(NamedTuple):
    """What a stream has before a shot."""

    units: int
    frames: int
    """Without surplus."""


class Length(NamedTuple):
    """How much a shot has."""

    units: int
    pieces: int
    frames: int


Measure: TypeAlias = Callable[[Before, int, bool], Length]
"""The length of a shot with so much before it in its stream that is to have so many frames, and whether it has to end
where one of the model's parts does. Else it has those frames."""


def place_shots(video: Video, measure: Measure) -> Sequence[StreamShot]:
    """All shots of the video, in order."""
    shots: list[StreamShot] = []
    stream = begins = recent = unit = piece = frame = due = 0
    for index, shot in enumerate(video.shots):
        if index == 0 or shot.memory is Memory.CLEAR:
            stream, begins, recent = unit, frame, unit
        elif shot.memory is Memory.REFRESH:
            recent = unit
        due += shot.frames
        following = video.shots[index + 1 : index + 2]
        kept = bool(following) and following[0].memory is Memory.KEEP
        units, pieces, frames = measure(Before(unit - stream, frame - begins), max(1, due - frame), kept)
        spans = range(frame, frame + frames), range(unit, unit + units), range(piece, piece + pieces)
        shots.append(StreamShot(*spans, stream, begins, recent))
        frame, unit, piece = (span.stop for span in spans)
        due = due if kept else frame
    return shots


def recent(shot: StreamShot, unit: int, refreshes: Sequence[int]) -> int:
    """The first unit that the recent past of this unit of the shot may hold, in a video refreshed at those."""
    before = bisect_right(refreshes, unit)
    return max(shot.recent, refreshes[before - 1]) if before else shot.recent


def shot_of_unit(shots: Sequence[ShotPlan], unit: int) -> int:
    """The number of the shot that has this unit."""
    return bisect_right(shots, unit, key=lambda shot: shot.units.start) - 1


def shot_of_piece(shots: Sequence[ShotPlan], piece: int) -> int:
    """The number of the shot that has this piece."""
    return bisect_right(shots, piece, key=lambda shot: shot.pieces.start) - 1
