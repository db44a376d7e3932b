"""Videos for a pipeline, and a place for what it makes of them."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from tests.triton.conftest import MODEL
from videojob.families import FAMILIES, Chunking, FamilyName, Shot, Video
from videojob.runner.recipe import MadePiece, MadeUnit, Recipe
from videojob.triton.wire import Settings

CHUNKING = Chunking(first=1, later=3, sink=1, window=6)


def recipe(sequence: str, *, frames: int = 40, chunking: Chunking = CHUNKING, **changes: Any) -> Recipe:
    settings = Settings("a red fox", seed=7, width=48, height=32, fps=16.0, guidance_scale=1.0)
    plan = FAMILIES[FamilyName.ANYFLOW_FAR].plan(chunking, Video((Shot(frames),), 16, steps=2))
    return Recipe(MODEL, sequence, (replace(settings, **changes),), plan, fps=Fraction(8))


class Kept:
    """What a pipeline has made and kept; waits, stops or fails where a test wants it."""

    def __init__(self) -> None:
        self.units: list[MadeUnit] = []
        self.pieces: list[MadePiece] = []
        self.paused: list[MadeUnit] = []
        self.before_unit: Callable[[MadeUnit], object] = lambda made: None
        self.before_piece: Callable[[MadePiece], object] = lambda made: None

    async def unit(self, made: MadeUnit) -> None:
        if asyncio.iscoroutine(waited := self.before_unit(made)):
            await waited
        self.units.append(made)

    async def piece(self, made: MadePiece) -> None:
        assert {*made.units} <= {unit.index for unit in self.units}, "before what it comes from"
        if asyncio.iscoroutine(waited := self.before_piece(made)):
            await waited
        self.pieces.append(made)

    async def partial(self, made: MadeUnit) -> None:
        assert [unit.index for unit in self.units] == list(range(made.index)), "before those that come before it"
        self.paused.append(made)

    @property
    def segments(self) -> list[bytes]:
        return [made.segment for made in self.pieces]

    @property
    def checkpoints(self) -> list[bytes]:
        return [made.checkpoint for made in self.units]
