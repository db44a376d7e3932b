"""Plans of families that go on from the last latents of the window before."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.families import FAMILIES, Chunking, FamilyName, Memory, Shot, Unit, Video
from videojob.families.windows import OverlappingWindows

KEEP, CLEAR = Memory.KEEP, Memory.CLEAR
SKYREELS = FAMILIES[FamilyName.SKYREELS_V2_DIFFUSION_FORCING]
CHUNKING = Chunking(first=1, later=20, sink=1, window=25)
"""97 frames at once, 17 of them from the window before: `base_num_frames` and `overlap_history` of the pipeline."""

families = st.builds(OverlappingWindows, frames_per_latent=st.integers(1, 8), tail_latents=st.integers(1, 40))
chunkings = st.builds(Chunking, st.integers(1, 9), st.integers(1, 9), st.integers(0, 40), st.integers(1, 40))
shots = st.builds(Shot, st.integers(1, 200), st.sampled_from([KEEP, CLEAR]))
videos = st.builds(Video, st.lists(shots, min_size=1, max_size=8).map(tuple), st.integers(1, 60), st.just(1))
cases = st.tuples(families, chunkings, videos)


@pytest.mark.parametrize(
    ("frames", "latents"),
    [
        pytest.param(1, [1], id="a frame"),
        pytest.param(49, [13], id="less than a window"),
        pytest.param(97, [25], id="a window"),
        pytest.param(98, [25, 1], id="a frame more opens a second one, which adds a latent"),
        pytest.param(177, [25, 20], id="two windows"),
        pytest.param(257, [25, 20, 20], id="three, as 257 frames of the pipeline are"),
    ],
)
def test_a_video_is_cut_into_windows(frames: int, latents: list[int]) -> None:
    units = SKYREELS.plan(CHUNKING, Video((Shot(frames),), 24, steps=1)).units
    assert [len(unit.latents) for unit in units] == latents
    assert [unit.history for unit in units] == [0, 5, 5][: len(latents)]


@pytest.mark.parametrize(
    ("memory", "second"),
    [
        pytest.param(KEEP, Unit(1, 1, 50, range(6, 12), (0,), (0,), range(21, 45), history=5), id="Keep"),
        pytest.param(CLEAR, Unit(1, 1, 50, range(7), (), (), range(20, 45)), id="Clear"),
    ],
)
def test_a_second_shot(memory: Memory, second: Unit) -> None:
    """What goes on ends the shot before it with a latent: 21 frames are six."""
    assert SKYREELS.plan(CHUNKING, Video((Shot(20), Shot(25, memory)), 24, steps=50)).units[1] == second


def test_many_short_shots_overlap_as_many_of_those_before_as_it_takes() -> None:
    units = SKYREELS.plan(CHUNKING, Video(tuple(Shot(8, KEEP) for _ in range(5)), 24, steps=1)).units
    assert [len(unit.latents) for unit in units] == [3, 2, 2, 2, 2]
    assert [(unit.needs, unit.history) for unit in units] == [
        ((), 0), ((0,), 3), ((0, 1), 5), ((0, 1, 2), 5), ((1, 2, 3), 5)
    ]  # fmt: skip


@given(cases)
def test_units_cover_the_latents_that_they_overlap_and_no_unit_more(
    case: tuple[OverlappingWindows, Chunking, Video],
) -> None:
    family, chunking, video = case
    units = family.plan(chunking, video).units
    for unit in units:
        assert unit.history == min(unit.latents.start, max(1, chunking.window - chunking.later))
        assert len(unit.latents) <= chunking.later + (
            0 if unit.latents.start else max(1, chunking.window - chunking.later)
        )
        for needed, latents in ((unit.needs, unit.history), (unit.decode, family.tail_latents)):
            assert needed == tuple(range(unit.index - len(needed), unit.index))
            covered = sum(len(units[earlier].latents) for earlier in needed)
            assert covered >= min(latents, unit.latents.start)
            assert not needed or covered - len(units[needed[0]].latents) < latents


@given(cases)
def test_a_unit_needs_nothing_that_the_one_before_did_not_have(
    case: tuple[OverlappingWindows, Chunking, Video],
) -> None:
    """So a stage that keeps what the last unit needed, and that unit, has all for the next one."""
    family, chunking, video = case
    for before, after in pairwise(family.plan(chunking, video).units):
        assert {*after.needs} <= {*before.needs, before.index}
        if after.begins_anew:
            assert (after.needs, after.decode, after.history) == ((), (), 0)
        else:
            assert after.latents.start == before.latents.stop


@given(cases)
def test_a_cut_is_within_half_a_latent_of_where_it_was_asked_for(
    case: tuple[OverlappingWindows, Chunking, Video],
) -> None:
    """Where every shot is longer than a latent."""
    family, chunking, video = case
    asked = 0
    for span, shot in zip(family.plan(chunking, video).shots, video.shots, strict=True):
        if shot.frames < 2 * family.frames_per_latent:
            return
        asked += shot.frames
        assert abs(span.frames.stop - asked) <= family.frames_per_latent / 2
