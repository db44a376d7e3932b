"""How far a job is, as its status shows it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planner.builders import RESOLVED
from videojob.api.progress import progress_of
from videojob.api.shots import MAX_SHOTS, ResolvedShot, ShotState
from videojob.api.videojob import Resolved
from videojob.families import Memory

WAITING, PARTIAL, READY = ShotState.WAITING, ShotState.PARTIAL, ShotState.READY


def resolved(*shots: tuple[int, int]) -> Resolved:
    """A video at 16 fps of shots of so many chunks and frames."""
    made = tuple(ResolvedShot(chunks=chunks, frames=frames, memory=Memory.KEEP) for chunks, frames in shots)
    return RESOLVED.model_copy(
        update={"shots": made, "chunks": sum(each[0] for each in shots), "frames": sum(each[1] for each in shots)}
    )


@pytest.mark.parametrize(
    ("chunks", "frames", "summary", "seconds", "shots"),
    [
        pytest.param(0, 0, "0/5", 0.0, [(0, 0.0, WAITING), (0, 0.0, WAITING)], id="nothing"),
        pytest.param(1, 1, "1/5", 0.062, [(1, 0.062, PARTIAL), (0, 0.0, WAITING)], id="a chunk of the first shot"),
        pytest.param(3, 25, "3/5", 1.562, [(3, 1.562, READY), (0, 0.0, WAITING)], id="all of the first"),
        pytest.param(4, 37, "4/5", 2.312, [(3, 1.562, READY), (1, 0.75, PARTIAL)], id="and some of the second"),
        pytest.param(5, 40, "5/5", 2.5, [(3, 1.562, READY), (2, 0.938, READY)], id="everything"),
    ],
)
def test_what_is_in_the_store_of_each_shot(
    chunks: int, frames: int, summary: str, seconds: float, shots: list[tuple[int, float, ShotState]]
) -> None:
    progress = progress_of(resolved((3, 25), (2, 15)), chunks, frames)
    assert (progress.chunks_done, progress.chunks_total, progress.summary) == (chunks, 5, summary)
    assert progress.seconds_ready == seconds
    assert [(shot.chunks_done, shot.seconds_ready, shot.state) for shot in progress.shots] == shots


def test_where_each_shot_begins() -> None:
    assert resolved((3, 25), (2, 15), (1, 4)).begins == (0, 25, 40)
    assert RESOLVED.begins == (0,)


def test_a_job_of_before_there_were_several_shots_has_one() -> None:
    progress = progress_of(RESOLVED, 2, 13)
    assert RESOLVED.shots == ()
    assert [(shot.chunks_done, shot.seconds_ready, shot.state) for shot in progress.shots] == [(2, 0.812, PARTIAL)]


@given(st.integers(1, MAX_SHOTS), st.integers(1, 4_000), st.integers(1, 60_000), st.integers(0, 10**6))
def test_a_shot_takes_at_most_200_bytes_of_the_status_however_long_it_is(
    count: int, chunks: int, frames: int, chunks_done: int
) -> None:
    """On the status twice: as what is made, and as what there is of it."""
    shot = ResolvedShot(chunks=chunks, frames=frames, memory=Memory.REFRESH, seed=2**63 - 1024)
    made = RESOLVED.model_copy(update={"shots": (shot,) * count, "chunks": count * chunks, "frames": count * frames})
    progress = progress_of(made, min(chunks_done, made.chunks), min(chunks_done, made.chunks) * 12)
    for index in range(count):
        entries = made.shots[index].wire(), progress.shots[index].wire()
        assert sum(len(json.dumps(entry, separators=(",", ":"))) + 1 for entry in entries) <= 200
