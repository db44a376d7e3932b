"""What is made for a job, with every default filled in."""

from videojob.api.gpupool import GPUPool
from videojob.api.reasons import Reason
from videojob.api.videojob import Resolved
from videojob.api.videomodel import VideoModel
from videojob.families import Shot, Video
from videojob.planner.facts import Job


def resolve(job: Job, model: VideoModel, weights_digest: str) -> Resolved:
    """Size, frames, chunks and weights, as they stay over all attempts."""
    defaults = model.spec.defaults
    return Resolved(
        width=job.width or defaults.width,
        height=job.height or defaults.height,
        fps=job.fps or defaults.fps,
        steps=job.steps or defaults.steps,
        guidance_scale=defaults.guidance_scale if job.guidance_scale is None else job.guidance_scale,
        seed=job.seed,
        frames=frames_of(job, model),
        chunks=len(model.spec.plan(video_of(job, model)).pieces),
        model_uid=model.metadata.uid,
        model_generation=model.metadata.generation,
        weights_digest=weights_digest,
    )


def video_of(job: Job, model: VideoModel) -> Video:
    """What a plan of the job is made for."""
    defaults = model.spec.defaults
    return Video((Shot(frames_of(job, model)),), job.fps or defaults.fps, job.steps or defaults.steps)


def frames_of(job: Job, model: VideoModel) -> int:
    """Frames of the job's video."""
    return max(1, round(job.seconds * (job.fps or model.spec.defaults.fps)))


def store_uri(job: Job, pool: GPUPool) -> str:
    """Where the job's files are in the pool's store."""
    return f"{pool.spec.store.url.rstrip('/')}/{job.namespace}/{job.uid}"


def beyond_limits(job: Job, model: VideoModel) -> tuple[Reason, str] | None:
    """What the model does not allow, as reason and sentence."""
    limits, defaults = model.spec.limits, model.spec.defaults
    width, height = job.width or defaults.width, job.height or defaults.height
    sizes = (
        ("width", width, limits.max_width),
        ("height", height, limits.max_height),
        ("seconds", job.seconds, limits.max_seconds),
    )
    excesses = [f"{name} {wanted:g} is more than {limit:g}" for name, wanted, limit in sizes if wanted > limit]
    frames, most = frames_of(job, model), limits.max_frames
    if most is not None and frames > most:
        fps = job.fps or defaults.fps
        excesses.append(f"{job.seconds:g} s at {fps} fps are {frames} frames, and a shot has at most {most}")
    if not excesses:
        return None
    return (
        Reason.EXCEEDS_MODEL_LIMITS,
        f"VideoModel {model.metadata.name} does not allow this: {', '.join(excesses)}.",
    )
