"""Plans: which units and pieces a video has, and which earlier units each of them needs."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.families import FAMILIES, Chunking, Family, FamilyName, Shot, Unit, Video
from videojob.families.causal import CausalChunks
from videojob.families.clips import WholeClips
from videojob.families.continued import ContinuedClips
from videojob.families.history import ChunksWithHistory
from videojob.families.windows import OverlappingWindows

FAR = FAMILIES[FamilyName.ANYFLOW_FAR]
CHUNKING = Chunking(first=1, later=3, sink=1, window=6)

chunkings = st.builds(Chunking, st.integers(1, 9), st.integers(1, 9), st.integers(0, 40), st.integers(1, 40))
families = st.builds(CausalChunks, frames_per_latent=st.integers(1, 8), tail_latents=st.integers(1, 40))
frame_counts = st.integers(1, 600)
windows = st.builds(OverlappingWindows, frames_per_latent=st.integers(1, 8), tail_latents=st.integers(1, 40))
histories = st.builds(
    ChunksWithHistory, frames_per_latent=st.integers(1, 8), latents=st.integers(1, 12), history=st.integers(1, 40)
)
clips = st.builds(WholeClips, frames_per_latent=st.integers(1, 8))
continued = st.builds(ContinuedClips, frames_per_latent=st.integers(1, 8))
any_family: st.SearchStrategy[Family] = families | windows | histories | clips | continued
rates = st.integers(1, 60)


@pytest.mark.parametrize(
    ("frames", "chunks", "kept_of_last"),
    [
        pytest.param(1, 1, 1, id="a single frame is the first latent"),
        pytest.param(2, 2, 1, id="one frame more needs a second chunk, of which one frame is kept"),
        pytest.param(13, 2, 12, id="the second chunk is full"),
        pytest.param(14, 3, 1, id="and one more frame opens the third"),
        pytest.param(64, 7, 3, id="four seconds at 16 fps"),
    ],
)
def test_a_video_is_cut_into_chunks(frames: int, chunks: int, kept_of_last: int) -> None:
    plan = FAR.plan(CHUNKING, Video((Shot(frames),), 16, steps=4))
    assert len(plan.units) == len(plan.pieces) == chunks
    assert len(plan.pieces[-1].frames) == kept_of_last


@pytest.mark.parametrize(
    ("unit", "needs", "decode"),
    [
        pytest.param(0, (), (), id="the first one needs nothing"),
        pytest.param(1, (0,), (0,), id="the second one, all that there is"),
        pytest.param(3, (0, 1, 2), (0, 1, 2), id="sink and window meet"),
        pytest.param(9, (0, 7, 8), tuple(range(9)), id="sink, then the window; the decoder looks back further"),
        pytest.param(20, (0, 18, 19), tuple(range(7, 20)), id="38 latents are 13 chunks"),
    ],
)
def test_what_a_unit_of_anyflow_needs(unit: int, needs: tuple[int, ...], decode: tuple[int, ...]) -> None:
    found = FAR.plan(CHUNKING, Video((Shot(10_000),), 16, steps=4)).units[unit]
    assert (found.needs, found.decode) == (needs, decode)


def test_a_unit_says_all_that_its_request_needs() -> None:
    assert FAR.plan(CHUNKING, Video((Shot(30),), 16, steps=4)).units[2] == Unit(
        index=2, shot=0, steps=4, latents=range(4, 7), needs=(0, 1), decode=(0, 1), frames=range(13, 25)
    )


@given(any_family, chunkings, frame_counts, rates)
def test_the_pieces_are_the_video_and_no_unit_is_made_for_nothing(
    family: Family, chunking: Chunking, frames: int, fps: int
) -> None:
    plan = family.plan(chunking, Video((Shot(frames),), fps, steps=1))
    stored = [frame for piece in plan.pieces for frame in piece.frames]
    assert stored == list(range(frames))
    assert [piece.index for piece in plan.pieces] == list(range(len(plan.pieces)))
    assert {unit for piece in plan.pieces for unit in piece.units} == {unit.index for unit in plan.units}
    for piece in plan.pieces:
        assert {*piece.frames} <= {frame for unit in piece.units for frame in plan.units[unit].frames}


@given(any_family, chunkings, frame_counts, rates)
def test_no_piece_has_more_frames_than_a_replica_has_room_for(
    family: Family, chunking: Chunking, frames: int, fps: int
) -> None:
    pieces = family.plan(chunking, Video((Shot(frames),), fps, steps=1)).pieces
    assert max(len(piece.frames) for piece in pieces) <= family.most_frames(chunking, fps)


@given(families, chunkings, frame_counts)
def test_units_follow_each_other(family: CausalChunks, chunking: Chunking, frames: int) -> None:
    units = list(family.plan(chunking, Video((Shot(frames),), 16, steps=1)).units)
    assert [unit.index for unit in units] == list(range(len(units)))
    assert (units[0].latents.start, units[0].frames.start) == (0, 0)
    for before, after in pairwise(units):
        assert before.latents.stop == after.latents.start
        assert before.frames.stop == after.frames.start


@given(families, chunkings, frame_counts)
def test_memory_is_the_beginning_and_the_recent_past(family: CausalChunks, chunking: Chunking, frames: int) -> None:
    units = family.plan(chunking, Video((Shot(frames),), 16, steps=1)).units
    for unit in units:
        assert list(unit.needs) == sorted(set(unit.needs))
        assert all(0 <= earlier < unit.index for earlier in unit.needs)
        covered = sum(len(units[earlier].latents) for earlier in unit.needs)
        largest = max(chunking.first, chunking.later)
        assert covered <= chunking.sink + largest + chunking.window, "bounded, however long the video"
        if unit.latents.start <= chunking.window:
            assert unit.needs == tuple(range(unit.index)), "what fits in the window is remembered whole"


@given(families, chunkings, frame_counts)
def test_a_unit_needs_nothing_that_the_one_before_did_not_have(
    family: CausalChunks, chunking: Chunking, frames: int
) -> None:
    """So a stage that keeps what the last unit needed, and that unit, has all for the next one."""
    for before, after in pairwise(family.plan(chunking, Video((Shot(frames),), 16, steps=1)).units):
        assert {*after.needs} <= {*before.needs, before.index}


@given(families, chunkings, frame_counts)
def test_the_decoder_is_rebuilt_from_as_far_as_it_looks_back_and_no_unit_more(
    family: CausalChunks, chunking: Chunking, frames: int
) -> None:
    units = family.plan(chunking, Video((Shot(frames),), 16, steps=1)).units
    for unit in units:
        assert unit.decode == tuple(range(unit.index - len(unit.decode), unit.index))
        covered = sum(len(units[earlier].latents) for earlier in unit.decode)
        assert covered >= min(family.tail_latents, unit.latents.start)
        assert not unit.decode or covered - len(units[unit.decode[0]].latents) < family.tail_latents


def test_a_plan_is_read_like_a_list() -> None:
    units = FAR.plan(CHUNKING, Video((Shot(100),), 16, steps=1)).units
    assert units[-1] == list(units)[-1] == units[len(units) - 1]
    assert units[3:5] == [units[3], units[4]]
    with pytest.raises(IndexError):
        units[len(units)]
