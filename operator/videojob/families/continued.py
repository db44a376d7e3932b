"""Families that make a video clip by clip, each going on from the last frames of the one before it.

A clip is a unit, and the decoder begins anew with it: its first frames are those that it goes on from, made again, and
those after them are new. Clips that go on from each other, in one shot or in several, are a stream. Its shots, pieces
and new latents are those of windows that overlap by as much (see `windows`).
"""

from dataclasses import dataclass, replace

from videojob.families.plan import Chunking, Computed, Memory, Plan, Unit, Video
from videojob.families.windows import OverlappingWindows


@dataclass(frozen=True)
class ContinuedClips:
    """The arithmetic of such a family.

    Of `Chunking`, `window` is a whole clip and `later` what a clip adds to the one before it: the rest, at least a
    latent, is what it goes on from. `first` and `sink` do not count.
    """

    frames_per_latent: int

    @property
    def memories(self) -> tuple[Memory, ...]:
        """See `videojob.families.Family`. No clip sees the beginning again, so there is none to refresh from."""
        return self._windows.memories

    def plan(self, chunking: Chunking, video: Video) -> Plan:
        """Each shot has the smallest number of latents that make its frames.

        A shot that the next one keeps ends where a latent does (see `streams`).
        """
        windows = self._windows.plan(chunking, video)
        units = Computed(len(windows.units), lambda index: _clip(windows.units[index]))
        return replace(windows, units=units)

    def most_frames(self, chunking: Chunking, fps: int) -> int:
        """A clip, or where that is longer, two seconds; at least a latent."""
        return self._windows.most_frames(chunking, fps)

    @property
    def _windows(self) -> OverlappingWindows:
        return OverlappingWindows(self.frames_per_latent, tail_latents=0)


def _clip(window: Unit) -> Unit:
    """The clip that adds what the window does.

    The clip before it always has as many latents as it goes on from: its own history is all that there was, or as much.
    """
    return replace(
        window,
        latents=range(window.history + len(window.latents)),
        needs=(window.index - 1,) if window.history else (),
    )
