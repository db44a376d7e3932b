"""Frames per second: the number that people write, and the rate that it stands for.

Films for television have 1000/1001 of a whole number of frames a second (SMPTE ST 12-1), and are called by three
decimals. What is computed is computed with the exact rate; what is shown is the number.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

NTSC: Final[Mapping[float, Fraction]] = {
    23.976: Fraction(24_000, 1001),
    29.97: Fraction(30_000, 1001),
    59.94: Fraction(60_000, 1001),
}
"""Numbers that are not whole, and what they stand for."""


def frame_rate(number: float) -> Fraction:
    """The exact rate. Raises ValueError where the number is neither positive and whole nor one of NTSC."""
    rate = NTSC.get(number, Fraction(number))
    if rate < 1 or (rate.denominator != 1 and number not in NTSC):
        raise ValueError(f"{number:g} fps is neither a whole number nor {', '.join(f'{each:g}' for each in NTSC)}")
    return rate
