"""Plans of several shots: where each begins and ends, and what it remembers."""

from dataclasses import replace
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.families import (
    FAMILIES,
    NTSC,
    Chunking,
    Family,
    FamilyName,
    Memory,
    Plan,
    Shot,
    Unit,
    Video,
    frame_rate,
)
from videojob.families.causal import CausalChunks
from videojob.families.clips import WholeClips
from videojob.families.continued import ContinuedClips
from videojob.families.history import ChunksWithHistory
from videojob.families.windows import OverlappingWindows

KEEP, REFRESH, CLEAR = Memory.KEEP, Memory.REFRESH, Memory.CLEAR
CHUNKING = Chunking(first=1, later=3, sink=1, window=6)
"""Chunks of 12 frames, but for the first of a stream, which has one."""

chunkings = st.builds(Chunking, st.integers(1, 9), st.integers(1, 9), st.integers(0, 40), st.integers(1, 40))
causal = st.builds(CausalChunks, frames_per_latent=st.integers(1, 8), tail_latents=st.integers(1, 40))
windows = st.builds(OverlappingWindows, frames_per_latent=st.integers(1, 8), tail_latents=st.integers(1, 40))
histories = st.builds(
    ChunksWithHistory, frames_per_latent=st.integers(1, 8), latents=st.integers(1, 12), history=st.integers(1, 40)
)
clips = st.builds(WholeClips, frames_per_latent=st.integers(1, 8))
continued = st.builds(ContinuedClips, frames_per_latent=st.integers(1, 8))
any_family: st.SearchStrategy[Family] = causal | windows | histories | clips | continued
rates = st.sampled_from([*range(1, 61), *NTSC]).map(frame_rate)


def videos(family: Family) -> st.SearchStrategy[Video]:
    shots = st.builds(Shot, st.integers(1, 120), st.sampled_from(family.memories))
    return st.builds(Video, st.lists(shots, min_size=1, max_size=8).map(tuple), rates, st.just(1))


cases = any_family.flatmap(lambda family: st.tuples(st.just(family), chunkings, videos(family)))
causal_cases = causal.flatmap(lambda family: st.tuples(st.just(family), chunkings, videos(family)))


def far(*shots: tuple[int, Memory], fps: int = 16) -> Plan:
    video = Video(tuple(Shot(*shot) for shot in shots), fps, steps=4)
    return FAMILIES[FamilyName.ANYFLOW_FAR].plan(CHUNKING, video)


@pytest.mark.parametrize(
    ("memories", "frames"),
    [
        pytest.param((CLEAR, CLEAR), [20, 20], id="what begins anew leaves the one before as long as it was asked for"),
        pytest.param((CLEAR, REFRESH), [20, 20], id="so does what has forgotten the recent past"),
        pytest.param((CLEAR, KEEP), [25, 15], id="what goes on begins at the nearest chunk, and ends in time"),
        pytest.param((CLEAR, KEEP, KEEP), [25, 12, 23], id="every cut is the nearest to where it was asked for"),
        pytest.param((CLEAR, KEEP, CLEAR), [25, 15, 20], id="only shots that go on from each other share their frames"),
    ],
)
def test_a_shot_begins_with_a_chunk(memories: tuple[Memory, ...], frames: list[int]) -> None:
    assert [len(shot.frames) for shot in far(*((20, memory) for memory in memories)).shots] == frames


def test_each_of_many_short_shots_has_a_chunk_and_the_last_a_frame() -> None:
    assert [len(shot.frames) for shot in far((5, CLEAR), (5, KEEP), (5, KEEP), (5, KEEP)).shots] == [1, 12, 12, 1]


@pytest.mark.parametrize(
    ("memory", "needs"),
    [
        pytest.param(KEEP, [(0, 2, 3), (0, 3, 4), (0, 4, 5)], id="Keep: sink and window go on"),
        pytest.param(REFRESH, [(0,), (0, 4), (0, 4, 5)], id="Refresh: the sink, and a window that fills anew"),
        pytest.param(CLEAR, [(), (4,), (4, 5)], id="Clear: nothing"),
    ],
)
def test_what_the_units_of_a_second_shot_remember(memory: Memory, needs: list[tuple[int, ...]]) -> None:
    units = far((37, CLEAR), (30, memory)).units
    assert [unit.needs for unit in units[4:7]] == needs


