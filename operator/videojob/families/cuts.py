"""How latents are cut into parts of which the first may differ, and what frames a causal VAE makes of them."""

from collections.abc import Sequence
from fractions import Fraction

LONGEST_PIECE = 2
"""Seconds. A unit that is no longer is one piece; of a longer one every second is."""


def part(first: int, later: int, index: int) -> range:
    """The positions of the latents in a part; `first` and `later` are the latents of part 0, and of each other one."""
    start = 0 if index == 0 else first + (index - 1) * later
    return range(start, start + (first if index == 0 else later))


def parts_for(first: int, later: int, latents: int) -> int:
    """How many parts cover so many latents."""
    return 1 + max(0, -(-(latents - first) // later))


def frames_of(latents: int, per_latent: int) -> int:
    """How many frames the first `latents` latents become: one for the first, `per_latent` for each later one."""
    return 0 if latents == 0 else 1 + (latents - 1) * per_latent


def latents_for(frames: int, per_latent: int) -> int:
    """The smallest number of latents that become at least `frames` (1 or more) frames."""
    return 1 - (-(frames - 1) // per_latent)


def second(fps: Fraction | int, per_latent: int) -> tuple[int, int]:
    """The most latents that make no more than a second, but at least one: from the first latent on, and from later."""
    return 1 + (fps - 1) // per_latent, max(1, fps // per_latent)


def pieces(latents: range, fps: Fraction | int, per_latent: int) -> Sequence[range]:
    """The frames of each piece of a unit of these latents, latents and frames counted from the first of a stream."""
    frames = range(frames_of(latents.start, per_latent), frames_of(latents.stop, per_latent))
    if len(frames) <= LONGEST_PIECE * fps:
        return [frames]
    first, later = second(fps, per_latent)
    first = first if latents.start == 0 else later
    ends = [latents.start + part(first, later, each).stop for each in range(parts_for(first, later, len(latents)))]
    stops = [min(frames.stop, frames_of(end, per_latent)) for end in ends]
    return [range(start, stop) for start, stop in zip([frames.start, *stops], stops, strict=False)]
