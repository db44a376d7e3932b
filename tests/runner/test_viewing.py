"""Stalls of somebody who watches from the first frames on: against a player that is simulated second by second."""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.api.videojob import Timing
from videojob.runner.viewing import Viewing


def seen(commits: list[tuple[float, float]]) -> Viewing:
    """After pieces that came at these moments, each with its seconds of video."""
    viewing, ready = Viewing(), 0.0
    for at, seconds in commits:
        viewing = viewing.after(at, ready)
        ready += seconds
    return viewing


@pytest.mark.parametrize(
    ("commits", "viewing"),
    [
        pytest.param([], Viewing(), id="nothing yet"),
        pytest.param([(9, 1)], Viewing(9, 9), id="one piece"),
        pytest.param([(9, 1), (10, 1), (11, 1)], Viewing(9, 11, 1), id="just in time"),
        pytest.param([(9, 1), (9.5, 1), (9.7, 1)], Viewing(9, 9.7, 0.5), id="faster than playback"),
        pytest.param([(9, 1), (12, 1)], Viewing(9, 12, 3, 1, 2), id="a stall"),
        pytest.param([(9, 1), (12, 1), (15, 1)], Viewing(9, 15, 3, 2, 4), id="slower than playback"),
        pytest.param([(9, 5), (13, 1), (16, 1)], Viewing(9, 16, 4, 1, 1), id="what is ahead is played first"),
        pytest.param([(9, 1), (8, 1), (10, 1)], Viewing(9, 10, 1), id="a clock that was set back"),
    ],
)
def test_stalls(commits: list[tuple[float, float]], viewing: Viewing) -> None:
    assert seen(commits) == viewing


@dataclass
class Player:
    """One that knows nothing of sums: it plays what is there, and waits where there is no more."""

    played: int = 0
    ready: int = 0
    stalls: int = 0
    stalled: int = 0
    waiting: bool = False

    def wait_until(self, ticks: int) -> None:
        for _ in range(ticks):
            if self.played < self.ready:
                self.played += 1
                self.waiting = False
            else:
                self.stalls += not self.waiting
                self.stalled += 1
                self.waiting = True


# In eighths of a second, which binary fractions hold exactly.
pieces = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=30)


@given(pieces, st.integers(0, 30))
def test_it_is_what_a_player_does_however_many_attempts_there_are(pieces: list[tuple[int, int]], attempt: int) -> None:
    player, viewing = Player(), Viewing()
    moments = list(accumulate(gap for gap, _ in pieces))
    for index, (gap, length) in enumerate(pieces):
        if index:
            player.wait_until(gap)
            player.waiting = False  # What comes now ends it.
        viewing = viewing.after(moments[index] / 8, player.ready / 8)
        player.ready += length
        if index == attempt:
            viewing = Viewing.of(status(viewing))
    assert (viewing.stalls, viewing.stalled * 8) == (player.stalls, player.stalled)
    gaps = [after - before for before, after in pairwise(moments)]
    assert viewing.worst_gap == (max(gaps) / 8 if gaps else None)
    assert (viewing.first, viewing.last) == (moments[0] / 8, moments[-1] / 8)


def status(viewing: Viewing) -> Timing:
    """As it is written."""
    return Timing(
        first_frame_seconds=viewing.first,
        newest_frame_seconds=viewing.last,
        worst_gap_seconds=viewing.worst_gap,
        stalls=viewing.stalls,
        stalled_seconds=viewing.stalled,
    )


def test_pieces_whose_status_was_lost_cost_no_stall_that_was_none() -> None:
    """A runner was killed after it had committed them: only when they came is not known any more."""
    viewing = Viewing.of(status(seen([(9, 1), (10, 1)])))
    assert viewing.after(14, ready=5).stalls == 0
    assert viewing.after(16, ready=5).stalled == 2
