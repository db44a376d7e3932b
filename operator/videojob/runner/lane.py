"""Requests of one sequence to one stage of a model: what was asked for, and what comes of it."""

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from videojob.runner.triton import Answer, Request, Stream
from videojob.triton.contract import ChunkError

T = TypeVar("T")


@dataclass
class Lane(Generic[T]):
    """A stream to one stage, and what was requested on it and not answered yet, in order."""

    stream: Stream
    requested: deque[T] = field(default_factory=deque)
    failed: bool = False

    def send(self, what: T, request: Request) -> None:
        """Request it."""
        self.stream.send(request)
        self.requested.append(what)

    async def answer(self) -> tuple[T, Answer]:
        """The next that was requested, with its answer. Raises ChunkError, TritonGoneError."""
        try:
            answer = await self.stream.answer()
        except ChunkError:
            self.failed = True
            self.requested.popleft()
            raise
        return self.requested.popleft(), answer

    async def end(self) -> list[tuple[T, Answer]]:
        """End the sequence; what was still made of it, in order: nothing after one that failed."""
        answers = await self.stream.end()
        answered = zip([self.requested.popleft() for _ in answers], answers, strict=True)
        made = [] if self.failed else itertools.takewhile(lambda pair: isinstance(pair[1], Answer), answered)
        return [(what, answer) for what, answer in made if isinstance(answer, Answer)]