def test_a_shot_that_begins_anew_is_decoded_anew() -> None:
    plan = far((14, CLEAR), (13, CLEAR))
    assert list(plan.units)[3:] == [
        Unit(3, 1, 4, range(1), (), (), range(14, 15)),
        Unit(4, 1, 4, range(1, 4), (3,), (3,), range(15, 27)),
    ]
    assert [unit.begins_anew for unit in plan.units] == [True, False, False, True, False]


def test_a_shot_that_is_refreshed_is_decoded_on() -> None:
    """Its latents are later ones, whose frames the decoder makes from those before."""
    plan = far((14, CLEAR), (13, REFRESH))
    assert plan.units[3] == Unit(3, 1, 4, range(7, 10), (0,), (0, 1, 2), range(14, 26))
    assert [piece.frames for piece in plan.pieces] == [
        range(1), range(1, 13), range(13, 14), range(14, 26), range(26, 27)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("chunking", "fps", "pieces"),
    [
        pytest.param(Chunking(1, 8, 1, 8), 16, [1, 32, 7], id="a chunk of two seconds is one piece"),
        pytest.param(Chunking(1, 9, 1, 9), 16, [1, 16, 16, 4, 3], id="a longer one is cut after every second"),
        pytest.param(Chunking(9, 9, 1, 9), 16, [13, 16, 4, 7], id="the first one, too"),
    ],
)
def test_no_piece_is_longer_than_two_seconds(chunking: Chunking, fps: int, pieces: list[int]) -> None:
    plan = FAMILIES[FamilyName.ANYFLOW_FAR].plan(chunking, Video((Shot(40),), fps, steps=1))
    assert [len(piece.frames) for piece in plan.pieces] == pieces


@given(cases)
def test_shots_units_and_pieces_are_the_video(case: tuple[Family, Chunking, Video]) -> None:
    family, chunking, video = case
    plan = family.plan(chunking, video)
    stored = [frame for piece in plan.pieces for frame in piece.frames]
    assert stored == list(range(plan.shots[-1].frames.stop))
    assert [piece.index for piece in plan.pieces] == list(range(len(plan.pieces)))
    assert [unit.index for unit in plan.units] == list(range(len(plan.units)))
    for of in ("frames", "units", "pieces"):
        spans = [getattr(shot, of) for shot in plan.shots]
        assert spans[0].start == 0
        assert all(span for span in spans), "no shot is left out"
        assert all(before.stop == after.start for before, after in pairwise(spans))
    assert (plan.shots[-1].units.stop, plan.shots[-1].pieces.stop) == (len(plan.units), len(plan.pieces))
    for number, shot in enumerate(plan.shots):
        assert all(plan.units[index].shot == number for index in shot.units)
        pieces = [plan.pieces[index] for index in shot.pieces]
        assert {unit for piece in pieces for unit in piece.units} == {*shot.units}, "nothing is made for nothing"
        assert (pieces[0].frames.start, pieces[-1].frames.stop) == (shot.frames.start, shot.frames.stop)
        for piece in pieces:
            assert {*piece.frames} <= {frame for unit in piece.units for frame in plan.units[unit].frames}
            assert len(piece.frames) <= family.most_frames(chunking, ceil(video.fps))


@given(cases)
def test_a_plan_of_what_was_planned_is_the_same(case: tuple[Family, Chunking, Video]) -> None:
    """The status has the frames that shots have in the end, and whoever goes on plans from these."""
    family, chunking, video = case
    plan = family.plan(chunking, video)
    again = tuple(Shot(len(span.frames), shot.memory) for span, shot in zip(plan.shots, video.shots, strict=True))
    replan = family.plan(chunking, Video(again, video.fps, video.steps))
    assert (list(replan.shots), list(replan.units), list(replan.pieces)) == (
        list(plan.shots), list(plan.units), list(plan.pieces)
    )  # fmt: skip


@given(causal_cases)
def test_every_cut_is_within_half_a_chunk_of_where_it_was_asked_for(
    case: tuple[CausalChunks, Chunking, Video],
) -> None:
    """Where every shot is longer than a chunk."""
    family, chunking, video = case
    chunk = max(family.frames(chunking.first), chunking.later * family.frames_per_latent)
    asked = shift = 0
    for span, shot, following in zip(
        family.plan(chunking, video).shots, video.shots, [*video.shots[1:], None], strict=True
    ):
        if shot.frames < 2 * chunk:
            return
        asked += shot.frames
        shift = span.frames.stop - asked
        kept = following is not None and following.memory is KEEP
        assert abs(shift) <= chunk / 2 if kept else shift == 0


