"""Timing, cost and estimates, over all attempts."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from tests.planner.builders import RESOLVED, model
from videojob.api.videojob import Cost, GPUSeconds, StageSeconds, Timing
from videojob.api.videomodel import Defaults, Estimate
from videojob.families import FamilyName, Shot, Video
from videojob.runner.accounting import (
    Account,
    Checkpoints,
    Span,
    estimated_completion,
    hidden_decode,
    unit_seconds,
)
from videojob.runner.viewing import Viewing

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
SPENT = StageSeconds(text_encode=0.5, denoise=4, vae_decode=2, mux=0.25, upload=1)


def account(**known: object) -> Account:
    values: dict[str, object] = {
        "created": CREATED,
        "fps": Fraction(8),
        "accelerators": 2,
        "timing": Timing(),
        "cost": Cost(),
    }
    return Account(**{**values, **known})  # type: ignore[arg-type]


def after(seconds: float) -> datetime:
    return CREATED + timedelta(seconds=seconds)


def test_before_the_first_frames_there_is_no_first_frame_and_no_factor() -> None:
    timing = account().timing_after(StageSeconds(), 1.0, 0, after(3), Viewing())

    assert (timing.queued_seconds, timing.first_frame_seconds, timing.real_time_factor) == (3.0, None, None)
    assert account().cost_after(SPENT, 0).per_video_second is None


def test_the_first_attempt() -> None:
    timing = account().timing_after(SPENT, 6.0, 16, after(3), Viewing(first=9.0, last=9.0))

    assert (timing.queued_seconds, timing.first_frame_seconds) == (3.0, 9.0)
    assert (timing.running_seconds, timing.real_time_factor) == (6.0, 3.0)
    assert timing.stages == SPENT


def test_a_later_attempt_adds_and_keeps_what_was_first() -> None:
    before = Timing(queued_seconds=1, first_frame_seconds=2, running_seconds=10, stages=SPENT)

    timing = account(timing=before).timing_after(SPENT, 6.0, 16, after(30), Viewing.of(before))

    assert (timing.queued_seconds, timing.first_frame_seconds) == (1, 2)
    assert (timing.running_seconds, timing.real_time_factor) == (16.0, 8.0)
    assert timing.stages == StageSeconds(text_encode=1, denoise=8, vae_decode=4, mux=0.5, upload=2)


def test_every_accelerator_costs_and_only_their_work_does() -> None:
    before = Cost(gpu_seconds=GPUSeconds(denoise=10, total=10))

    cost = account(cost=before).cost_after(SPENT, 16)

    assert cost.gpu_seconds == GPUSeconds(text_encode=1, denoise=18, vae_decode=4, total=23)
    assert cost.per_video_second == 11.5


def test_a_clock_that_is_behind_gives_no_negative_times() -> None:
    assert account().timing_after(SPENT, 1, 1, after(-5), Viewing()).queued_seconds == 0


@pytest.mark.parametrize(
    ("gaps", "remaining", "seconds"),
    [
        pytest.param([], 4, None, id="nothing measured"),
        pytest.param([9.0], 2, 18, id="the first chunk alone"),
        pytest.param([9.0, 2.0, 4.0], 2, 6, id="then the first no longer counts"),
        pytest.param([9.0, *[100.0] * 5, *[1.0] * 8], 3, 3, id="only the recent ones count"),
        pytest.param([9.0, 2.0], 0, 0, id="nothing remains"),
    ],
)
def test_estimate(gaps: list[float], remaining: int, seconds: float | None) -> None:
    expected = None if seconds is None else after(seconds)

    assert estimated_completion(gaps, remaining, CREATED) == expected


def test_the_oldest_checkpoint_counts_and_only_of_jobs_that_are_made() -> None:
    checkpoints = Checkpoints()
    assert checkpoints.age(100) == 0

    checkpoints.saved("a", 100)
    checkpoints.saved("b", 105)
    assert checkpoints.age(110) == 10
    checkpoints.saved("a", 109)
    assert checkpoints.age(110) == 5
    checkpoints.ended("b")
    assert checkpoints.age(110) == 1
    checkpoints.ended("a")
    checkpoints.ended("a")
    assert checkpoints.age(110) == 0


@pytest.mark.parametrize(
    ("denoised", "decoded", "hidden"),
    [
        pytest.param(Span(0, 2), [Span(2, 3)], 0, id="one after the other"),
        pytest.param(Span(0, 2), [Span(0.5, 1.5)], 1, id="all of the decoding, which is shorter"),
        pytest.param(Span(1, 2), [Span(0, 3)], 1, id="as long as denoising lasts, which is shorter"),
        pytest.param(Span(0, 2), [Span(1.5, 2.5)], 0.5, id="half of it"),
        pytest.param(Span(0, 2), [Span(0, 0.5), Span(0.5, 1), Span(9, 10)], 1, id="several pieces"),
        pytest.param(Span(0, 2), [], 0, id="nothing was decoded before"),
    ],
)
def test_decoding_hidden_behind_denoising(denoised: Span, decoded: list[Span], hidden: float) -> None:
    assert hidden_decode(denoised, decoded) == hidden


@pytest.mark.parametrize(
    ("family", "frames", "changes", "seconds"),
    [
        pytest.param(FamilyName.ANYFLOW_FAR, 49, {}, 30.0, id="a chunk"),
        pytest.param(FamilyName.ANYFLOW_FAR, 49, {"width": 1664, "steps": 8}, 120.0, id="twice the pixels and steps"),
        pytest.param(FamilyName.WAN, 81, {}, 180.0, id="a clip of six pieces of a second"),
    ],
)
def test_the_estimate_of_a_unit(family: FamilyName, frames: int, changes: dict[str, int], seconds: float) -> None:
    defaults = Defaults(width=832, height=480, steps=4)
    slow = model(family=family, defaults=defaults, estimate=Estimate(chunk_seconds=30))
    resolved = RESOLVED.model_copy(update={"width": 832, "height": 480, "steps": 4, **changes})
    plan = slow.spec.plan(Video((Shot(frames),), 16, resolved.steps))

    assert unit_seconds(slow, plan, resolved) == seconds
