"""How work ends when it is asked to."""

import asyncio

import pytest

from videojob.runner.stop import Stop, StoppedError


async def never() -> None:
    await asyncio.Event().wait()


async def value() -> int:
    return 1


async def test_work_that_ends_first_gives_its_result() -> None:
    assert await Stop().race(value()) == 1


async def test_a_stop_cancels_the_work_and_gives_the_reason() -> None:
    stop, cancelled = Stop(), asyncio.Event()

    async def work() -> None:
        try:
            await never()
        finally:
            cancelled.set()

    racing = asyncio.create_task(stop.race(work()))
    await asyncio.sleep(0)
    stop.release("Suspended")

    with pytest.raises(StoppedError, match="Suspended") as stopped:
        await racing
    assert not stopped.value.lost
    assert cancelled.is_set()


async def test_work_that_is_done_counts_though_a_stop_came_as_well() -> None:
    """What was taken from a queue must not be lost."""
    stop: Stop = Stop()
    queue: asyncio.Queue[int] = asyncio.Queue()
    racing = asyncio.create_task(stop.race(queue.get()))
    await asyncio.sleep(0)
    queue.put_nowait(7)
    stop.release("Cancelled")

    assert await racing == 7
    with pytest.raises(StoppedError):
        stop.check()


async def test_an_error_of_a_companion_ends_the_work() -> None:
    async def fail() -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        await Stop().race(never(), asyncio.create_task(fail()))


async def test_a_drain_ends_only_what_has_not_begun() -> None:
    stop = Stop()
    begun, new = asyncio.create_task(stop.race(never())), asyncio.create_task(stop.race(never(), new=True))
    await asyncio.sleep(0)
    stop.drain("Drained", 600)

    with pytest.raises(StoppedError, match="Drained"):
        await new
    with pytest.raises(StoppedError, match="Drained"):
        stop.check(new=True)
    stop.check()
    assert not begun.done()

    stop.release("Cancelled")
    with pytest.raises(StoppedError, match="Cancelled"):
        await begun


async def test_a_drain_stops_what_takes_too_long() -> None:
    stop = Stop()
    stop.drain("Drained", 0.01)
    stop.drain("Drained", 600)  # The first limit stays.

    with pytest.raises(StoppedError, match="Drained") as stopped:
        await asyncio.wait_for(stop.race(never()), 30)
    assert not stopped.value.lost


async def test_the_first_reason_stays_but_a_loss_overrides_it() -> None:
    stop = Stop()
    stop.release("Suspended")
    stop.release("Cancelled")
    with pytest.raises(StoppedError, match="Suspended"):
        stop.check()

    stop.lose("the Lease has expired")
    stop.release("Cancelled")
    with pytest.raises(StoppedError, match="the Lease has expired") as stopped:
        stop.check()
    assert stopped.value.lost
