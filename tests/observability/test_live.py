"""The dashboards show something and the alerts keep quiet, on a real run that a real Prometheus scraped."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.dashboards import DASHBOARDS
from dev.dashboards.panels import Dashboard
from tests.control_plane import local_cluster
from tests.models.fixtures import tiny_model
from tests.observability.live import JOBS_NAMESPACE, STEP_SECONDS, Run, watched_run
from tests.observability.queries import Panel, panels, substituted
from videojob.api.videojob import Phase

__all__ = ["tiny_model"]

pytestmark = pytest.mark.timeout(900)

NOT_HERE = {
    ("pools", "GPU memory in use"): "Triton exports it where there is a GPU",
    ("pools", "GPU utilisation"): "Triton exports it where there is a GPU",
    ("pools", "GPU power"): "Triton exports it where there is a GPU",
    ("pools", "Cold start"): "a pool of endpoints starts no replica: tests/cluster has one that does",
}
"""Panels that have nothing to show in this run, and why."""


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run for all tests of this file, in a cluster of its own: no other operator leads there."""
    folder = tmp_path_factory.mktemp("observability")
    with local_cluster(folder / "cluster") as cluster, watched_run(cluster, folder, tiny_model) as watched:
        yield watched


def values(run: Run, expr: str, **selected: str) -> dict[frozenset[tuple[str, str]], float]:
    """What a query gives at the end of the run, by labels."""
    found = run.prometheus.at(substituted(expr, run.variables(**selected)), run.end)
    return {frozenset(series.labels.items()): series.points[-1][1] for series in found}


def panel(board_name: str, title: str, kind: str = "stat") -> Panel:
    """A panel of a dashboard."""
    board = next(board for board in DASHBOARDS if board.name == board_name)
    return next(panel for panel in panels(board.json()) if (panel.title, panel.kind) == (title, kind))


def shown(run: Run, board_name: str, title: str) -> float:
    """What a panel with one number shows."""
    (value,) = values(run, panel(board_name, title).queries[0][0]).values()
    return value


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.name)
def test_no_panel_is_empty(run: Run, board: Dashboard) -> None:
    empty = []
    for found in panels(board.json()):
        if (board.name, found.title) in NOT_HERE:
            continue
        for expr, legend in found.queries:
            query = substituted(expr, run.variables())
            series = run.prometheus.over(query, run.start, run.end, STEP_SECONDS)
            if not series:
                empty.append((found.title, query))
            # A legend names labels that the series have.
            assert not [one for one in series if one.labels and "{{" in one.name(legend)], (found.title, legend)

    assert not empty, "\n".join(f"{title}: {query}" for title, query in empty)


def test_exempted_panels_exist() -> None:
    assert NOT_HERE.keys() <= {(board.name, found.title) for board in DASHBOARDS for found in panels(board.json())}


def test_dashboards_agree_with_the_api_server(run: Run) -> None:
    assert run.phases == {Phase.SUCCEEDED: 5, Phase.FAILED: 1, Phase.PENDING: 1}
    assert {phase: shown(run, "jobs", phase.value) for phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.RUNNING)} == {
        Phase.SUCCEEDED: 5,
        Phase.FAILED: 1,
        Phase.RUNNING: 0,
    }
    assert shown(run, "jobs", "Waiting") == 1
    reasons = values(run, panel("jobs", "Waiting, by reason", "timeseries").queries[0][0])
    assert {dict(labels)["reason"]: count for labels, count in reasons.items() if count} == {"QueueStopped": 1}
    assert shown(run, "operator", "Leaders") == 1
    assert shown(run, "pools", "Ready") == 1
    assert shown(run, "pools", "Waiting for a pool") == 0
    # Every GPU-second of every attempt is on a job's status, and in the counters of operator and runners.
    counted = sum(values(run, "videojob_gpu_seconds_total").values())
    assert counted == pytest.approx(run.gpu_seconds, rel=0.02)
    assert sum(values(run, "videojob_runner_gpu_seconds_total").values()) == pytest.approx(run.gpu_seconds, rel=0.02)


def test_variables_select(run: Run) -> None:
    waiting = panel("jobs", "Waiting").queries[0][0]

    assert [*values(run, waiting, namespace=JOBS_NAMESPACE, queue="(default|stopped)").values()] == [1]
    assert [*values(run, waiting, namespace=JOBS_NAMESPACE, queue="default").values()] == [0]
    assert [*values(run, waiting, namespace="others").values()] == [0]


def test_no_alert_fires_or_is_about_to(run: Run) -> None:
    alerts = run.prometheus.over("ALERTS", run.start, run.end, STEP_SECONDS)

    # Between creation and assignment a job waits in a queue in which nothing happens yet, for a moment.
    assert not [one for one in alerts if one.labels["alertname"] != "VideojobQueueStalled"]
    assert not run.prometheus.at("ALERTS", run.end)
    assert not [one for one in alerts if one.labels["alertstate"] == "firing"]
    # And the rules were evaluated: what they record is there.
    assert run.prometheus.at("namespace_queue:videojob_late_starts:ratio_rate5m", run.end)


def test_queries_of_the_documentation_are_answered(run: Run) -> None:
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    blocks = re.findall(r"```promql\n(.*?)```", page, re.DOTALL)
    # A query begins at the left; what is indented goes on.
    queries = [query for block in blocks for query in re.split(r"\n(?=\S)", block.strip())]

    assert len(queries) >= 8
    # The pool has no condition that is not true.
    nothing = {query for query in queries if not run.prometheus.at(query, run.end)}
    assert all("videojob_pool_condition == 0" in query for query in nothing), nothing
