"""Families that make a video chunk by chunk, each from a sink and a window of those before it, over a causal VAE.

A chunk is a unit. Chunks that go on from each other, in one shot or in several, are a stream, which is decoded without
a break: its first latent becomes one frame, so its first chunk has fewer frames than the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from videojob.families.cuts import LONGEST_PIECE, frames_of, latents_for, part, parts_for, pieces
from videojob.families.plan import Chunking, Computed, Memory, Piece, Plan, Unit, Video
from videojob.families.streams import Before, Length, place_shots, recent, shot_of_piece, shot_of_unit


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

        A shot that the next one keeps ends where a chunk does (see `streams`).
        """
        return _Cutter(self, chunking, video).plan()

    def most_frames(self, chunking: Chunking, fps: int) -> int:
        """A chunk, or where that is longer, two seconds; at least a latent."""
        chunk = max(self.frames(chunking.first), chunking.later * self.frames_per_latent)
        return max(self.frames_per_latent, min(chunk, LONGEST_PIECE * fps))

    def frames(self, latents: int) -> int:
        """What so many latents become, from the first of a stream on."""
        return frames_of(latents, self.frames_per_latent)


class _Cutter:
    """Cuts one video. The place of a unit is counted from the first of its stream."""

    def __init__(self, family: CausalChunks, chunking: Chunking, video: Video) -> None:
        self._family = family
        self._chunking = chunking
        self._video = video
        self._shots = place_shots(video, self._length)

    def plan(self) -> Plan:
        """Of the whole video."""
        last = self._shots[-1]
        return Plan(self._shots, Computed(last.units.stop, self._unit), Computed(last.pieces.stop, self._piece))

    def _length(self, before: Before, wanted: int, whole: bool) -> Length:
        place = before.units
        begin = self._frames(place).start
        latents = latents_for(begin + wanted, self._family.frames_per_latent)
        count, frames = parts_for(self._chunking.first, self._chunking.later, latents) - place, wanted
        if whole:
            last = self._frames(place + count - 1)
            less, frames = last.start - begin, last.stop - begin
            if count > 1 and wanted - less < frames - wanted:
                count, frames = count - 1, less
        return Length(count, self._count_pieces(place, count, frames), frames)

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
        number = shot_of_unit(self._shots, index)
        shot = self._shots[number]
        place, frames = index - shot.stream, self._frames(index - shot.stream)
        shift = shot.frames.start - self._frames(shot.place).start
        window = recent(shot, index, self._video.refreshes) - shot.stream
        return Unit(
            index=index,
            shot=number,
            steps=self._video.steps,
            latents=self._latents(place),
            needs=tuple(shot.stream + each for each in self._memory(place, window)),
            decode=tuple(shot.stream + each for each in self._tail(place)),
            frames=range(frames.start + shift, frames.stop + shift),
        )

    def _piece(self, index: int) -> Piece:
        shot = self._shots[shot_of_piece(self._shots, index)]
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
