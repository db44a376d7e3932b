"""Families that make a video chunk by chunk, each from a sink and a window of those before it, over a causal VAE.

A chunk is a unit. Chunks that go on from each other, in one shot or in several, are a stream, which is decoded without
a break: its first latent becomes one frame, so its first chunk has fewer frames than the others.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from videojob.families.cuts import LONGEST_PIECE, frames_of, latents_for, part, parts_for, pieces
from videojob.families.plan import Chunking, Computed, Memory, Piece, Plan, ShotPlan, Unit, Video


@dataclass(frozen=True)
class CausalChunks:
    """The arithmetic of such a family."""

    frames_per_latent: int
    tail_latents: int
    """Latents that, decoded again, rebuild the VAE decoder's feature cache bit for bit: as far as its convolutions look
    back."""

    @property
    def memories(self) -> tuple[Memory, ...]:
        """See `videojob.families.Family`."""
        return (Memory.KEEP, Memory.REFRESH, Memory.CLEAR)

    def plan(self, chunking: Chunking, video: Video) -> Plan:
        """Each shot has the smallest number of chunks that make its frames; the last one may make more.

        A shot that the next one keeps ends where a chunk does, as near as can be to its own end: else the motion would
        skip what its last chunk makes beyond it. What such a shot has too many or too few, the next one makes up for,
        as far as each of them has a chunk, and the last one a frame.
        """
        return _Cutter(self, chunking, video).plan()

    def most_frames(self, chunking: Chunking, fps: int) -> int:
        """A chunk, or where that is longer, two seconds; at least a latent."""
        chunk = max(self.frames(chunking.first), chunking.later * self.frames_per_latent)
        return max(self.frames_per_latent, min(chunk, LONGEST_PIECE * fps))

    def frames(self, latents: int) -> int:
        """What so many latents become, from the first of a stream on."""
        return frames_of(latents, self.frames_per_latent)


@dataclass(frozen=True)
class _Shot(ShotPlan):
    """A shot in its stream."""

    stream: int
    """The stream's first unit."""
    window: int
    """The first unit that the window may hold."""

    @property
    def place(self) -> int:
        """Of its first unit in the stream."""
        return self.units.start - self.stream


class _Cutter:
    """Cuts one video. The place of a unit is counted from the first of its stream."""

    def __init__(self, family: CausalChunks, chunking: Chunking, video: Video) -> None:
        self._family = family
        self._chunking = chunking
        self._video = video
        self._shots = self._placed()

    def plan(self) -> Plan:
        """Of the whole video."""
        last = self._shots[-1]
        return Plan(self._shots, Computed(last.units.stop, self._unit), Computed(last.pieces.stop, self._piece))

    def _placed(self) -> Sequence[_Shot]:
        shots: list[_Shot] = []
        stream = window = unit = piece = frame = due = 0
        for index, shot in enumerate(self._video.shots):
            if index == 0 or shot.memory is Memory.CLEAR:
                stream = window = unit
            elif shot.memory is Memory.REFRESH:
                window = unit
            due += shot.frames
            following = self._video.shots[index + 1 : index + 2]
            kept = bool(following) and following[0].memory is Memory.KEEP
            count, made = self._length(unit - stream, max(1, due - frame), whole=kept)
            ends = frame + made, unit + count, piece + self._count_pieces(unit - stream, count, made)
            shots.append(_Shot(range(frame, ends[0]), range(unit, ends[1]), range(piece, ends[2]), stream, window))
            frame, unit, piece = ends
            due = due if kept else frame
        return shots

    def _length(self, place: int, wanted: int, *, whole: bool) -> tuple[int, int]:
        """Chunks and frames of a shot that begins at this place, and is to have so many frames."""
        begin = self._frames(place).start
        latents = latents_for(begin + wanted, self._family.frames_per_latent)
        count = parts_for(self._chunking.first, self._chunking.later, latents) - place
        if not whole:
            return count, wanted
        more = self._frames(place + count - 1).stop - begin
        less = self._frames(place + count - 1).start - begin
        return (count - 1, less) if count > 1 and wanted - less < more - wanted else (count, more)

    def _latents(self, place: int) -> range:
        return part(self._chunking.first, self._chunking.later, place)

    def _frames(self, place: int) -> range:
        """That come out of a chunk, counted from the first of the stream."""
        latents = self._latents(place)
        return range(self._family.frames(latents.start), self._family.frames(latents.stop))

    def _pieces(self, place: int) -> Sequence[range]:
        """The frames of each piece of a chunk, counted likewise."""
        return pieces(self._latents(place), self._video.fps, self._family.frames_per_latent)

    def _count_pieces(self, place: int, chunks: int, frames: int) -> int:
        """How many pieces a shot of so many chunks and frames has that begins at this place."""
        end = self._frames(place).start + frames
        last = sum(1 for piece in self._pieces(place + chunks - 1) if piece.start < end)
        return last + (0 if chunks == 1 else len(self._pieces(place)) + (chunks - 2) * len(self._pieces(place + 1)))

    def _unit(self, index: int) -> Unit:
        number = bisect_right(self._shots, index, key=lambda shot: shot.units.start) - 1
        shot = self._shots[number]
        place, frames = index - shot.stream, self._frames(index - shot.stream)
        shift = shot.frames.start - self._frames(shot.place).start
        return Unit(
            index=index,
            shot=number,
            steps=self._video.steps,
            latents=self._latents(place),
            needs=tuple(shot.stream + each for each in self._memory(place, shot.window - shot.stream)),
            decode=tuple(shot.stream + each for each in self._tail(place)),
            frames=range(frames.start + shift, frames.stop + shift),
        )

    def _piece(self, index: int) -> Piece:
        shot = self._shots[bisect_right(self._shots, index, key=lambda shot: shot.pieces.start) - 1]
        chunk, within = 0, index - shot.pieces.start
        if within >= (first := len(self._pieces(shot.place))):
            chunk, within = divmod(within - first, len(self._pieces(shot.place + 1)))
            chunk += 1
        shift = shot.frames.start - self._frames(shot.place).start
        frames = self._pieces(shot.place + chunk)[within]
        made = range(frames.start + shift, min(frames.stop + shift, shot.frames.stop))
        return Piece(index, units=(shot.units.start + chunk,), frames=made)

    def _memory(self, place: int, window: int) -> tuple[int, ...]:
        """The chunks that cover the sink, and the last whole ones, from place `window` on, that fit in the window.

        Their number does not grow with the video, so neither do memory and step time.
        """
        sink = takewhile(lambda chunk: self._latents(chunk).start < self._chunking.sink, range(place))
        oldest = self._latents(place).start - self._chunking.window
        recent = takewhile(lambda chunk: self._latents(chunk).start >= oldest, range(place - 1, window - 1, -1))
        return tuple(sorted({*sink, *recent}))

    def _tail(self, place: int) -> tuple[int, ...]:
        """The last chunks before `place` that cover the tail: all of them where the stream is shorter."""
        first = self._latents(place).start - self._family.tail_latents
        back = takewhile(lambda chunk: self._latents(chunk).stop > first, range(place - 1, -1, -1))
        return tuple(reversed([*back]))
