"""The loop's lag: a block is seen as long as it was, and the measuring goes on; what was no work of ours has no CPU."""

import asyncio
import time

from videojob.controller.loop_lag import TURN_SECONDS, LoopLag


async def test_a_block_is_measured_whenever_it_comes() -> None:
    lags: list[float] = []
    busy: list[float] = []
    LoopLag(lags.append, busy.append).begin()
    for _ in range(2):
        await asyncio.sleep(5 * TURN_SECONDS)
        lags.clear()
        busy.clear()
        time.sleep(0.2)  # noqa: ASYNC251 - the block itself
        await asyncio.sleep(2 * TURN_SECONDS)
        assert 0.2 - TURN_SECONDS <= max(lags) < 5
        assert max(busy) < 0.1


async def test_a_block_that_is_work_of_the_loop_has_as_much_cpu_time() -> None:
    busy: list[float] = []
    LoopLag(lambda lag: None, busy.append).begin()
    await asyncio.sleep(5 * TURN_SECONDS)
    busy.clear()
    until = time.thread_time() + 0.1
    while time.thread_time() < until:
        pass
    await asyncio.sleep(2 * TURN_SECONDS)
    assert 0.1 <= max(busy) < 0.2
