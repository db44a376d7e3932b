"""What a model allows, and which pools can run it."""

from typing import Any

import pytest

from tests.planner.builders import book, job, model
from tests.planner.deciding import decided
from videojob.api.reasons import Reason
from videojob.api.videomodel import Defaults, Sampling
from videojob.families import FamilyName, SamplerName
from videojob.planner.decisions import Assign, Wait


@pytest.mark.parametrize(
    ("component", "runs"),
    [
        ({"name": "vae", "format": "bfloat16"}, False),
        ({"name": "text_encoder", "format": "bfloat16", "device": "cpu"}, True),
        ({"name": "vae", "directory": "/vae"}, True),
    ],
    ids=["in bfloat16", "in bfloat16 on the cpu", "as the rest"],
)
def test_a_cpu_pool_runs_float32_only_on_what_is_its_accelerator(component: dict[str, Any], runs: bool) -> None:
    (decision,) = decided(book(job(), models=[model(components=[component])]))
    if runs:
        assert isinstance(decision, Assign)
    else:
        assert isinstance(decision, Wait) and decision.reason is Reason.PRECISION_UNSUPPORTED
        assert decision.message.startswith("VideoModel tiny is bfloat16 and float32, but GPUPool p has no accelerator")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({}, None),
        ({"steps": 3, "guidance_scale": 1.0}, None),
        ({"guidance_scale": 0.0}, None),
        ({"steps": 4}, "steps are 3, as many as the model has timesteps, and not 4."),
        ({"guidance_scale": 5.0}, "guidanceScale 5 is more than 1."),
    ],
)
def test_a_distilled_model_has_its_steps_and_no_guidance(wanted: dict[str, Any], words: str | None) -> None:
    student = model(
        family=FamilyName.WAN,
        sampling=Sampling(scheduler=SamplerName.FLOW_MATCH_LCM, timesteps=(1000.0, 757.0, 522.0)),
        limits={"max_guidance_scale": 1},
        defaults=Defaults(steps=3),
    )
    (decision,) = decided(book(job(**wanted), models=[student]))
    if words is None:
        assert isinstance(decision, Assign) and decision.resolved.steps == 3
    else:
        assert isinstance(decision, Wait) and decision.reason is Reason.EXCEEDS_MODEL_LIMITS
        assert decision.message == f"VideoModel tiny does not allow this: {words}"


@pytest.mark.parametrize(
    ("seconds", "fps", "words"),
    [
        (5.0625, 16, None),
        (1.35, 60, None),
        (5, 60, "5 s of shots[0] at 60 fps are 300 frames, and a shot has at most 81."),
        (3.4, 23.976, "3.4 s of shots[0] at 23.976 fps are 82 frames, and a shot has at most 81."),
        (5.1, None, "5.1 s of shots[0] at 16 fps are 82 frames, and a shot has at most 81."),
        (61, 60, "seconds 61 is more than 60, 61 s of shots[0] at 60 fps are 3660 frames, and a shot has at most 81."),
    ],
)
def test_a_shot_has_at_most_so_many_frames_whatever_its_fps(
    seconds: float, fps: float | None, words: str | None
) -> None:
    """A clip is denoised at once: what it takes of memory, and whether the model can make it, goes by frames."""
    (decision,) = decided(book(job(seconds=seconds, fps=fps), models=[model(limits={"max_frames": 81})]))
    if words is None:
        assert isinstance(decision, Assign)
    else:
        assert isinstance(decision, Wait) and decision.reason is Reason.EXCEEDS_MODEL_LIMITS
        assert decision.message == f"VideoModel tiny does not allow this: {words}"


@pytest.mark.parametrize(
    ("default", "wanted", "made"),
    [
        (None, {}, (5.0, None)),
        (3.0, {}, (5.0, 3.0)),
        (3.0, {"guidance_scale": 4.0}, (4.0, None)),
        (3.0, {"guidance_scale_2": 2.0}, (5.0, 2.0)),
        (3.0, {"guidance_scale": 4.0, "guidance_scale_2": 0.0}, (4.0, 0.0)),
    ],
)
def test_a_second_transformer_may_have_a_guidance_of_its_own(
    default: float | None, wanted: dict[str, Any], made: tuple[float, float | None]
) -> None:
    """What a job says of guidance alone holds for all steps."""
    scales = Defaults(guidance_scale=5.0, guidance_scale_2=default)
    (decision,) = decided(book(job(**wanted), models=[model(defaults=scales)]))
    assert isinstance(decision, Assign)
    assert (decision.resolved.guidance_scale, decision.resolved.guidance_scale_2) == made


@pytest.mark.parametrize(
    ("default", "reason", "words"),
    [
        (None, Reason.GUIDANCE_UNSUPPORTED, "VideoModel tiny has none"),
        (3.0, Reason.EXCEEDS_MODEL_LIMITS, "guidanceScale2 9 is more than 6."),
    ],
)
def test_a_second_guidance_that_cannot_be(default: float | None, reason: Reason, words: str) -> None:
    of_model = model(defaults=Defaults(guidance_scale_2=default), limits={"max_guidance_scale": 6})
    (decision,) = decided(book(job(guidance_scale_2=9.0), models=[of_model]))
    assert isinstance(decision, Wait) and decision.reason is reason
    assert words in decision.message
