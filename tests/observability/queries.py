"""Evaluates the queries of a dashboard's JSON: substitutes variables as Grafana does, and asks Prometheus."""

import json
import math
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TIMEOUT_SECONDS = 30
ALL = ".*"
"""The value that Grafana substitutes for the choice All of our variables."""


@dataclass(frozen=True)
class Panel:
    """A panel that shows queries."""

    title: str
    kind: str
    queries: tuple[tuple[str, str], ...]
    """Expressions, each with the text of its legend."""


@dataclass(frozen=True)
class Series:
    """One series of a query's answer."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]
    """Unix seconds and finite values."""

    def name(self, legend: str) -> str:
        """The legend with this series' labels in it."""
        for label, value in self.labels.items():
            legend = legend.replace(f"{{{{{label}}}}}", value)
        return legend if legend != "__auto" else ""


def panels(board: str) -> list[Panel]:
    """The panels with queries of a dashboard's JSON."""
    return [_panel(panel) for panel in _panels(board) if panel.get("targets")]


def substituted(expr: str, values: Mapping[str, str]) -> str:
    """The expression with the variables' values in it. Longer names go first: `$window` is no `$win` and `dow`."""
    for name in sorted(values, key=len, reverse=True):
        expr = expr.replace(f"${name}", values[name])
    return expr


def chosen(*, step: float, scrape: float, seconds: float, window: str = "1m", **selected: str) -> dict[str, str]:
    """Values of all variables: Grafana's own for a graph with that step and range, `selected`, All for the others."""
    return {
        **dict.fromkeys(("namespace", "queue", "pool", "model"), ALL),
        "window": window,
        "__rate_interval": f"{math.ceil(max(step + scrape, 4 * scrape))}s",
        "__range": f"{math.ceil(seconds)}s",
        **selected,
    }


@dataclass(frozen=True)
class Prometheus:
    """A client of the Prometheus at a URL."""

    url: str

    def over(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        """The series of a query from start to end, in Unix seconds."""
        result = self._get("query_range", query=expr, start=f"{start:.3f}", end=f"{end:.3f}", step=f"{step:g}")
        return list(_series((one["metric"], one["values"]) for one in result["result"]))

    def at(self, expr: str, time: float) -> list[Series]:
        """The series of a query at that time, each with one point."""
        result = self._get("query", query=expr, time=f"{time:.3f}")
        return list(_series((one["metric"], [one["value"]]) for one in result["result"]))

    def _get(self, what: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            return json.load(answer)["data"]


def _panels(board: str) -> Iterable[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(board)["panels"]
    return found


def _panel(panel: dict[str, Any]) -> Panel:
    queries = tuple((target["expr"], target.get("legendFormat", "")) for target in panel["targets"])
    return Panel(panel["title"], panel["type"], queries)


def _series(answers: Iterable[tuple[dict[str, str], list[tuple[float, str]]]]) -> Iterable[Series]:
    for labels, values in answers:
        points = tuple((time, float(value)) for time, value in values if math.isfinite(float(value)))
        if points:
            yield Series(labels, points)
