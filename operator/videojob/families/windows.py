"""Families that make a video window by window, each over the last latents of the one before it, with a causal VAE.

What a window adds is a unit. Windows that go on from each other, in one shot or in several, are a stream, which is
decoded without a break. A window may have fewer latents than the model takes, so a shot ends with any latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from videojob.families.cuts import LONGEST_PIECE, frames_of, latents_for, part, parts_for, pieces
from videojob.families.plan import Chunking, Computed, Memory, Piece, Plan, Unit, Video
from videojob.families.streams import Before, Length, StreamShot, place_shots, shot_of_piece, shot_of_unit


@dataclass(frozen=True)
class OverlappingWindows:
    """The arithmetic of such a family.

    Of `Chunking`, `window` is what the model takes at once and `later` what a window adds: the rest, at least a latent,
    is the overlap. `first` and `sink` do not count.
    """

    frames_per_latent: int
    tail_latents: int
    """Latents that, decoded again, rebuild the VAE decoder's feature cache bit for bit: as far as its convolutions look
    back."""

    @property
    def memories(self) -> tuple[Memory, ...]:
        """See `videojob.families.Family`. No window sees the beginning again, so there is none to refresh from."""
        return (Memory.KEEP, Memory.CLEAR)

    def plan(self, chunking: Chunking, video: Video) -> Plan:
        """Each shot has the smallest number of latents that make its frames.

        A shot that the next one keeps ends where a latent does (see `streams`).
        """
        return _Cutter(self, chunking, video).plan()

    def most_frames(self, chunking: Chunking, fps: int) -> int:
        """A window, or where that is longer, two seconds; at least a latent."""
        window = max(frames_of(_whole(chunking), self.frames_per_latent), chunking.later * self.frames_per_latent)
        return max(self.frames_per_latent, min(window, LONGEST_PIECE * fps))


def _overlap(chunking: Chunking) -> int:
    return max(1, chunking.window - chunking.later)


def _whole(chunking: Chunking) -> int:
    """Latents of a whole window."""
    return chunking.later + _overlap(chunking)


class _Cutter:
    """Cuts one video."""

    def __init__(self, family: OverlappingWindows, chunking: Chunking, video: Video) -> None:
        self._family = family
        self._overlap = _overlap(chunking)
        self._whole = _whole(chunking)
        self._later = chunking.later
        self._video = video
        self._shots = place_shots(video, self._length)

    def plan(self) -> Plan:
        """Of the whole video."""
        last = self._shots[-1]
        return Plan(self._shots, Computed(last.units.stop, self._unit), Computed(last.pieces.stop, self._piece))

    def _length(self, before: Before, wanted: int, whole: bool) -> Length:
        latents, frames = self._shot_latents(before.frames, before.frames + wanted), wanted
        if whole:
            frames, less = len(self._frames(latents)), len(self._frames(latents[:-1]))
            if less and wanted - less < frames - wanted:
                latents, frames = latents[:-1], less
        units = parts_for(self._size(latents.start), self._later, len(latents))
        return Length(units, self._count_pieces(latents, units, frames), frames)

    def _shot_latents(self, start: int, stop: int) -> range:
        """Of a shot of these frames; both are counted from the first of the stream."""
        per_latent = self._family.frames_per_latent
        return range(latents_for(start, per_latent) if start else 0, latents_for(stop, per_latent))

    def _size(self, latent: int) -> int:
        """Of a shot's first unit, where it begins with this latent: the first window of a stream overlaps none."""
        return self._later if latent else self._whole

    def _latents(self, shot: StreamShot, index: int) -> range:
        """Of a unit, counted from the first of the stream."""
        all_of_shot = self._shot_latents(shot.frames.start - shot.begins, shot.frames.stop - shot.begins)
        within = part(self._size(all_of_shot.start), self._later, index - shot.units.start)
        return all_of_shot[within.start : within.stop]

    def _frames(self, latents: range) -> range:
        """That come out of these latents, counted from the first of the stream."""
        start, stop = (frames_of(each, self._family.frames_per_latent) for each in (latents.start, latents.stop))
        return range(start, stop)

    def _pieces(self, latents: range) -> Sequence[range]:
        """The frames of each piece of a unit, counted likewise."""
        return pieces(latents, self._video.fps, self._family.frames_per_latent)

    def _count_pieces(self, latents: range, units: int, frames: int) -> int:
        """How many pieces a shot of these latents has, of which so many frames are its own."""
        size = self._size(latents.start)
        end = self._frames(latents).start + frames
        spans = [part(size, self._later, each) for each in (0, 1, units - 1)]
        first, second, last = (self._pieces(latents[span.start : span.stop]) for span in spans)
        of_last = sum(1 for piece in last if piece.start < end)
        return of_last + (0 if units == 1 else len(first) + (units - 2) * len(second))

    def _unit(self, index: int) -> Unit:
        number = shot_of_unit(self._shots, index)
        shot = self._shots[number]
        latents = self._latents(shot, index)
        frames = self._frames(latents)
        return Unit(
            index=index,
            shot=number,
            steps=self._video.steps,
            latents=latents,
            needs=self._back(shot, index, self._overlap),
            decode=self._back(shot, index, self._family.tail_latents),
            frames=range(frames.start + shot.begins, frames.stop + shot.begins),
            history=min(self._overlap, latents.start),
        )

    def _back(self, shot: StreamShot, index: int, latents: int) -> tuple[int, ...]:
        """The last units of the stream before this one that cover so many latents: all where there are not as many."""
        first = self._latents(shot, index).start - latents
        back = takewhile(
            lambda unit: self._latents(self._shots[shot_of_unit(self._shots, unit)], unit).stop > first,
            range(index - 1, shot.stream - 1, -1),
        )
        return tuple(reversed([*back]))

    def _piece(self, index: int) -> Piece:
        shot = self._shots[shot_of_piece(self._shots, index)]
        unit, within = shot.units.start, index - shot.pieces.start
        if within >= (first := len(self._pieces(self._latents(shot, unit)))):
            more, within = divmod(within - first, len(self._pieces(self._latents(shot, unit + 1))))
            unit += 1 + more
        frames = self._pieces(self._latents(shot, unit))[within]
        made = range(frames.start + shot.begins, min(frames.stop + shot.begins, shot.frames.stop))
        return Piece(index, units=(unit,), frames=made)
