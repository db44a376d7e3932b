"""Families that make each shot as one clip, which a causal VAE decodes by itself.

A clip is a unit. It has the smallest number of latents that make the frames of its shot; what they make beyond them is
surplus, of each shot its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from videojob.families.cuts import frames_of, latents_for, part, parts_for, second
from videojob.families.plan import Chunking, Computed, Memory, Piece, Plan, ShotPlan, Unit, Video
from videojob.families.streams import shot_of_piece


@dataclass(frozen=True)
class WholeClips:
    """The arithmetic of such a family. Clips remember nothing of each other: of `Chunking` nothing counts.

    Nor does the memory of a shot: each begins anew.
    """

    frames_per_latent: int

    @property
    def memories(self) -> tuple[Memory, ...]:
        """See `videojob.families.Family`."""
        return (Memory.CLEAR,)

    def plan(self, chunking: Chunking, video: Video) -> Plan:
        """A unit a shot. A piece is the most whole latents that make no more than a second, but at least one."""
        shots = self._shots(video)
        return Plan(
            shots=shots,
            units=Computed(len(shots), partial(self._unit, shots, video.steps)),
            pieces=Computed(shots[-1].pieces.stop, partial(self._piece, shots, video.fps)),
        )

    def most_frames(self, chunking: Chunking, fps: int) -> int:
        """A second, or a latent where that is more."""
        return max(fps, self.frames_per_latent)

    def _shots(self, video: Video) -> Sequence[ShotPlan]:
        shots: list[ShotPlan] = []
        cut, frames, pieces = second(video.fps, self.frames_per_latent), 0, 0
        for index, shot in enumerate(video.shots):
            needed = latents_for(shot.frames, self.frames_per_latent)
            ends = frames + shot.frames, pieces + parts_for(*cut, needed)
            shots.append(ShotPlan(range(frames, ends[0]), range(index, index + 1), range(pieces, ends[1])))
            frames, pieces = ends
        return shots

    def _unit(self, shots: Sequence[ShotPlan], steps: int, index: int) -> Unit:
        frames = shots[index].frames
        latents = latents_for(len(frames), self.frames_per_latent)
        made = frames_of(latents, self.frames_per_latent)
        return Unit(
            index=index,
            shot=index,
            steps=steps,
            latents=range(latents),
            needs=(),
            decode=(),
            frames=range(frames.start, frames.start + made),
        )

    def _piece(self, shots: Sequence[ShotPlan], fps: Fraction | int, index: int) -> Piece:
        unit = shot_of_piece(shots, index)
        shot = shots[unit]
        latents = part(*second(fps, self.frames_per_latent), index - shot.pieces.start)
        start, stop = (frames_of(each, self.frames_per_latent) for each in (latents.start, latents.stop))
        return Piece(index, units=(unit,), frames=shot.frames[start:stop])
