"""How a runner stands with its Lease, whatever is answered and however long it takes."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runner.fakes import CUT_OFF_SECONDS, LEASE_SECONDS, Time
from videojob.runner.hold import Hold, LeaseLostError, Standing


@pytest.mark.parametrize(
    ("age", "standing"),
    [
        pytest.param(0.0, Standing.FRESH, id="just renewed"),
        pytest.param(14.9, Standing.FRESH, id="within the Lease's length"),
        pytest.param(15.0, Standing.CUT_OFF, id="a Lease's length"),
        pytest.param(1799.9, Standing.CUT_OFF, id="within the bound"),
        pytest.param(1800.0, Standing.LOST, id="at the bound"),
    ],
)
def test_age_alone(age: float, standing: Standing) -> None:
    time = Time()
    hold = time.hold()
    time.seconds += age

    assert hold.standing is standing


def test_back_from_the_cut_there_is_one_more_gap_and_without_one_there_is_none() -> None:
    time = Time()
    hold = time.hold()
    gaps = hold.gaps
    time.seconds += 5
    hold.renew(time.seconds)
    assert hold.gaps == gaps

    time.seconds += 60
    hold.renew(time.seconds)
    assert (hold.standing, hold.gaps) == (Standing.FRESH, gaps + 1)

    hold.renew(time.seconds, seen=False)
    assert hold.gaps == gaps + 2, "a Lease that was away may hide a loss"


def test_an_answer_that_comes_after_the_bound_does_not_bring_the_lease_back() -> None:
    time = Time()
    hold = time.hold()
    asked = time.seconds + 1799
    time.seconds += 1801
    hold.renew(asked)

    assert hold.standing is Standing.LOST
    with pytest.raises(LeaseLostError, match="1800 s"):
        hold.check()


def test_a_renewal_counts_from_when_it_was_asked_for() -> None:
    time = Time()
    hold = time.hold()
    asked = time.seconds + 5
    time.seconds += 10
    hold.renew(asked)
    time.seconds += 10

    assert hold.standing is Standing.CUT_OFF


_steps = st.one_of(
    st.tuples(st.just("wait"), st.floats(0.0, 4000.0)),
    st.tuples(st.just("renewed"), st.floats(0.0, 40.0)),
    st.tuples(st.just("made anew"), st.floats(0.0, 40.0)),
    st.tuples(st.just("replaced"), st.just(0.0)),
    st.tuples(st.just("taken"), st.floats(0.0, 40.0)),
)


@given(st.lists(_steps, max_size=40))
def test_whatever_is_answered(steps: list[tuple[str, float]]) -> None:
    """Lost is for good until it is taken, fresh only after a renewal asked for within the Lease's length.

    Gaps only rise. Whoever finds those of a time when it was fresh unchanged has not been cut off since.
    """
    time = Time()
    hold = time.hold(taken=False)
    granted: float | None = None
    fresh_since = hold.gaps
    for step, seconds in steps:
        before, gaps = hold.standing, hold.gaps
        if step == "wait":
            time.seconds += seconds
        else:
            asked = time.seconds
            time.seconds += seconds  # The answer takes so long.
            lapsed = hold.standing
            if step == "taken":
                hold.take(asked)
                granted = asked
            elif step == "replaced":
                hold.lose("another runner has it")
                granted = None
            else:
                hold.renew(asked, seen=step == "renewed")
                granted = None if lapsed is Standing.LOST else asked
                if lapsed is Standing.CUT_OFF:
                    assert hold.gaps > gaps
        if hold.standing is Standing.LOST:
            granted = None
        after = hold.standing
        assert hold.gaps >= gaps
        if before is Standing.LOST and step != "taken":
            assert after is Standing.LOST
        expected = Standing.LOST
        if granted is not None:
            age = time.seconds - granted
            expected = (
                Standing.FRESH if age < LEASE_SECONDS else Standing.CUT_OFF if age < CUT_OFF_SECONDS else Standing.LOST
            )
        assert after is expected
        if after is Standing.FRESH:
            if hold.gaps == fresh_since:
                assert before is Standing.FRESH
            fresh_since = hold.gaps


async def test_who_waits_to_be_fresh_goes_on_when_it_is() -> None:
    time = Time()
    hold = time.hold()
    time.seconds += 20
    waiting = asyncio.create_task(hold.fresh())
    await asyncio.sleep(0)
    assert not waiting.done()

    hold.renew(time.seconds)
    await asyncio.wait_for(waiting, 5)


async def test_who_waits_to_be_fresh_learns_that_it_is_lost() -> None:
    time = Time()
    hold = time.hold()
    time.seconds += 20
    waiting, patient = asyncio.create_task(hold.fresh()), asyncio.create_task(hold.fresh_again())
    await asyncio.sleep(0)

    hold.lose("another runner has taken it")
    with pytest.raises(LeaseLostError, match="another runner"):
        await asyncio.wait_for(waiting, 5)
    assert not patient.done()

    hold.take(time.seconds)
    await asyncio.wait_for(patient, 5)


def test_a_bound_below_the_leases_length_is_that_length() -> None:
    time = Time()
    hold = Hold(15, 0, time.clock.monotonic)
    hold.take(time.seconds)
    standings = []
    for seconds in (14, 1):
        time.seconds += seconds
        standings.append(hold.standing)
    assert standings == [Standing.FRESH, Standing.LOST]
