"""What is made for a job, with every default filled in."""

from videojob.api.drift import DriftPolicy
from videojob.api.gpupool import GPUPool
from videojob.api.reasons import Reason
from videojob.api.shots import ResolvedShot
from videojob.api.videojob import Resolved
from videojob.api.videomodel import Use, VideoModel
from videojob.families import Memory, Shot, Video, frame_rate
from videojob.planner.facts import Job, WantedShot


def resolve(job: Job, model: VideoModel, weights_digest: str) -> Resolved:
    """Size, shots, chunks and weights, as they stay over all attempts."""
    defaults, video = model.spec.defaults, video_of(job, model)
    plan = model.spec.plan(video)
    shots = tuple(
        ResolvedShot(frames=len(span.frames), chunks=len(span.pieces), memory=shot.memory, seed=wanted.seed)
        for span, shot, wanted in zip(plan.shots, video.shots, job.shots, strict=True)
    )
    return Resolved(
        width=job.width or defaults.width,
        height=job.height or defaults.height,
        fps=job.fps or defaults.fps,
        steps=video.steps,
        guidance_scale=defaults.guidance_scale if job.guidance_scale is None else job.guidance_scale,
        guidance_scale_2=_second_scale(job, model),
        seed=job.seed,
        frames=sum(shot.frames for shot in shots),
        chunks=len(plan.pieces),
        shots=shots,
        model_uid=model.metadata.uid,
        model_generation=model.metadata.generation,
        weights_digest=weights_digest,
        drift=model.spec.drift,
    )


def _second_scale(job: Job, model: VideoModel) -> float | None:
    """What a job says for all steps holds for those of a second transformer as well."""
    if job.guidance_scale_2 is not None or job.guidance_scale is not None:
        return job.guidance_scale_2
    return model.spec.defaults.guidance_scale_2


def video_of(job: Job, model: VideoModel) -> Video:
    """What a plan of the job is made for, if the model allows it: see `refusal`."""
    defaults = model.spec.defaults
    fps, usual = job.fps or defaults.fps, model.spec.memories[0]
    shots = [
        Shot(_frames(wanted, fps), (wanted.memory or usual) if index else Memory.CLEAR)
        for index, wanted in enumerate(job.shots)
    ]
    return Video(tuple(shots), frame_rate(fps), job.steps or defaults.steps)


def _frames(shot: WantedShot, fps: float) -> int:
    return max(1, round(shot.seconds * frame_rate(fps)))


def store_uri(job: Job, pool: GPUPool) -> str:
    """Where the job's files are in the pool's store."""
    return f"{pool.spec.store.url.rstrip('/')}/{job.namespace}/{job.uid}"


def refusal(job: Job, model: VideoModel) -> tuple[Reason, str] | None:
    """What the model cannot do or does not allow, as reason and sentence."""
    return (
        _unknown_adapters(job, model)
        or _beyond_memories(job, model)
        or _images(job, model)
        or _one_transformer(job, model)
        or _unjudged_drift(job, model)
        or _beyond_limits(job, model)
    )


def _unknown_adapters(job: Job, model: VideoModel) -> tuple[Reason, str] | None:
    known = [adapter.name for adapter in model.spec.adapters]
    unknown = [name for name in job.adapters if name not in known]
    if not unknown:
        return None
    return (
        Reason.ADAPTER_NOT_FOUND,
        f"VideoModel {model.metadata.name} has no adapter {', '.join(unknown)}. It has {', '.join(known) or 'none'}.",
    )


def _beyond_memories(job: Job, model: VideoModel) -> tuple[Reason, str] | None:
    known = model.spec.memories
    for index, shot in enumerate(job.shots):
        if index and shot.memory is not None and shot.memory not in known:
            return (
                Reason.MEMORY_UNSUPPORTED,
                f"shots[{index}].memory is {shot.memory}, and VideoModel {model.metadata.name} can do "
                f"{' or '.join(known)} only, as all of the family {model.spec.family}. Create the job again with that, "
                "or leave memory out.",
            )
    return None


