"""Families that make each shot as one clip, which a causal VAE decodes by itself.

A clip is a unit. It has the smallest number of latents that make the frames of its shot; what they make beyond them is
surplus, of each shot its own.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from videojob.families.cuts import frames_of, latents_for, part, parts_for
from videojob.families.plan import Chunking, Computed, Piece, Plan, Unit, Video


@dataclass(frozen=True)
class _Shot:
    """Where a shot stands in its video."""

    latents: range
    frames: range
    """Without surplus."""
    pieces: range


@dataclass(frozen=True)
class WholeClips:
    """The arithmetic of such a family. Clips remember nothing of each other: of `Chunking` nothing counts."""

    frames_per_latent: int

    def plan(self, chunking: Chunking, video: Video) -> Plan:
        """A unit a shot. A piece is the most whole latents that make no more than a second, but at least one."""
        shots = self._shots(video)
        return Plan(
            units=Computed(len(shots), partial(self._unit, shots, video.steps)),
            pieces=Computed(shots[-1].pieces.stop, partial(self._piece, shots, video.fps)),
        )

    def most_frames(self, chunking: Chunking, fps: int) -> int:
        """A second, or a latent where that is more."""
        return max(fps, self.frames_per_latent)

    def _cut(self, fps: int) -> tuple[int, int]:
        """Latents of the first piece of a clip, and of every later one."""
        return 1 + (fps - 1) // self.frames_per_latent, max(1, fps // self.frames_per_latent)

    def _shots(self, video: Video) -> Sequence[_Shot]:
        shots: list[_Shot] = []
        latents = frames = pieces = 0
        for wanted in video.shots:
            needed = latents_for(wanted, self.frames_per_latent)
            ends = (latents + needed, frames + wanted, pieces + parts_for(*self._cut(video.fps), needed))
            shots.append(_Shot(range(latents, ends[0]), range(frames, ends[1]), range(pieces, ends[2])))
            latents, frames, pieces = ends
        return shots

    def _unit(self, shots: Sequence[_Shot], steps: int, index: int) -> Unit:
        shot = shots[index]
        made = frames_of(len(shot.latents), self.frames_per_latent)
        return Unit(
            index=index,
            shot=index,
            steps=steps,
            latents=shot.latents,
            needs=(),
            decode=(),
            frames=range(shot.frames.start, shot.frames.start + made),
        )

    def _piece(self, shots: Sequence[_Shot], fps: int, index: int) -> Piece:
        unit = bisect_right(shots, index, key=lambda shot: shot.pieces.start) - 1
        shot = shots[unit]
        latents = part(*self._cut(fps), index - shot.pieces.start)
        start, stop = (frames_of(each, self.frames_per_latent) for each in (latents.start, latents.stop))
        return Piece(index, units=(unit,), frames=shot.frames[start:stop])
