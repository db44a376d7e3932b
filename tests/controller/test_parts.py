"""A part that fails is started again; only one that keeps failing at once ends the operator."""

import asyncio

import pytest

from tests.controller import virtual
from videojob.controller.parts import PartError, Restarts, keep_running


class Part:
    """Lasts for so long, then fails."""

    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.starts: list[float] = []
        self.failures: list[str] = []

    async def run(self) -> None:
        self.starts.append(virtual.now())
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error

    async def keep(self) -> None:
        await keep_running("audit", self.run, failed=self.failures.append, monotonic=virtual.now)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), None], ids=["error", "end"])
def test_a_part_that_fails_at_once_ends_with_a_sentence(error: Exception | None) -> None:
    part = Part(0.0, error)
    with pytest.raises(PartError, match="audit failed 6 times in a row") as raised:
        virtual.run(part.keep())
    assert ("a bug" in str(raised.value)) is (error is not None)
    pauses = [round(later - before) for before, later in zip(part.starts, part.starts[1:], strict=False)]
    assert pauses == [1, 2, 4, 8, 16]
    assert part.failures == ["audit"] * Restarts().limit


def test_a_part_that_cannot_go_on_is_not_started_again() -> None:
    part = Part(0.0, PartError("The cluster has gone back."))
    with pytest.raises(PartError, match="gone back"):
        virtual.run(part.keep())
    assert len(part.starts) == 1


def test_a_part_that_fails_now_and_then_goes_on() -> None:
    part = Part(100.0, RuntimeError("a bug"))

    async def history() -> None:
        task = asyncio.create_task(part.keep())
        await asyncio.sleep(5_000)
        assert not task.done()
        task.cancel()

    virtual.run(history())
    assert len(part.starts) == pytest.approx(5_000 / 101, abs=2)


def test_a_part_that_is_cancelled_ends() -> None:
    part = Part(100.0)

    async def history() -> None:
        task = asyncio.create_task(part.keep())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtual.run(history())
    assert not part.failures