def _images(job: Job, model: VideoModel) -> tuple[Reason, str] | None:
    taken, usual = model.spec.images, model.spec.memories[0]
    uses = (None, None) if taken is None else (taken.first, taken.last)
    for index, shot in enumerate(job.shots):
        goes_on = index > 0 and (shot.memory or usual) is not Memory.CLEAR
        for number, (name, use) in enumerate(zip(("image", "lastImage"), uses, strict=True), 1):
            field = f"shots[{index}].{name}"
            if use is None and shot.images >= number:
                return (
                    Reason.IMAGE_UNSUPPORTED,
                    f"VideoModel {model.metadata.name} takes no {name}. Create the job again without {field}, or with "
                    f"a model whose spec.images allows it.",
                )
            if goes_on and shot.images >= number:
                return (
                    Reason.IMAGE_UNSUPPORTED,
                    f"shots[{index}] goes on from the shot before it, so there is no place for its {name}. Create the "
                    f"job again without {field}, or with shots[{index}].memory: Clear.",
                )
            if use is Use.REQUIRED and shot.images < number and not goes_on:
                return (
                    Reason.IMAGE_MISSING,
                    f"VideoModel {model.metadata.name} needs {name} of each shot. Create the job again with {field}.",
                )
    return None


def _one_transformer(job: Job, model: VideoModel) -> tuple[Reason, str] | None:
    if job.guidance_scale_2 is None or model.spec.defaults.guidance_scale_2 is not None:
        return None
    return (
        Reason.GUIDANCE_UNSUPPORTED,
        f"guidanceScale2 is for models with a second transformer, and VideoModel {model.metadata.name} has none: such "
        "a model has defaults.guidanceScale2. Create the job again without it.",
    )


def _unjudged_drift(job: Job, model: VideoModel) -> tuple[Reason, str] | None:
    policy = job.drift_policy
    if policy is DriftPolicy.REPORT:
        return None
    if policy is DriftPolicy.REFRESH and Memory.REFRESH not in model.spec.memories:
        lack = f"and models of the family {model.spec.family} keep nothing of the beginning to go on from"
    elif model.spec.drift is None:
        lack = f"and VideoModel {model.metadata.name} has no drift to judge by: set its thresholds"
    else:
        return None
    return (
        Reason.DRIFT_POLICY_UNSUPPORTED,
        f"driftPolicy is {policy}, {lack}. Or create the job again with another driftPolicy.",
    )


def _beyond_limits(job: Job, model: VideoModel) -> tuple[Reason, str] | None:
    limits, defaults = model.spec.limits, model.spec.defaults
    width, height = job.width or defaults.width, job.height or defaults.height
    sizes = (
        ("width", width, limits.max_width),
        ("height", height, limits.max_height),
        ("seconds", job.seconds, limits.max_seconds),
        ("guidanceScale", job.guidance_scale or 0.0, limits.max_guidance_scale),
        ("guidanceScale2", job.guidance_scale_2 or 0.0, limits.max_guidance_scale),
    )
    excesses = [f"{name} {wanted:g} is more than {limit:g}" for name, wanted, limit in sizes if wanted > limit]
    timesteps = model.spec.sampling.timesteps if model.spec.sampling else ()
    if timesteps and job.steps not in (None, len(timesteps)):
        excesses.append(f"steps are {len(timesteps)}, as many as the model has timesteps, and not {job.steps}")
    fps, most = job.fps or defaults.fps, limits.max_frames
    for index, shot in enumerate(job.shots):
        if most is not None and (frames := _frames(shot, fps)) > most:
            long = f"{shot.seconds:g} s of shots[{index}] at {fps} fps are {frames} frames"
            excesses.append(f"{long}, and a shot has at most {most}")
            break
    if not excesses:
        return None
    return (
        Reason.EXCEEDS_MODEL_LIMITS,
        f"VideoModel {model.metadata.name} does not allow this: {', '.join(excesses)}.",
    )
