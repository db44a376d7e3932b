"""Where a job goes on, by what its two logs have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.store.prefix import committed, unbroken
from videojob.store.records import PieceRecord, StoredObject, UnitRecord


def stored(content: str, suffix: str) -> StoredObject:
    return StoredObject(key=f"attempts/1/0.{suffix}", sha256=content * 64, size_bytes=1)


def unit(index: int, content: str = "a") -> UnitRecord:
    return UnitRecord(index=index, attempt=1, checkpoint=stored(content, "safetensors"), stage_seconds={})


def piece(index: int, units: dict[int, str]) -> PieceRecord:
    named = {number: content * 64 for number, content in units.items()}
    return PieceRecord(index=index, attempt=1, frames=1, segment=stored("f", "mp4"), units=named, stage_seconds={})


@pytest.mark.parametrize(
    ("pieces", "counted"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([{0: "a"}, {1: "a"}], 2, id="each of its unit"),
        pytest.param([{0: "a"}, {0: "a"}, {1: "a"}], 3, id="several of one unit"),
        pytest.param([{0: "a", 1: "a"}], 1, id="one of two units"),
        pytest.param([{0: "a"}, {1: "b"}, {2: "a"}], 1, id="one of another checkpoint ends it"),
        pytest.param([{0: "a"}, {3: "a"}], 1, id="one whose unit is not there ends it"),
        pytest.param([{0: "a", 1: "b"}], 0, id="one of whose units is another"),
    ],
)
def test_pieces_count_as_far_as_they_come_from_the_units_that_are_there(
    pieces: list[dict[int, str]], counted: int
) -> None:
    units = [unit(index) for index in range(3)]
    records = [piece(index, named) for index, named in enumerate(pieces)]
    found = committed(units, records)
    assert found.units == tuple(units)
    assert found.pieces == tuple(records[:counted])


@given(st.sets(st.integers(0, 20)))
def test_a_log_counts_up_to_the_first_that_is_missing(indexes: set[int]) -> None:
    found = unbroken(indexes)
    assert {*found} <= indexes
    assert len(found) not in indexes
