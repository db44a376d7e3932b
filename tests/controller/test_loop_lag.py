"""The loop's lag: a block of the event loop is seen as long as it was, and the measuring goes on."""

import asyncio
import time

from videojob.controller.loop_lag import TURN_SECONDS, LoopLag


async def test_a_block_is_measured_whenever_it_comes() -> None:
    lags: list[float] = []
    LoopLag(lags.append).begin()
    for _ in range(2):
        await asyncio.sleep(5 * TURN_SECONDS)
        lags.clear()
        time.sleep(0.2)  # noqa: ASYNC251 - the block itself
        await asyncio.sleep(2 * TURN_SECONDS)
        assert 0.2 - TURN_SECONDS <= max(lags) < 5