@given(causal_cases)
def test_a_unit_needs_nothing_that_the_one_before_did_not_have(case: tuple[CausalChunks, Chunking, Video]) -> None:
    """So a stage that keeps what the last unit needed, and that unit, has all for the next one."""
    family, chunking, video = case
    for before, after in pairwise(family.plan(chunking, video).units):
        assert {*after.needs} <= {*before.needs, before.index}
        if after.begins_anew:
            assert (after.needs, after.decode) == ((), ())
        else:
            assert after.latents.start == before.latents.stop


@given(causal_cases)
def test_a_plan_knows_its_items_without_counting_up_to_them(case: tuple[CausalChunks, Chunking, Video]) -> None:
    family, chunking, video = case
    plan = family.plan(chunking, video)
    for number, shot in enumerate(plan.shots):
        assert plan.units[shot.units[-1]].shot == number
        assert plan.pieces[shot.pieces[0]].units == (shot.units[0],)


@st.composite
def refreshed(draw: st.DrawFn) -> tuple[Family, Chunking, Video, tuple[int, ...]]:
    """A video, and units that are none the first of its shot."""
    family = draw(causal | histories)
    chunking, video = draw(chunkings), draw(videos(family))
    plan = family.plan(chunking, video)
    first = {shot.units.start for shot in plan.shots}
    later = [index for index in range(len(plan.units)) if index not in first]
    chosen = draw(st.lists(st.sampled_from(later), unique=True, max_size=4)) if later else []
    return family, chunking, video, tuple(sorted(chosen))


@given(refreshed())
def test_a_refresh_moves_nothing(case: tuple[Family, Chunking, Video, tuple[int, ...]]) -> None:
    """Only what is remembered changes: of what was settled before it, nothing."""
    family, chunking, video, refreshes = case
    before, after = family.plan(chunking, video), family.plan(chunking, replace(video, refreshes=refreshes))
    assert (list(after.shots), list(after.pieces)) == (list(before.shots), list(before.pieces))
    for old, new in zip(before.units, after.units, strict=True):
        assert replace(new, needs=old.needs, history=old.history) == old
        assert {*new.needs} <= {*old.needs} and new.history <= old.history
        if not refreshes or new.index < refreshes[0]:
            assert new == old


@given(refreshed())
def test_a_unit_that_is_refreshed_remembers_what_a_refreshed_shot_does(
    case: tuple[Family, Chunking, Video, tuple[int, ...]],
) -> None:
    """The beginning of its stream alone. What comes after it remembers nothing more of what was before it."""
    family, chunking, video, refreshes = case
    plan = family.plan(chunking, replace(video, refreshes=refreshes))
    for index in refreshes:
        unit = plan.units[index]
        assert unit.history == 0
        assert [*unit.needs] == [*range(min(unit.needs, default=0), min(unit.needs, default=0) + len(unit.needs))]
        for later in plan.units[index + 1 :]:
            if later.begins_anew and later.needs == ():
                break
            assert {each for each in later.needs if each < index} <= {*unit.needs}


@given(refreshed())
def test_a_stage_has_what_a_refreshed_video_needs(case: tuple[Family, Chunking, Video, tuple[int, ...]]) -> None:
    family, chunking, video, refreshes = case
    for before, after in pairwise(family.plan(chunking, replace(video, refreshes=refreshes)).units):
        assert {*after.needs} <= {*before.needs, before.index}


@pytest.mark.parametrize(
    ("refreshes", "needs"),
    [
        pytest.param((), [(0, 2, 3), (0, 3, 4), (0, 4, 5), (0, 5, 6)], id="never: sink and window go on"),
        pytest.param((5,), [(0, 2, 3), (0,), (0, 5), (0, 5, 6)], id="once: the sink, and a window that fills anew"),
        pytest.param((4, 6), [(0,), (0, 4), (0,), (0, 6)], id="and once more"),
    ],
)
def test_what_a_shot_remembers_that_is_refreshed(refreshes: tuple[int, ...], needs: list[tuple[int, ...]]) -> None:
    video = Video((Shot(90),), 16, steps=4, refreshes=refreshes)
    units = FAMILIES[FamilyName.ANYFLOW_FAR].plan(CHUNKING, video).units
    assert [unit.needs for unit in units[4:8]] == needs
