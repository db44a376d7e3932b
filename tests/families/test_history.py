"""Plans of families that make chunks from a history of latents."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.families import FAMILIES, Chunking, FamilyName, Memory, Shot, Unit, Video
from videojob.families.history import ChunksWithHistory

KEEP, REFRESH, CLEAR = Memory.KEEP, Memory.REFRESH, Memory.CLEAR
HELIOS = FAMILIES[FamilyName.HELIOS]
CHUNKING = Chunking(first=1, later=3, sink=1, window=6)

families = st.builds(
    ChunksWithHistory, frames_per_latent=st.integers(1, 8), latents=st.integers(1, 12), history=st.integers(1, 40)
)
shots = st.builds(Shot, st.integers(1, 200), st.sampled_from([KEEP, REFRESH, CLEAR]))
videos = st.builds(Video, st.lists(shots, min_size=1, max_size=8).map(tuple), st.integers(1, 60), st.just(1))


def plan(*shots: tuple[int, Memory]) -> list[Unit]:
    return [*HELIOS.plan(CHUNKING, Video(tuple(Shot(*shot) for shot in shots), 24, steps=50)).units]


def test_a_chunk_is_33_frames_and_is_decoded_by_itself() -> None:
    units = plan((100, CLEAR))
    assert [unit.frames for unit in units] == [range(0, 33), range(33, 66), range(66, 99), range(99, 132)]
    assert all((unit.latents, unit.decode, unit.begins_anew) == (range(9), (), True) for unit in units)


def test_a_chunk_needs_the_first_one_and_those_that_have_the_last_19_latents() -> None:
    units = plan((33 * 7, CLEAR))
    assert [(unit.needs, unit.history) for unit in units] == [
        ((), 0), ((0,), 9), ((0, 1), 18), ((0, 1, 2), 19), ((0, 1, 2, 3), 19), ((0, 2, 3, 4), 19), ((0, 3, 4, 5), 19)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        pytest.param(KEEP, [((0, 1), 18), ((0, 1, 2), 19)], id="Keep"),
        pytest.param(REFRESH, [((0,), 0), ((0, 2), 9)], id="Refresh: the first latent, and no history"),
        pytest.param(CLEAR, [((), 0), ((2,), 9)], id="Clear"),
    ],
)
def test_what_a_second_shot_needs(memory: Memory, expected: list[tuple[tuple[int, ...], int]]) -> None:
    assert [(unit.needs, unit.history) for unit in plan((66, CLEAR), (66, memory))[2:]] == expected


def test_a_shot_that_is_kept_ends_with_the_nearest_chunk() -> None:
    """50 frames are nearer to two chunks, 49 to one; the next one makes up for it."""
    for asked, made in ((49, 33), (50, 66), (1, 33)):
        video = Video((Shot(asked), Shot(60, KEEP)), 24, 1)
        assert [len(shot.frames) for shot in HELIOS.plan(CHUNKING, video).shots] == [made, max(1, asked + 60 - made)]


@given(families, videos)
def test_a_unit_needs_nothing_that_the_one_before_did_not_have(family: ChunksWithHistory, video: Video) -> None:
    """So a stage that keeps what the last unit needed, and that unit, has all for the next one."""
    for before, after in pairwise(family.plan(CHUNKING, video).units):
        assert {*after.needs} <= {*before.needs, before.index}
        assert after.needs == tuple(sorted({*after.needs}))


@given(families, videos)
def test_memory_is_bounded_and_covers_the_history(family: ChunksWithHistory, video: Video) -> None:
    for unit in family.plan(CHUNKING, video).units:
        assert len(unit.latents) == family.latents
        assert unit.history <= family.history
        covering = -(-unit.history // family.latents)
        assert len(unit.needs) <= covering + 1
        assert {*range(unit.index - covering, unit.index)} <= {*unit.needs}
