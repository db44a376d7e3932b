"""Predicted seconds: how long a replica works on a chunk, and on what is left of a job.

All seconds here are *replica seconds*: the time of one replica that does nothing else. Two jobs that share a replica
each see their chunks take twice as long; the replica seconds of a chunk stay the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import NamedTuple

from videojob.api.gpupool import GPUPool, ModelEstimate
from videojob.api.videojob import Resolved
from videojob.api.videomodel import VideoModel
from videojob.planner.facts import Job
from videojob.planner.resolve import video_of

QUICK, STEADY = 0.2, 0.02
"""Share of one measured chunk in the new estimate: while the last 10 make nine tenths of it, and when the last 115 do.

It starts quick, since a default may be far off, and slows down with the chunks that were measured. A pool of a hundred
replicas measures a hundred chunks at a time: were it quick for ever, a moment in which all of them wait for the store
would be the whole estimate.
"""
FARTHEST = 5.0
"""An observation counts as at most so many times the estimate, and as no less than the estimate divided by so much. A
job that hung, or a clock that jumped, moves it by little; a default that is far off is still corrected in some chunks.
"""
SHORTEST, LONGEST = 1e-3, 86_400.0
"""Bounds of an estimate in seconds."""


class PoolModel(NamedTuple):
    """A model on a pool's accelerators."""

    pool: str
    model: str


@dataclass(frozen=True)
class Estimates:
    """What chunks take, by pool and model; `spec.estimate.chunkSeconds` of the model where nothing was measured."""

    measured: Mapping[PoolModel, float] = field(default_factory=dict)
    """Replica seconds of a chunk at the model's default size and steps."""
    chunks: Mapping[PoolModel, int] = field(default_factory=dict)
    """How many were measured. A new operator counts from none: it does not know how good what it found is."""

    @classmethod
    def restored(cls, pools: Iterable[GPUPool]) -> "Estimates":
        """What the pools' statuses remember of it; entries that make no sense are left out."""
        return cls(
            {
                PoolModel(pool.metadata.name, entry.model): _bounded(entry.chunk_seconds)
                for pool in pools
                for entry in pool.status.estimates
                if isfinite(entry.chunk_seconds) and entry.chunk_seconds > 0
            }
        )

    def with_pool(self, pool: GPUPool) -> "Estimates":
        """The estimates with what the status of a pool that was not known remembers."""
        found = Estimates.restored((pool,)).measured
        return Estimates({**found, **self.measured}, self.chunks)

    def remembered(self, pool: GPUPool) -> tuple[ModelEstimate, ...]:
        """What the pool's status is to remember, of its own models: two digits, so that it seldom changes."""
        known = ((model, self.measured.get(PoolModel(pool.metadata.name, model))) for model in sorted(pool.spec.models))
        return tuple(
            ModelEstimate(model=model, chunk_seconds=float(f"{seconds:.2g}"))
            for model, seconds in known
            if seconds is not None
        )

    def default_chunk_seconds(self, pool: str, model: VideoModel) -> float:
        """Replica seconds of a chunk at the model's default size and steps."""
        return self.measured.get(PoolModel(pool, model.metadata.name), model.spec.estimate.chunk_seconds)

    def chunk_seconds(self, pool: str, model: VideoModel, width: int, height: int, steps: int) -> float:
        """Replica seconds of a chunk of that size and so many denoising steps."""
        return self.default_chunk_seconds(pool, model) * work(model, width, height, steps)

    def remaining_seconds(self, pool: str, job: Job, model: VideoModel) -> float:
        """Replica seconds until the job is done, if it runs on that pool; 0 once its last chunk is committed."""
        return self.default_chunk_seconds(pool, model) * remaining_work(job, model)

    def observe(
        self, pool: str, model: VideoModel, resolved: Resolved, chunks: int, wall_seconds: float, jobs: int
    ) -> "Estimates":
        """The estimates after a job has committed `chunks` more chunks within `wall_seconds`.

        `wall_seconds` is the time between two commits of one attempt, so that chunks in flight are not counted twice.
        `jobs` is the number of jobs that shared the replica meanwhile, this one included. An observation that cannot be
        (nothing made, no time, no job) changes nothing.
        """
        if chunks < 1 or jobs < 1 or not isfinite(wall_seconds) or wall_seconds <= 0:
            return self
        relative = work(model, resolved.width, resolved.height, resolved.steps)
        if relative <= 0:
            return self
        before = self.default_chunk_seconds(pool, model)
        seen = wall_seconds / (chunks * jobs * relative)
        seen = min(max(seen, before / FARTHEST), before * FARTHEST)
        key = PoolModel(pool, model.metadata.name)
        counted = self.chunks.get(key, 0) + chunks
        kept = (1 - min(QUICK, max(STEADY, 4 / counted))) ** chunks
        after = _bounded(kept * before + (1 - kept) * seen)
        return Estimates({**self.measured, key: after}, {**self.chunks, key: counted})


def work(model: VideoModel, width: int, height: int, steps: int) -> float:
    """The work of a chunk relative to one at the model's defaults: pixels x steps.

    That is a first approximation. It is too little for larger pictures, because attention grows with the square of the
    pixels, and too much for more steps, because the text encoder and the VAE do not care for them: a few-step model
    spends most of a chunk in the VAE. It is right at the defaults, which most jobs take. The first chunk of a video,
    which may have fewer latents, counts as a whole one.
    """
    defaults = model.spec.defaults
    return (width * height * steps) / (defaults.width * defaults.height * defaults.steps)


def remaining_work(job: Job, model: VideoModel) -> float:
    """What is left of a job, in chunks at the model's default size and steps. Chunks in flight are still left."""
    resolved = job.resolved
    if resolved is not None:
        return max(0, resolved.chunks - job.chunks_done) * work(model, resolved.width, resolved.height, resolved.steps)
    defaults = model.spec.defaults
    steps = job.steps or defaults.steps
    chunks = len(model.spec.plan(video_of(job, model)).pieces)
    return chunks * work(model, job.width or defaults.width, job.height or defaults.height, steps)


def _bounded(seconds: float) -> float:
    return min(max(seconds, SHORTEST), LONGEST)
