"""Plans of families that go on from the last frames of the clip before."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.families import FAMILIES, Chunking, FamilyName, Memory, Shot, Unit, Video
from videojob.families.continued import ContinuedClips
from videojob.families.cuts import frames_of

KEEP, CLEAR = Memory.KEEP, Memory.CLEAR
VACE = FAMILIES[FamilyName.WAN_VACE]
CHUNKING = Chunking(first=1, later=16, sink=1, window=21)
"""Clips of 81 frames, of which the first 17 are those of the clip before."""

families = st.builds(ContinuedClips, frames_per_latent=st.integers(1, 8))
chunkings = st.builds(Chunking, st.integers(1, 9), st.integers(1, 9), st.integers(0, 40), st.integers(1, 40))
shots = st.builds(Shot, st.integers(1, 200), st.sampled_from([KEEP, CLEAR]))
videos = st.builds(Video, st.lists(shots, min_size=1, max_size=8).map(tuple), st.integers(1, 60), st.just(1))
cases = st.tuples(families, chunkings, videos)


@pytest.mark.parametrize(
    ("frames", "clips"),
    [
        pytest.param(1, [(1, 1)], id="a frame"),
        pytest.param(80, [(21, 81)], id="a clip, whose last frame is surplus"),
        pytest.param(81, [(21, 81)], id="a clip"),
        pytest.param(82, [(21, 81), (6, 4)], id="a frame more opens a second one, which makes 17 again and 4 new"),
        pytest.param(209, [(21, 81), (21, 64), (21, 64)], id="three whole clips"),
    ],
)
def test_a_video_is_cut_into_clips(frames: int, clips: list[tuple[int, int]]) -> None:
    """Of so many latents, and so many new frames."""
    units = VACE.plan(CHUNKING, Video((Shot(frames),), 16, steps=1)).units
    assert [(len(unit.latents), len(unit.frames)) for unit in units] == clips


@pytest.mark.parametrize(
    ("memory", "second"),
    [
        pytest.param(KEEP, Unit(1, 1, 50, range(5 + 6), (0,), (), range(21, 45), history=5), id="Keep"),
        pytest.param(CLEAR, Unit(1, 1, 50, range(7), (), (), range(20, 45)), id="Clear"),
    ],
)
def test_a_second_shot(memory: Memory, second: Unit) -> None:
    """What goes on ends the shot before it with a latent: 21 frames are six."""
    assert VACE.plan(CHUNKING, Video((Shot(20), Shot(25, memory)), 16, steps=50)).units[1] == second


def test_a_clip_goes_on_from_the_one_before_alone_however_short_its_shot() -> None:
    """Which has as many latents as that takes, because it has made again what it went on from itself."""
    units = VACE.plan(CHUNKING, Video(tuple(Shot(8, KEEP) for _ in range(5)), 16, steps=1)).units
    assert [(unit.needs, unit.history, len(unit.latents)) for unit in units] == [
        ((), 0, 3), ((0,), 3, 5), ((1,), 5, 7), ((2,), 5, 7), ((3,), 5, 7)
    ]  # fmt: skip


@given(cases)
def test_a_clip_goes_on_from_the_end_of_the_one_before_and_has_new_frames_behind_it(
    case: tuple[ContinuedClips, Chunking, Video],
) -> None:
    family, chunking, video = case
    units = family.plan(chunking, video).units
    overlap = max(1, chunking.window - chunking.later)
    for before, unit in pairwise([None, *units]):
        assert unit is not None and unit.begins_anew and unit.decode == ()
        goes_on = before is not None and unit.history > 0
        assert unit.needs == ((unit.index - 1,) if goes_on else ())
        if before is not None and goes_on:
            assert unit.history == min(overlap, len(before.latents))
        again, made = (frames_of(each, family.frames_per_latent) for each in (unit.history, len(unit.latents)))
        assert 0 < len(unit.frames) == made - again
        assert len(unit.latents) <= chunking.later + overlap, "a whole clip is the most that the model makes at once"


@given(cases)
def test_what_is_new_and_where_it_is_stored_does_not_depend_on_what_is_made_again(
    case: tuple[ContinuedClips, Chunking, Video],
) -> None:
    family, chunking, video = case
    plan = family.plan(chunking, video)
    for number, shot in enumerate(plan.shots):
        first, *_ = (plan.units[index] for index in shot.units)
        assert (first.history > 0) == (number > 0 and video.shots[number].memory is KEEP)
        for before, after in pairwise(plan.units[index] for index in shot.units):
            assert before.frames.stop == after.frames.start and after.history > 0
