"""Arithmetic of chunks: which latents and frames a chunk holds, and which earlier chunks it needs.

The chunk is the unit of progress, retry, cancel, checkpoint and billing. Everything here is pure, because planner,
runner and models have to agree on it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ChunkLayout:
    """How a family's video is cut into chunks.

    Chunk 0 has `first_latents` latents and every later one `latents`. The first latent of the video becomes one frame
    and each later latent `frames_per_latent` frames.
    """

    first_latents: int
    latents: int
    frames_per_latent: int

    def chunk_latents(self, index: int) -> int:
        """Latents of chunk `index`."""
        return self.first_latents if index == 0 else self.latents

    def first_latent(self, index: int) -> int:
        """Position of the first latent of chunk `index` in the video."""
        return 0 if index == 0 else self.first_latents + (index - 1) * self.latents

    def first_frame(self, index: int) -> int:
        """Position of the first frame of chunk `index` in the video."""
        return self._frames(self.first_latent(index))

    def chunk_frames(self, index: int) -> int:
        """Frames that chunk `index` generates."""
        return self.first_frame(index + 1) - self.first_frame(index)

    def chunks_for(self, frames: int) -> int:
        """The smallest number of chunks that generate at least `frames` (1 or more) frames."""
        beyond = frames - self.first_frame(1)
        return 1 + max(0, -(-beyond // (self.latents * self.frames_per_latent)))

    def kept_frames(self, index: int, frames: int) -> int:
        """Frames of chunk `index` that a video of `frames` frames keeps: the surplus of the last chunk is dropped."""
        return max(0, min(self.chunk_frames(index), frames - self.first_frame(index)))

    def _frames(self, latents: int) -> int:
        return 0 if latents == 0 else 1 + (latents - 1) * self.frames_per_latent


def memory_chunks(index: int, layout: ChunkLayout, sink_latents: int, window_latents: int) -> tuple[int, ...]:
    """The earlier chunks whose latents chunk `index` remembers, in order.

    These are the first chunks that cover `sink_latents` (the sink) and the last whole chunks that fit in
    `window_latents` (the window). Their number does not grow with the video, so neither do memory and step time.
    """
    sink = [chunk for chunk in range(index) if layout.first_latent(chunk) < sink_latents]
    window: list[int] = []
    room = window_latents
    for chunk in range(index - 1, -1, -1):
        room -= layout.chunk_latents(chunk)
        if room < 0:
            break
        window.append(chunk)
    return tuple(sorted({*sink, *window}))


def tail_chunks(index: int, layout: ChunkLayout, tail_latents: int) -> tuple[int, ...]:
    """The last chunks before `index` that cover `tail_latents`: all of them where the video is shorter."""
    first = layout.first_latent(index)
    return tuple(chunk for chunk in range(index) if layout.first_latent(chunk + 1) > first - tail_latents)
