"""Families that make a video chunk by chunk, each from a sink and a window of those before it, over a causal VAE.

A chunk is a unit and a piece at once. The first latent of a video becomes one frame, so chunk 0 has fewer frames than
the others.
"""

from dataclasses import dataclass
from functools import partial
from itertools import takewhile

from videojob.families.cuts import frames_of, latents_for, part, parts_for
from videojob.families.plan import Chunking, Computed, Piece, Plan, Unit, Video


@dataclass(frozen=True)
class CausalChunks:
    """The arithmetic of such a family."""

    frames_per_latent: int
    tail_latents: int
    """Latents that, decoded again, rebuild the VAE decoder's feature cache bit for bit: as far as its convolutions look
    back."""

    def plan(self, chunking: Chunking, video: Video) -> Plan:
        """The smallest number of chunks that make the frames of one shot; the last one may make more.

        Raises ValueError where there are several: chunks go on from each other, whatever they show.
        """
        (frames,) = video.shots
        count = parts_for(chunking.first, chunking.later, latents_for(frames, self.frames_per_latent))
        return Plan(
            units=Computed(count, partial(self._unit, chunking, video.steps)),
            pieces=Computed(count, partial(self._piece, chunking, frames)),
        )

    def most_frames(self, chunking: Chunking, fps: int) -> int:
        """A chunk, however many frames a second has."""
        return max(self._frames(chunking.first), chunking.later * self.frames_per_latent)

    def _unit(self, chunking: Chunking, steps: int, index: int) -> Unit:
        latents = _latents(chunking, index)
        return Unit(
            index=index,
            shot=0,
            steps=steps,
            latents=latents,
            needs=_memory(chunking, index),
            decode=self._tail(chunking, index),
            frames=range(self._frames(latents.start), self._frames(latents.stop)),
        )

    def _piece(self, chunking: Chunking, frames: int, index: int) -> Piece:
        latents = _latents(chunking, index)
        made = range(self._frames(latents.start), min(frames, self._frames(latents.stop)))
        return Piece(index, units=(index,), frames=made)

    def _tail(self, chunking: Chunking, index: int) -> tuple[int, ...]:
        """The last chunks before `index` that cover the tail: all of them where the video is shorter."""
        first = _latents(chunking, index).start - self.tail_latents
        back = takewhile(lambda chunk: _latents(chunking, chunk).stop > first, range(index - 1, -1, -1))
        return tuple(reversed([*back]))

    def _frames(self, latents: int) -> int:
        return frames_of(latents, self.frames_per_latent)


def _latents(chunking: Chunking, index: int) -> range:
    """The positions of a chunk's latents in the video."""
    return part(chunking.first, chunking.later, index)


def _memory(chunking: Chunking, index: int) -> tuple[int, ...]:
    """The chunks that cover the sink, and the last whole ones that fit in the window.

    Their number does not grow with the video, so neither do memory and step time.
    """
    sink = takewhile(lambda chunk: _latents(chunking, chunk).start < chunking.sink, range(index))
    oldest = _latents(chunking, index).start - chunking.window
    window = takewhile(lambda chunk: _latents(chunking, chunk).start >= oldest, range(index - 1, -1, -1))
    return tuple(sorted({*sink, *window}))
