"""What a pipeline makes a video from, from where on, and what it gives. Plain data."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from videojob.api.videojob import Resolved, StageSeconds, VideoJob
from videojob.families import Piece, Plan
from videojob.media import Look
from videojob.runner.triton import Answer
from videojob.store import Partial
from videojob.triton import contract
from videojob.triton.wire import Settings


def correlation_id(job: VideoJob) -> str:
    """The name of a job's sequence on the server, in its current attempt."""
    return f"{job.metadata.uid}-{job.status.attempts}"


def settings_of(job: VideoJob, resolved: Resolved) -> tuple[Settings, ...]:
    """What the units of each shot are made with."""
    usual = job.spec.negative_prompt or ""
    return tuple(
        Settings(
            prompt=shot.prompt,
            seed=resolved.seed if made.seed is None else made.seed,
            width=resolved.width,
            height=resolved.height,
            fps=float(resolved.fps),
            guidance_scale=resolved.guidance_scale,
            guidance_scale_2=resolved.guidance_scale_2,
            adapters=job.spec.adapters,
            negative_prompt=usual if shot.negative_prompt is None else shot.negative_prompt,
        )
        for shot, made in zip(job.spec.shots, resolved.cut, strict=True)
    )


async def _none(shot: int) -> Sequence[bytes]:
    return ()


@dataclass(frozen=True)
class Recipe:
    """What a job's video is made from."""

    model: str
    correlation_id: str
    settings: Sequence[Settings]
    """Of each shot."""
    plan: Plan
    fps: Fraction
    unit_seconds: float = 0.0
    """The estimate of a whole unit, where there is one."""
    run: int = 0
    """Of the sequence, which is run again under its id after an error."""
    images: Callable[[int], Awaitable[Sequence[bytes]]] = _none
    """Those of a shot, by its index, as IMAGES has them."""

    def shape(self, piece: Piece) -> tuple[int, int, int, int]:
        """Shape `[F, H, W, 3]` of a piece's frames."""
        return (len(piece.frames), self.settings[0].height, self.settings[0].width, 3)

    @property
    def largest_bytes(self) -> int:
        """Size of the frames of the largest piece."""
        return max(math.prod(self.shape(piece)) for piece in self.plan.pieces)


@dataclass(frozen=True)
class Resume:
    """From where a video goes on."""

    unit: int = 0
    """The first one to denoise."""
    piece: int = 0
    """The first one to make."""
    partial: Partial | None = None
    """What the first one to denoise goes on from."""

    def denoised(self, plan: Plan) -> range:
        """The units that are denoised and to be decoded."""
        missing = plan.pieces[self.piece : self.piece + 1]
        return range(min(missing[0].units), self.unit) if missing else range(0)

    def checkpoints(self, plan: Plan) -> list[int]:
        """The units whose checkpoints are needed for that, in order."""
        to_denoise, to_decode = plan.units[self.unit : self.unit + 1], plan.pieces[self.piece : self.piece + 1]
        for_denoiser = to_denoise[0].needs if to_denoise else ()
        for_decoder = plan.units[min(to_decode[0].units)].decode if to_decode else ()
        return sorted({*for_denoiser, *for_decoder, *self.denoised(plan)})


@dataclass(frozen=True)
class MadeUnit:
    """A unit that was denoised, ready for the store."""

    index: int
    checkpoint: bytes
    seconds: StageSeconds
    step: int | None = None
    """The one after which it was paused; None where it is whole."""
    drifted: str = ""
    """What had drifted, and how far, where it was made without its recent past because of that."""

    @classmethod
    def of(cls, index: int, answer: Answer, drifted: str, text_seconds: float = 0.0) -> "MadeUnit":
        """What the denoiser gave."""
        report = answer.report
        seconds = StageSeconds(text_encode=text_seconds, denoise=report.seconds)
        step = report.step if report.partial else None
        return cls(index, answer.binary(contract.CHECKPOINT), seconds, step, drifted)


@dataclass(frozen=True)
class MadePiece:
    """A piece of the video, ready for the store."""

    index: int
    units: tuple[int, ...]
    """That its frames come from."""
    frames: int
    segment: bytes
    look: Look
    seconds: StageSeconds
    hidden_decode: float
    """Seconds for which what came before was decoded while its unit was denoised."""
