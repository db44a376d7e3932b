"""Families that make a video chunk by chunk, each from a history of latents, and decode each chunk by itself.

A chunk is a unit, and always whole. Chunks that go on from each other, in one shot or in several, are a stream, whose
first chunk each of them sees a part of; the decoder begins anew with every chunk.
"""

from dataclasses import dataclass

from videojob.families.cuts import LONGEST_PIECE, frames_of, pieces
from videojob.families.plan import Chunking, Computed, Memory, Piece, Plan, Unit, Video
from videojob.families.streams import Before, Length, place_shots, recent, shot_of_piece, shot_of_unit


@dataclass(frozen=True)
class ChunksWithHistory:
    """The arithmetic of such a family. How long chunk and history are is the model's: of `Chunking` nothing counts."""

    frames_per_latent: int
    latents: int
    """Of a chunk."""
    history: int
    """Latents of the recent past that a chunk is made from."""

    @property
    def memories(self) -> tuple[Memory, ...]:
        """See `videojob.families.Family`."""
        return (Memory.KEEP, Memory.REFRESH, Memory.CLEAR)

    @property
    def frames(self) -> int:
        """Of a chunk."""
        return frames_of(self.latents, self.frames_per_latent)

    def plan(self, chunking: Chunking, video: Video) -> Plan:
        """Each shot has the smallest number of chunks that make its frames; the last one may make more.

        A shot that the next one keeps ends where a chunk does (see `streams`).
        """
        return _Cutter(self, video).plan()

    def most_frames(self, chunking: Chunking, fps: int) -> int:
        """A chunk, or two seconds where that is less; at least a latent."""
        return max(self.frames_per_latent, min(self.frames, LONGEST_PIECE * fps))


class _Cutter:
    """Cuts one video."""

    def __init__(self, family: ChunksWithHistory, video: Video) -> None:
        self._family = family
        self._video = video
        self._pieces = pieces(range(family.latents), video.fps, family.frames_per_latent)
        """The frames of each piece of a chunk, counted from its first."""
        self._shots = place_shots(video, self._length)

    def plan(self) -> Plan:
        """Of the whole video."""
        last = self._shots[-1]
        return Plan(self._shots, Computed(last.units.stop, self._unit), Computed(last.pieces.stop, self._piece))

    def _length(self, before: Before, wanted: int, whole: bool) -> Length:
        chunk, frames = self._family.frames, wanted
        count = -(-wanted // chunk)
        if whole:
            too_many = count * chunk - wanted
            count -= count > 1 and chunk - too_many < too_many
            frames = count * chunk
        of_last = sum(1 for piece in self._pieces if piece.start < frames - (count - 1) * chunk)
        return Length(count, (count - 1) * len(self._pieces) + of_last, frames)

    def _unit(self, index: int) -> Unit:
        number = shot_of_unit(self._shots, index)
        shot = self._shots[number]
        since = index - recent(shot, index, self._video.refreshes)
        history = min(self._family.history, since * self._family.latents)
        first = index - -(-history // self._family.latents)
        start = shot.frames.start + (index - shot.units.start) * self._family.frames
        return Unit(
            index=index,
            shot=number,
            steps=self._video.steps,
            latents=range(self._family.latents),
            needs=tuple(sorted({*range(shot.stream, min(shot.stream + 1, index)), *range(first, index)})),
            decode=(),
            frames=range(start, start + self._family.frames),
            history=history,
        )

    def _piece(self, index: int) -> Piece:
        shot = self._shots[shot_of_piece(self._shots, index)]
        chunk, within = divmod(index - shot.pieces.start, len(self._pieces))
        start = shot.frames.start + chunk * self._family.frames
        made = self._pieces[within]
        frames = range(start + made.start, min(start + made.stop, shot.frames.stop))
        return Piece(index, units=(shot.units.start + chunk,), frames=frames)
