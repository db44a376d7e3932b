"""When a status is written."""

import pytest

from videojob.runner.status import Throttle


@pytest.mark.parametrize(
    ("writes", "now", "wait"),
    [
        pytest.param([], 5.0, 0.0, id="the first one at once"),
        pytest.param([5.0], 5.0, 1.0, id="the next one a second later"),
        pytest.param([5.0], 5.75, 0.25, id="less what has passed"),
        pytest.param([5.0], 7.0, 0.0, id="at once after a pause"),
        pytest.param([5.0, 7.0], 7.5, 0.5, id="the last write counts"),
    ],
)
def test_throttle(writes: list[float], now: float, wait: float) -> None:
    throttle = Throttle(1.0)
    for time in writes:
        throttle.wrote(time)

    assert throttle.wait(now) == wait
