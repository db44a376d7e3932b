"""From where a job goes on, and which latents the server needs for that."""

from dataclasses import dataclass

from videojob.chunks import ChunkLayout, memory_chunks, tail_chunks


@dataclass(frozen=True)
class ResumePoint:
    """The next chunk to make, and the chunks whose latents its request has to bring."""

    index: int
    memory: tuple[int, ...]
    """For the denoiser: sink and window."""
    tail: tuple[int, ...]
    """For the VAE's feature cache."""

    @property
    def needed(self) -> tuple[int, ...]:
        """Every chunk whose latents have to be read, in order."""
        return tuple(sorted({*self.memory, *self.tail}))


def resume_at(
    committed: int, layout: ChunkLayout, *, sink_latents: int, window_latents: int, tail_latents: int
) -> ResumePoint:
    """How to go on after `committed` chunks, which are 0 to committed - 1."""
    return ResumePoint(
        index=committed,
        memory=memory_chunks(committed, layout, sink_latents, window_latents),
        tail=tail_chunks(committed, layout, tail_latents),
    )
