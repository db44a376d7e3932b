import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.sequences import Sequences


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_unit_takes_the_state_and_keeps_it_again() -> None:
    sequences: Sequences[str] = Sequences(2, 60.0, Clock())
    sequences.keep("a", 0, "after 0")
    assert sequences.take("a", 1) == "after 0"
    with pytest.raises(ChunkError, match="nothing is known"):
        sequences.take("a", 2)


@pytest.mark.parametrize("unit", [0, 1, 3])
def test_only_the_successor_is_taken_and_a_refusal_ends_the_sequence(unit: int) -> None:
    sequences: Sequences[str] = Sequences(2, 60.0, Clock())
    sequences.keep("a", 1, "after 1")
    with pytest.raises(ChunkError, match="the last unit made was 1") as raised:
        sequences.take("a", unit)
    assert raised.value.reason is ErrorCode.OUT_OF_SEQUENCE
    assert len(sequences) == 0


def test_a_unit_that_is_begun_goes_on() -> None:
    sequences: Sequences[str] = Sequences(2, 60.0, Clock())
    sequences.keep("a", 1, "within 1")
    assert sequences.take("a", 1, begun=True) == "within 1"
    sequences.keep("a", 1, "after 1")
    with pytest.raises(ChunkError, match="the last unit made was 1"):
        sequences.take("a", 2, begun=True)


def test_the_least_recently_used_sequence_makes_room() -> None:
    sequences: Sequences[int] = Sequences(2, 60.0, Clock())
    sequences.keep("a", 0, 0)
    sequences.keep("b", 0, 0)
    sequences.keep("a", 1, 1)
    sequences.keep("c", 0, 0)
    assert sequences.take("a", 2) == 1
    with pytest.raises(ChunkError):
        sequences.take("b", 1)


def test_an_idle_sequence_is_forgotten() -> None:
    clock = Clock()
    sequences: Sequences[int] = Sequences(4, 60.0, clock)
    sequences.keep("idle", 0, 0)
    clock.now = 50.0
    sequences.keep("busy", 0, 0)
    clock.now = 61.0
    assert sequences.take("busy", 1) == 0
    with pytest.raises(ChunkError):
        sequences.take("idle", 1)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 3)), max_size=40), st.integers(1, 3))
def test_the_number_of_states_is_bounded(kept: list[tuple[str, int]], limit: int) -> None:
    sequences: Sequences[None] = Sequences(limit, 60.0, Clock())
    for name, unit in kept:
        sequences.keep(name, unit, None)
        assert len(sequences) <= limit
