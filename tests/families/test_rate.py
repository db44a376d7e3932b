"""Frames per second as people write them, and what they stand for."""

from fractions import Fraction

import pytest

from videojob.families import NTSC, frame_rate


@pytest.mark.parametrize(
    ("number", "rate"),
    [
        (1, Fraction(1)),
        (24, Fraction(24)),
        (24.0, Fraction(24)),
        (23.976, Fraction(24_000, 1001)),
        (29.97, Fraction(30_000, 1001)),
        (59.94, Fraction(60_000, 1001)),
    ],
)
def test_what_a_number_stands_for(number: float, rate: Fraction) -> None:
    assert frame_rate(number) == rate


@pytest.mark.parametrize("number", [0, -24, 0.5, 12.5, 23.98, 23.9760239760])
def test_any_other_stands_for_none(number: float) -> None:
    with pytest.raises(ValueError, match=r"neither a whole number nor 23\.976, 29\.97, 59\.94"):
        frame_rate(number)


def test_a_number_is_its_rate_to_three_decimals() -> None:
    assert {number: round(float(rate), 3) for number, rate in NTSC.items()} == {number: number for number in NTSC}
