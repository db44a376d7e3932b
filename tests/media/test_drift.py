"""Drift of pictures, made on purpose: which signal sees what."""

from collections.abc import Callable
from dataclasses import asdict

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.media.pictures import Frames, moving_picture
from videojob.media import Drift, drift, look
from videojob.media.drift import GRID

WIDTH, HEIGHT = 832, 480
FIRST = moving_picture(6, WIDTH, HEIGHT)


DIMMER = {"contrast", "sharpness", "motion"}
"""Whatever takes contrast takes from what details and motion are measured by."""


def mixed(frames: Frames, other: float, share: float) -> Frames:
    return np.clip((1 - share) * frames + share * other, 0, 255).astype(np.uint8)


def blurred(frames: Frames) -> Frames:
    def blur(frame: Frames) -> Frames:
        small = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(WIDTH // 8, HEIGHT // 8)
        return small.reformat(WIDTH, HEIGHT).to_ndarray().astype(np.uint8)

    return np.stack([blur(frame) for frame in frames])


def detailed(frames: Frames) -> Frames:
    """With fine lines, for a blur to take."""
    made = frames.copy()
    made[:, ::12] += 25
    return made


def grey(frames: Frames) -> Frames:
    return np.repeat(frames.mean(axis=3, keepdims=True), 3, axis=3).astype(np.uint8)


def signals(first: Frames, now: Frames) -> Drift:
    return drift(look(first), look(now))


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        pytest.param(lambda frames: frames, set(), id="the same"),
        pytest.param(lambda frames: moving_picture(6, WIDTH, HEIGHT, first=1), set(), id="the same motion, later"),
        pytest.param(lambda frames: mixed(frames, 255, 0.3), DIMMER | {"colour"}, id="brighter"),
        pytest.param(lambda frames: mixed(frames, 0, 0.3), DIMMER | {"colour"}, id="darker"),
        pytest.param(lambda frames: mixed(frames, 128, 0.6), DIMMER | {"colour"}, id="faded to grey"),
        pytest.param(grey, DIMMER | {"colour", "dissimilarity"}, id="without colours"),
        pytest.param(lambda frames: frames[..., ::-1].copy(), {"dissimilarity"}, id="of other colours"),
        pytest.param(blurred, {"sharpness"}, id="blurred"),
        pytest.param(lambda frames: frames[[0] * 6], {"motion"}, id="frozen"),
        pytest.param(lambda frames: frames[[0, 3, 0, 3, 0, 3]], {"motion"}, id="trembling"),
        pytest.param(lambda frames: frames[:, ::-1, ::-1].copy(), {"dissimilarity"}, id="another picture"),
        pytest.param(lambda frames: 255 - frames, {"dissimilarity"}, id="the negative"),
    ],
)
def test_each_signal_sees_its_drift(change: Callable[[Frames], Frames], passed: set[str]) -> None:
    first = detailed(FIRST) if change is blurred else FIRST
    found = asdict(signals(first, change(first)))
    assert {name for name, value in found.items() if value > 0.13} == passed, found


def test_drift_is_the_same_either_way_and_none_of_a_look_from_itself() -> None:
    first, now = look(FIRST), look(mixed(FIRST, 200, 0.5))
    assert drift(first, now) == drift(now, first)
    assert asdict(drift(now, now)) == dict.fromkeys(asdict(drift(now, now)), 0.0)


def test_drift_grows_with_the_fade() -> None:
    first = look(FIRST)
    values = [drift(first, look(mixed(FIRST, 128, share / 10))).contrast for share in range(10)]
    assert values == sorted(values)
    assert values[5] == pytest.approx(0.5, abs=0.02)


def test_one_frame_has_no_motion_to_judge() -> None:
    one = look(FIRST[:1])
    assert one.motion is None
    assert drift(look(FIRST), one).motion is None
    assert drift(one, look(FIRST)).motion is None
    assert drift(one, look(FIRST)).contrast < 0.01


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 100, 50)])
def test_a_picture_of_one_colour(colour: tuple[int, int, int]) -> None:
    flat = look(np.full((2, 64, 64, 3), colour, np.uint8))
    assert flat.colour == tuple(round(value / 255, 6) for value in colour)
    assert flat.chroma == round((max(colour) - min(colour)) / 255, 6)
    assert (flat.contrast, flat.sharpness, flat.motion) == (0, 0, 0)
    assert set(np.frombuffer(flat.small, np.uint8)) == set(colour)
    assert drift(flat, look(FIRST)).contrast > 0.9


def test_two_pictures_of_one_colour_are_like_each_other_and_like_no_other() -> None:
    black, white = (look(np.full((1, 64, 64, 3), shade, np.uint8)) for shade in (0, 255))
    assert (drift(black, white).dissimilarity, drift(black, white).colour) == (0, 1)
    assert drift(black, look(FIRST)).dissimilarity == 0.5


def test_noise_that_nobody_sees_is_no_drift() -> None:
    """Of a still and nearly flat picture the noise is all there is, and it may well double."""
    shades = np.random.default_rng(7)
    dark = np.full((4, 64, 64, 3), 20, np.uint8)
    noisy = dark + (shades.integers(0, 400, dark.shape) == 0).astype(np.uint8)
    assert {name for name, value in asdict(signals(dark, noisy)).items() if value > 0.01} <= {"dissimilarity"}


@pytest.mark.parametrize(("width", "height"), [(1280, 704), (704, 1280), (832, 480), (4096, 16), (18, 32), (2, 2)])
def test_every_size_can_be_looked_at(width: int, height: int) -> None:
    frames = np.zeros((2, height, width, 3), np.uint8)
    frames[:, :, width // 2 :] = 200
    seen = look(frames)
    assert seen.colour[0] == pytest.approx(100 / 255, abs=0.02)
    assert len(seen.small) == 3 * GRID * GRID


def test_frames_are_taken_one_at_a_time_and_left_as_they_are() -> None:
    before = FIRST.copy()
    assert look([*FIRST]) == look(FIRST)
    assert np.array_equal(before, FIRST)


def test_a_view_of_memory_that_is_not_contiguous() -> None:
    wide = np.zeros((2, 64, 128, 3), np.uint8)
    wide[:, :, ::2] = FIRST[:2, :64, :64]
    assert look(wide[:, :, ::2]) == look(FIRST[:2, :64, :64].copy())


def test_no_frames_have_no_look() -> None:
    with pytest.raises(ValueError, match="nothing to look at"):
        look([])


pictures = hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(16), st.just(24), st.just(3)))


@given(pictures, pictures)
def test_every_signal_is_between_0_and_1(first: Frames, now: Frames) -> None:
    for value in asdict(signals(first, now)).values():
        assert value is None or 0 <= value <= 1
