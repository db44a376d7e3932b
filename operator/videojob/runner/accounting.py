"""What an attempt adds to a job's timing and cost, and when the job will be done. Pure: times are passed in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import NamedTuple

from videojob.api.videojob import Cost, GPUSeconds, Resolved, StageSeconds, Timing
from videojob.api.videomodel import VideoModel
from videojob.families import Plan
from videojob.planner.estimate import work
from videojob.runner.viewing import Viewing

RECENT_CHUNKS = 8
"""Chunks whose pace the estimate goes by."""


@dataclass
class Spent:
    """What an attempt has used so far; times in seconds of one monotonic clock."""

    began: float
    last_commit: float
    sequence_began: float = 0.0
    first_request: datetime | None = None
    viewing: Viewing = field(default_factory=Viewing)
    stages: StageSeconds = field(default_factory=StageSeconds)
    gaps: list[float] = field(default_factory=list)
    """Before each commit of a piece."""


@dataclass(frozen=True)
class Account:
    """The cost on the status when the attempt began; everything the attempt spends is added to it."""

    created: datetime
    fps: Fraction
    accelerators: int
    timing: Timing
    cost: Cost

    def since(self, moment: datetime) -> float:
        """Seconds from the job's creation to this moment."""
        # The clocks are two: the API server's and ours.
        return round(max(0.0, (moment - self.created).total_seconds()), 3)

    def timing_after(
        self,
        spent: StageSeconds,
        running_seconds: float,
        frames_ready: int,
        first_request: datetime,
        viewing: Viewing,
    ) -> Timing:
        """Where the time went; `spent`, `running_seconds` and `first_request` are of this attempt alone."""
        running = self.timing.running_seconds + running_seconds
        queued = self.timing.queued_seconds
        if queued is None:
            queued = self.since(first_request)
        return Timing(
            queued_seconds=queued,
            first_frame_seconds=viewing.first,
            newest_frame_seconds=viewing.last,
            worst_gap_seconds=viewing.worst_gap,
            stalls=viewing.stalls,
            stalled_seconds=round(viewing.stalled, 3),
            running_seconds=round(running, 3),
            real_time_factor=round(running * self.fps / frames_ready, 3) if frames_ready else None,
            stages=add_stages(self.timing.stages, spent),
        )

    def cost_after(self, spent: StageSeconds, frames_ready: int) -> Cost:
        """Accelerator time; muxing and uploading need no accelerator."""
        before = self.cost.gpu_seconds
        text = before.text_encode + spent.text_encode * self.accelerators
        denoise = before.denoise + spent.denoise * self.accelerators
        decode = before.vae_decode + spent.vae_decode * self.accelerators
        total = text + denoise + decode
        return Cost(
            gpu_seconds=GPUSeconds(
                text_encode=round(text, 3),
                denoise=round(denoise, 3),
                vae_decode=round(decode, 3),
                total=round(total, 3),
            ),
            per_video_second=round(total * self.fps / frames_ready, 3) if frames_ready else None,
        )


def add_stages(left: StageSeconds, right: StageSeconds) -> StageSeconds:
    """The sum, stage by stage."""
    return StageSeconds(
        **{stage: round(getattr(left, stage) + getattr(right, stage), 3) for stage in StageSeconds.model_fields}
    )


class Checkpoints:
    """When each job that is being made was last committed; times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def saved(self, job: str, now: float) -> None:
        """The job begins, or one of its chunks is in the store."""
        self._last[job] = now

    def ended(self, job: str) -> None:
        """The job is no longer made here."""
        self._last.pop(job, None)

    def age(self, now: float) -> float:
        """Seconds of work that would be lost with the replica: of the job that waits longest; 0 without one."""
        # A copy: metrics are read in another thread.
        return max((now - last for last in tuple(self._last.values())), default=0.0)


def unit_seconds(model: VideoModel, plan: Plan, resolved: Resolved) -> float:
    """The estimate of the time that a unit of the plan takes; that of the model is of what comes of it, a chunk."""
    chunks = len(plan.pieces) / len(plan.units)
    return model.spec.estimate.chunk_seconds * work(model, resolved.width, resolved.height, resolved.steps) * chunks


class Span(NamedTuple):
    """From when to when something was worked on, in seconds of one clock."""

    start: float
    end: float


def hidden_decode(denoised: Span, decoded: Iterable[Span]) -> float:
    """Seconds for which something was decoded while a unit was denoised."""
    return sum(max(0.0, min(denoised.end, each.end) - max(denoised.start, each.start)) for each in decoded)


def estimated_completion(gaps: Sequence[float], remaining: int, now: datetime) -> datetime | None:
    """When `remaining` chunks will be done, at the pace of the last ones.

    `gaps` are the seconds before each commit of this attempt. The first holds waiting and rebuilding and often a
    smaller chunk, so it counts only while it is all there is. None where nothing was measured.
    """
    measured = gaps[1:][-RECENT_CHUNKS:] or gaps[:1]
    if not measured:
        return None
    return (now + timedelta(seconds=remaining * sum(measured) / len(measured))).replace(microsecond=0)
