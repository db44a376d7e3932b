"""Every histogram covers what happens: above its last bucket a quantile is only a lower bound."""

from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, Histogram

from tests.observability.test_alerts import rules
from videojob.controller.metrics import OperatorMetrics
from videojob.runner.metrics import RunnerMetrics

HOURS = 36_000.0
"""What a chunk of a large model, a video, or a night in a queue may take, in seconds."""
OTHERWISE = {
    "videojob_operator_api_write_seconds": (60, "the client gives a write up before that"),
    "videojob_operator_loop_busy_seconds": (30, "a loop that stands still for longer is restarted"),
    "videojob_operator_loop_lag_seconds": (30, "a loop that stands still for longer is restarted"),
    "videojob_operator_planning_seconds": (30, "a loop that stands still for longer is restarted"),
    "videojob_operator_plan_lag_seconds": (30, "a loop that stands still for longer is restarted"),
    "videojob_pool_cold_start_seconds": (7_200, "a new node, a large image, and weights from a hub"),
    "videojob_runner_drift": (1, "a share: nothing drifts further than all of the way"),
    "videojob_runner_model_load_seconds": (7_200, "weights of a hundred gigabytes from a slow store"),
    "videojob_runner_real_time_factor": (10_000, "a ratio: a second of video that takes three hours"),
}
"""Histograms that need not reach as far: the upper bound that they need, and why."""


def histograms() -> list[Histogram]:
    """Every histogram of operator and runner."""
    operator, runner = CollectorRegistry(), CollectorRegistry()
    OperatorMetrics(operator)
    RunnerMetrics(runner, "pool", "replica")
    return [
        metric
        for registry in (operator, runner)
        for metric in registry._collector_to_names
        if isinstance(metric, Histogram)
    ]


def bounds(histogram: Histogram) -> list[float]:
    """The upper bounds of its buckets, the infinite one left out."""
    return histogram._upper_bounds[:-1]


@pytest.mark.parametrize("histogram", histograms(), ids=lambda histogram: str(histogram._name))
def test_the_last_bucket_is_above_every_expected_value(histogram: Histogram) -> None:
    needed, _ = OTHERWISE.get(histogram._name, (HOURS, ""))
    last = bounds(histogram)[-1]
    assert last >= needed


@pytest.mark.parametrize("histogram", histograms(), ids=lambda histogram: str(histogram._name))
def test_adjacent_buckets_are_close_enough_for_a_quantile(histogram: Histogram) -> None:
    found = bounds(histogram)
    assert all(low < high <= 4 * low for low, high in pairwise(found))


def test_exempted_histograms_exist() -> None:
    assert OTHERWISE.keys() <= {histogram._name for histogram in histograms()}


def test_every_bucket_that_an_alert_reads_exists() -> None:
    (queue,) = (histogram for histogram in histograms() if histogram._name == "videojob_queue_seconds")
    read = [rule["expr"] for rule in rules() if "videojob_queue_seconds_bucket" in rule["expr"]]
    assert read and all('le="600.0"' in expr for expr in read)
    assert 600.0 in bounds(queue)
