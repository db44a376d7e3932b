"""Plans of families that make a whole clip per shot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.families import FAMILIES, NTSC, Chunking, FamilyName, Shot, Unit, Video, frame_rate
from videojob.families.clips import WholeClips

WAN = FAMILIES[FamilyName.WAN]
CHUNKING = Chunking(first=1, later=3, sink=1, window=6)

families = st.builds(WholeClips, frames_per_latent=st.integers(1, 8))
shots_of_videos = st.lists(st.builds(Shot, st.integers(1, 300)), min_size=1, max_size=6).map(tuple)
videos = st.builds(Video, shots_of_videos, st.sampled_from([*range(1, 61), *NTSC]).map(frame_rate), st.just(1))


def test_three_clips_of_81_frames_are_81_each_and_not_84() -> None:
    """Each is decoded by itself: the first latent of each becomes one frame."""
    units = WAN.plan(CHUNKING, Video((Shot(81),) * 3, 16, steps=50)).units
    assert list(units) == [
        Unit(index, index, 50, range(21), (), (), range(81 * index, 81 * index + 81)) for index in range(3)
    ]


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (2, 2), (9, 2), (10, 3), (160, 21), (161, 21)])
def test_a_clip_of_ltx_has_the_smallest_8k_plus_1_frames(frames: int, latents: int) -> None:
    (unit,) = FAMILIES[FamilyName.LTX].plan(CHUNKING, Video((Shot(frames),), 25, steps=50)).units
    assert (unit.latents, unit.frames) == (range(latents), range(8 * latents - 7))


@pytest.mark.parametrize(
    ("shots", "fps", "pieces"),
    [
        pytest.param((81,), 16, [13, 16, 16, 16, 16, 4], id="Wan 2.1: the first latent is one frame, others are four"),
        pytest.param((121,), 24, [21, 24, 24, 24, 24, 4], id="TI2V-5B"),
        pytest.param((80,), 16, [13, 16, 16, 16, 16, 3], id="surplus is dropped"),
        pytest.param((9,), 30, [9], id="less than a second"),
        pytest.param((14, 1, 5), 16, [13, 1, 1, 5], id="no piece holds frames of two shots"),
        pytest.param((10,), 1, [1, 4, 4, 1], id="a latent is not divided"),
        pytest.param((10,), 6, [5, 4, 1], id="nor is a second filled beyond its end"),
        pytest.param((81,), 23.976, [21, 20, 20, 20], id="24 frames take more than a second at 23.976"),
    ],
)
def test_a_clip_is_stored_in_pieces_of_about_a_second(shots: tuple[int, ...], fps: float, pieces: list[int]) -> None:
    assert [
        len(piece.frames)
        for piece in WAN.plan(CHUNKING, Video(tuple(map(Shot, shots)), frame_rate(fps), steps=1)).pieces
    ] == pieces


def test_each_shot_has_surplus_of_its_own_that_counts_for_no_position() -> None:
    plan = WAN.plan(CHUNKING, Video((Shot(80), Shot(10)), 16, steps=1))
    assert [unit.frames for unit in plan.units] == [range(81), range(80, 93)]
    assert [(*piece.units, piece.frames) for piece in plan.pieces][5:] == [(0, range(77, 80)), (1, range(80, 90))]


@given(families, videos)
def test_a_unit_is_a_shot_and_makes_no_latent_more_than_it_takes(family: WholeClips, video: Video) -> None:
    units = list(family.plan(CHUNKING, video).units)
    assert [unit.shot for unit in units] == list(range(len(video.shots)))
    for unit, wanted in zip(units, video.shots, strict=True):
        assert len(unit.frames) == 1 + (len(unit.latents) - 1) * family.frames_per_latent
        assert 0 <= len(unit.frames) - wanted.frames < family.frames_per_latent
        assert unit.begins_anew


@given(families, videos)
def test_pieces_are_whole_latents_as_many_as_a_second_takes(family: WholeClips, video: Video) -> None:
    plan = family.plan(CHUNKING, video)
    stored = [frame for piece in plan.pieces for frame in piece.frames]
    assert stored == list(range(sum(shot.frames for shot in video.shots)))
    for piece in plan.pieces:
        (index,) = piece.units
        start, stop = (each - plan.units[index].frames.start for each in (piece.frames.start, piece.frames.stop))
        assert 0 <= start < stop <= video.shots[index].frames
        assert start == 0 or (start - 1) % family.frames_per_latent == 0
        if stop < video.shots[index].frames:
            assert (stop - 1) % family.frames_per_latent == 0
            assert len(piece.frames) <= max(video.fps, family.frames_per_latent)
            assert len(piece.frames) + family.frames_per_latent > video.fps
