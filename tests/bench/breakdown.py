"""Where the wall time of a job in the system goes: pieces that follow each other and add up to all of it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

DEPTH = 2
"""Requests that the runner keeps in flight."""


@dataclass(frozen=True)
class Chunk:
    """Seconds of work on a chunk."""

    text: float
    denoise: float
    decode: float
    encode: float


@dataclass(frozen=True)
class Moments:
    """When things happened to a job, all in seconds of one clock."""

    created: float
    first_request: float
    last_segment: float
    """The last chunk's segment is in the store; it was put there at once after it was encoded."""
    last_commit: float
    output: float
    finished: float
    """The watch has shown Succeeded."""


def shortest(chunks: Sequence[Chunk]) -> float:
    """Seconds from the first request to the last frames, if handing chunks on took no time.

    A chunk is denoised after the one before it, and once fewer than DEPTH requests are unanswered; decoded after that.
    """
    denoised, decoded = 0.0, [0.0] * DEPTH
    for chunk in chunks:
        denoised = max(denoised, decoded[-DEPTH]) + chunk.text + chunk.denoise
        decoded.append(max(denoised, decoded[-1]) + chunk.decode)
    return decoded[-1]


def pieces(chunks: Sequence[Chunk], at: Moments) -> dict[str, float]:
    """The job's wall time in pieces, in order."""
    text, denoise = sum(chunk.text for chunk in chunks), sum(chunk.denoise for chunk in chunks)
    encode = chunks[-1].encode
    return {
        "queue": at.first_request - at.created,
        "text": text,
        "denoise": denoise,
        "decode": shortest(chunks) - text - denoise,
        "transport": at.last_segment - encode - at.first_request - shortest(chunks),
        "encode": encode,
        "commit": at.last_commit - at.last_segment,
        "output": at.output - at.last_commit,
        "status": at.finished - at.output,
    }
