"""Refreshes: which units they come at, and that a job that goes on elsewhere makes the same video."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from tests.runner.recipes import CHUNKING, Kept, recipe
from videojob.api.drift import DriftThresholds
from videojob.families import FAMILIES, FamilyName, Memory, Plan, Shot, Video
from videojob.media import Look, look
from videojob.runner.buffers import FrameBuffers
from videojob.runner.clock import Clock
from videojob.runner.pipeline import AHEAD, Pipeline
from videojob.runner.recipe import Recipe, Resume
from videojob.runner.refreshing import LAG, Refreshing
from videojob.runner.stop import Stop
from videojob.runner.triton import Triton

FAR = FAMILIES[FamilyName.ANYFLOW_FAR]
ANY = DriftThresholds(colour=1e-6, contrast=1e-6, sharpness=1e-6, motion=1e-6, dissimilarity=1e-6)
"""That whatever moves passes."""
COLOUR = DriftThresholds(colour=0.2)
LONG = Video((Shot(97),), 16, steps=2)
"""Nine units of one piece each; the second one is what the others are compared with."""


def planned(video: Video) -> Refreshing:
    return Refreshing(COLOUR, lambda refreshes: FAR.plan(CHUNKING, replace(video, refreshes=refreshes)))


def seen(shade: int, frames: int) -> Look:
    return look(np.full((frames, 16, 16, 3), shade, np.uint8))


def refreshed(video: Video, far: set[int]) -> list[int]:
    """The units of the video that are refreshed where the last pieces of those units have gone far."""
    refreshing = planned(video)
    pieces = iter(refreshing.plan.pieces)
    found = []
    for unit in range(len(refreshing.plan.units)):
        if unit >= LAG:  # Nothing was seen of what comes after.
            for piece in pieces:
                shade = 200 if piece.units[-1] in far and refreshing.plan.ends_unit(piece) else 0
                refreshing.see(piece.index, seen(shade, len(piece.frames)))
                if piece.units[-1] == unit - LAG and refreshing.plan.ends_unit(piece):
                    break
        assert refreshing.settled(unit)
        refreshing.settle(unit)
        if refreshing.why(unit):
            found.append(unit)
    return found


@pytest.mark.parametrize(
    ("far", "found"),
    [
        pytest.param(set(), [], id="what does not drift is not refreshed"),
        pytest.param({3}, [6], id="a unit is judged by the one that is LAG before it"),
        pytest.param({3, 4, 5}, [6], id="one drift refreshes once"),
        pytest.param({2, 3, 4, 5}, [5, 8], id="what drifts again, or still, is refreshed again"),
        pytest.param({0}, [], id="a first frame that gives way to motion says nothing"),
        pytest.param({7, 8}, [], id="what drifts at the end is too late"),
    ],
)
def test_units_that_are_refreshed(far: set[int], found: list[int]) -> None:
    assert refreshed(LONG, far) == found


@pytest.mark.parametrize("memory", [Memory.KEEP, Memory.REFRESH, Memory.CLEAR])
def test_a_shot_is_judged_by_its_own_units_alone(memory: Memory) -> None:
    video = Video((Shot(49), Shot(72, memory)), 16, steps=2)
    first = planned(video).plan.shots[1].units.start
    found = refreshed(video, {*range(first - LAG, first)})
    assert all(unit < first for unit in found)


def test_only_the_last_piece_of_a_unit_counts_and_is_waited_for() -> None:
    video = replace(LONG, fps=4)  # A unit is three pieces of a second.
    refreshing = planned(video)
    pieces = [piece for piece in refreshing.plan.pieces if piece.units[-1] <= 2]
    for piece in pieces[:-1]:
        refreshing.see(piece.index, seen(0, len(piece.frames)))
    assert not refreshing.settled(5)
    refreshing.see(pieces[-1].index, seen(200, len(pieces[-1].frames)))
    assert refreshing.settled(5)
    assert refreshing.settle(5).needs == (0,)
    assert refreshing.why(5).startswith("colour by 0.784")


def test_a_piece_of_an_earlier_version_refreshes_nothing() -> None:
    refreshing = planned(LONG)
    for index in range(3):
        refreshing.see(index, None)
    assert refreshing.settle(5) == FAR.plan(CHUNKING, LONG).units[5]


def test_without_thresholds_nothing_is_waited_for() -> None:
    plan = FAR.plan(CHUNKING, LONG)
    refreshing = Refreshing(None, lambda refreshes: plan)
    assert all(refreshing.settled(unit) for unit in range(len(plan.units)))
    assert refreshing.try_settle(5)
    assert not refreshing.try_settle(len(plan.units))


async def test_a_unit_waits_until_what_it_is_judged_by_was_seen() -> None:
    refreshing = planned(LONG)
    waiting = asyncio.create_task(refreshing.unit(5))
    for index, frames in enumerate((1, 12, 12)):
        await asyncio.sleep(0)
        assert not waiting.done()
        refreshing.see(index, seen(0, frames))
    assert (await waiting).needs == (0, 3, 4)


def test_an_unbroken_run_waits_for_nothing() -> None:
    assert LAG >= AHEAD


@pytest.fixture
async def buffers(triton: Triton, request: pytest.FixtureRequest) -> AsyncIterator[FrameBuffers]:
    made = FrameBuffers(triton, "pool", request.node.name)
    yield made
    await made.close()


def plan_of(refreshes: tuple[int, ...]) -> Plan:
    return FAR.plan(CHUNKING, replace(LONG, refreshes=refreshes))


async def run(triton: Triton, buffers: FrameBuffers, what: Recipe, kept: Kept) -> None:
    """Go on after what is kept, as a new attempt does."""
    refreshing = Refreshing(ANY, plan_of, [unit.index for unit in kept.units if unit.drifted])
    for piece in kept.pieces:
        refreshing.see(piece.index, piece.look)
    resume = Resume(unit=len(kept.units), piece=len(kept.pieces))
    refreshing.try_settle(resume.unit)
    checkpoints = {unit: kept.units[unit].checkpoint for unit in resume.checkpoints(refreshing.plan)}
    job = replace(what, plan=refreshing.plan)
    keep = (kept.unit, kept.piece, kept.partial)
    await Pipeline(job, triton, buffers, Clock(), *keep, refreshing).run(resume, checkpoints, Stop())


async def test_a_refreshed_job_that_is_resumed_at_any_unit_gives_the_same_bytes(
    triton: Triton, buffers: FrameBuffers
) -> None:
    what = recipe("refreshed", frames=97)
    whole, plain = Kept(), Kept()
    await run(triton, buffers, replace(what, correlation_id="refreshed-whole"), whole)
    assert [made.index for made in whole.units if made.drifted] == [5, 8]

    keep = (plain.unit, plain.piece, plain.partial)
    await Pipeline(replace(what, correlation_id="not-refreshed"), triton, buffers, Clock(), *keep).run(
        Resume(), {}, Stop()
    )
    assert plain.checkpoints[:5] == whole.checkpoints[:5]
    assert plain.checkpoints[5] != whole.checkpoints[5], "a refresh changes what is made"

    for units in range(1, 10):
        for pieces in {max(0, units - AHEAD), units - 1}:
            kept = Kept()
            kept.units, kept.pieces = whole.units[:units], whole.pieces[:pieces]
            await run(triton, buffers, replace(what, correlation_id=f"refreshed-{units}-{pieces}"), kept)
            assert kept.segments == whole.segments, (units, pieces)
            assert kept.checkpoints == whole.checkpoints
            assert [made.drifted for made in kept.units] == [made.drifted for made in whole.units]
            assert [made.look for made in kept.pieces] == [made.look for made in whole.pieces]
