"""When a stage counts as hung: never while it makes steps, always once it makes none."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.runner.patience import (
    ENDED_SECONDS,
    FIRST_SECONDS,
    FLOOR_SECONDS,
    LONGEST_LOOK,
    STEPS,
    UNITS,
    Patience,
    Verdict,
)
from videojob.triton.progress import Progress

WAIT, END, GIVE_UP = Verdict
LOOK = 5.0
IDLE, SMALL, LARGE = 0, 100, 400


def note(count: int, size: int = SMALL, pid: int = 7) -> Progress:
    return Progress(pid, 1, count, size)


class Waiting:
    """Somebody who waits for a stage, and looks every LOOK seconds."""

    def __init__(self, unit_seconds: float = 0.0) -> None:
        self.patience = Patience()
        self.now = 1000.0
        self.unit_seconds = unit_seconds

    def look(self, progress: Progress | None, after: float = LOOK) -> Verdict:
        self.now += after
        self.patience.look(self.now, progress)
        return self.patience.verdict(self.unit_seconds)

    def stepping(self, seconds: float, size: int = SMALL) -> "Waiting":
        """It has seen two steps that took so long, of a unit of that size."""
        for count in range(3):
            verdicts = {self.look(note(count, size)) for _ in range(round(seconds / LOOK))}
            assert verdicts == {WAIT}
        return self

    def silence(self, progress: Progress | None) -> tuple[float, Verdict]:
        """After how long a silence the verdict is another one than to wait, and which it is."""
        self.look(progress)
        began = self.now
        while (verdict := self.look(progress)) is WAIT:
            assert self.now - began < 1e6, "for ever"
        return self.now - began, verdict


@pytest.mark.parametrize(
    ("waiting", "progress", "seconds", "verdict"),
    [
        pytest.param(Waiting(), note(1), FIRST_SECONDS, END, id="the first step"),
        pytest.param(Waiting(30), note(1), FIRST_SECONDS, END, id="an estimate below that"),
        pytest.param(Waiting(1800), note(1), UNITS * 1800, END, id="an estimate of half an hour"),
        pytest.param(Waiting().stepping(5), note(9), FLOOR_SECONDS, END, id="steps are quick"),
        pytest.param(Waiting(1800).stepping(5), note(9), FLOOR_SECONDS, END, id="quicker than the estimate"),
        pytest.param(Waiting().stepping(100), note(9), STEPS * 100, END, id="steps are slow"),
        pytest.param(Waiting().stepping(5, LARGE), note(9, SMALL), FLOOR_SECONDS, END, id="a smaller unit"),
        pytest.param(Waiting().stepping(5), note(9, LARGE), FIRST_SECONDS, END, id="a larger unit than was seen"),
        pytest.param(Waiting().stepping(5), note(9, IDLE), FIRST_SECONDS, GIVE_UP, id="it is idle"),
        pytest.param(Waiting(), None, FIRST_SECONDS, GIVE_UP, id="the control model knows no progress"),
        pytest.param(Waiting(1800), None, UNITS * 1800, GIVE_UP, id="likewise, with a long estimate"),
        pytest.param(Waiting().stepping(5), None, FIRST_SECONDS, GIVE_UP, id="it does not answer any more"),
    ],
)
def test_how_long_a_silence_is_waited_through(
    waiting: Waiting, progress: Progress | None, seconds: float, verdict: Verdict
) -> None:
    found = waiting.silence(progress)
    assert found[1] is verdict
    assert seconds - LOOK < found[0] <= seconds + LOOK


def test_a_unit_of_a_quarter_of_an_hour_and_more_is_waited_for_while_it_makes_steps() -> None:
    waiting = Waiting(unit_seconds=10)
    assert {waiting.look(note(second // 20)) for second in range(0, 10_000, 5)} == {WAIT}


def test_a_process_is_ended_once_and_then_nothing_is_waited_for() -> None:
    waiting = Waiting()
    assert waiting.silence(note(1))[1] is END
    waiting.patience.ended = 7
    seconds, verdict = waiting.silence(note(1))
    assert verdict is GIVE_UP and seconds <= ENDED_SECONDS + LOOK


def test_the_one_that_takes_its_place_is_waited_for_like_any_other() -> None:
    waiting = Waiting().stepping(5)
    assert waiting.silence(note(9))[1] is END
    waiting.patience.ended = 7
    assert waiting.look(note(0, pid=8)) is WAIT
    assert waiting.silence(note(1, pid=8))[1] is END


def test_a_server_that_stood_still_is_not_blamed_for_it() -> None:
    """As a machine that was frozen, or a runner that was stopped: silence counts only while somebody looks."""
    waiting = Waiting().stepping(5)
    assert waiting.look(note(9)) is WAIT
    assert waiting.look(note(9), after=3600) is WAIT
    assert {waiting.look(None) for _ in range(20)} == {WAIT}
    assert waiting.look(note(9)) is WAIT


def test_answers_of_a_server_without_notes_count_as_steps() -> None:
    waiting = Waiting()
    for _ in range(100):
        assert {waiting.look(None) for _ in range(100)} == {WAIT}
        waiting.patience.answered()


def test_what_should_take_a_step_takes_at_least_the_floor() -> None:
    assert Patience().step_seconds(0) == FLOOR_SECONDS
    assert Patience().step_seconds(1800) == 1800
    assert Waiting().stepping(100).patience.step_seconds(0) == pytest.approx(STEPS * 100, rel=0.1)


GAPS = st.lists(st.tuples(st.floats(0, FLOOR_SECONDS / 2), st.booleans(), st.sampled_from([IDLE, SMALL, LARGE])))


@given(GAPS, st.floats(0, 86_400))
def test_whatever_makes_a_step_within_the_floor_is_never_ended(
    gaps: Iterable[tuple[float, bool, int]], unit_seconds: float
) -> None:
    """Looks come when they come, every second one may miss the step, and units of all sizes take turns."""
    waiting, count = Waiting(unit_seconds), 0
    skipped = False
    for gap, steps, size in gaps:
        count += steps or skipped
        skipped = not (steps or skipped)
        assert waiting.look(note(count, size), after=gap) is WAIT


@given(GAPS, st.floats(0, 3600), st.sampled_from([IDLE, SMALL, LARGE]))
def test_whatever_makes_no_step_any_more_is_found_out_whatever_came_before(
    gaps: Iterable[tuple[float, bool, int]], unit_seconds: float, size: int
) -> None:
    waiting = Waiting(unit_seconds)
    for count, (gap, _, before) in enumerate(gaps):
        waiting.look(note(count, before), after=gap)
    seconds, verdict = waiting.silence(note(10_000, size))
    assert verdict is (END if size else GIVE_UP)
    assert seconds <= max(FIRST_SECONDS, UNITS * unit_seconds, STEPS * LONGEST_LOOK) + LOOK
