"""Draws the dashboards from what a Prometheus answers: `python -m dev.dashboards.picture URL FOLDER [--minutes N]`.

For documentation where there is no Grafana to take a picture of: same grid, titles, units, legends and thresholds, real
results, but not Grafana's looks.
"""

import argparse
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dev.dashboards import BOARDS
from dev.dashboards.board import Board
from dev.dashboards.results import Heading, Panel, Prometheus, Series, chosen, headings, panels, substituted

BACKGROUND, PAPER, INK, FAINT = "#111217", "#181b1f", "#ccccdc", "#2c3235"
PALETTE = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d", "#fade2a", "#ca95e5")
NAMED = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2", "text": INK}
COLUMN, LINE = 0.55, 0.31
"""Inches of one of the 24 columns and of one line of the grid."""
DOTS_PER_INCH = 80
LEGEND_ENTRIES = 6
SUFFIXES = {"ops": "/s", "reqps": "/s", "watt": " W"}


@dataclass(frozen=True)
class View:
    """What of a Prometheus is drawn: from start to end, in Unix seconds."""

    prometheus: Prometheus
    start: float
    end: float
    step: float
    """Seconds. The last of them is the end."""
    variables: Mapping[str, str]


def draw(board: Board, view: View, file: Path) -> None:
    """Draw a dashboard into a PNG file."""
    content = board.json()
    shown, titles = panels(content), headings(content)
    lines = max(y + h for _, y, _, h in (panel.place for panel in shown))
    figure = Figure(figsize=(24 * COLUMN, (lines + 1.2) * LINE), dpi=DOTS_PER_INCH, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    height = lines + 1.2
    figure.text(0.008, 1 - 0.75 / height, f"videojob / {board.title}", color=INK, fontsize=13, weight="bold")
    for heading in titles:
        if heading.line < lines:
            _heading(figure, heading, height)
    for panel in shown:
        _draw_panel(figure, panel, view, height)
    figure.savefig(file, facecolor=BACKGROUND, pil_kwargs={"optimize": True})


def _heading(figure: Figure, heading: Heading, height: float) -> None:
    top = 1 - (heading.line + 1.2 + 0.7) / height
    figure.text(0.008, top, heading.title, color=INK, fontsize=10)


def _draw_panel(figure: Figure, panel: Panel, view: View, height: float) -> None:
    x, y, w, h = panel.place
    left, bottom = x / 24 + 0.002, 1 - (y + h + 1.15) / height
    card = figure.add_axes((left, bottom, w / 24 - 0.004, (h - 0.15) / height))
    card.set_facecolor(PAPER)
    card.set_xticks([])
    card.set_yticks([])
    for spine in card.spines.values():
        spine.set_color(FAINT)
    card.set_title(panel.title, loc="left", color=INK, fontsize=8, y=1, pad=-11, x=0.02)
    found = _ask(panel, view)
    if not found:
        card.text(0.5, 0.45, "No data", color="#777788", fontsize=9, ha="center", va="center")
    elif panel.kind == "stat":
        _stat(card, panel, found)
    else:
        legend_lines = 2 if panel.kind == "timeseries" else 0
        inner = figure.add_axes(
            (
                left + (0.05 if panel.kind == "timeseries" else 0.105),
                bottom + (1.1 + 0.75 * legend_lines) / height,
                w / 24 - (0.062 if panel.kind == "timeseries" else 0.15),
                (h - 2.6 - 0.75 * legend_lines) / height,
            )
        )
        _style(inner)
        {"timeseries": _curves, "bargauge": _bars, "state-timeline": _states}[panel.kind](inner, panel, found, view)


def _ask(panel: Panel, view: View) -> list[tuple[str, Series]]:
    found = []
    for expr, legend in panel.queries:
        query = substituted(expr, view.variables)
        if panel.instant:
            answer = view.prometheus.at(query, view.end)
        else:
            steps = int((view.end - view.start) / view.step)
            answer = view.prometheus.over(query, view.end - steps * view.step, view.end, view.step)
        found += [(series.name(legend), series) for series in answer]
    return found


def _style(axes: Axes) -> None:
    axes.set_facecolor(PAPER)
    axes.tick_params(colors=INK, labelsize=6, length=0)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _stat(axes: Axes, panel: Panel, found: Sequence[tuple[str, Series]]) -> None:
    name, series = found[0]
    value = series.points[-1][1]
    color = NAMED["blue"] if not panel.thresholds else NAMED["green"]
    for threshold, name_of_color in panel.thresholds:
        if value >= threshold:
            color = NAMED[name_of_color]
    axes.text(0.5, 0.42, in_unit(value, panel.unit), color=color, fontsize=17, ha="center", va="center")
    if name and "{{" not in name:
        axes.text(0.5, 0.12, name, color=INK, fontsize=7, ha="center", va="center")


def _curves(axes: Axes, panel: Panel, found: Sequence[tuple[str, Series]], view: View) -> None:
    floor = dict.fromkeys(sorted({time_ for _, series in found for time_, _ in series.points}), 0.0)
    for number, (name, series) in enumerate(found):
        color = PALETTE[number % len(PALETTE)]
        times = [point[0] - view.start for point in series.points]
        values = [point[1] for point in series.points]
        label = textwrap.shorten(name, 34, placeholder="…") if name and "{{" not in name else None
        if panel.stacked:
            # A series that is not there counts as 0, else the next one would fall through.
            known, below = dict(series.points), list(floor.values())
            floor = {time_: base + known.get(time_, 0.0) for time_, base in floor.items()}
            every = [time_ - view.start for time_ in floor]
            axes.fill_between(every, below, [*floor.values()], color=color, alpha=0.6, linewidth=0, label=label)
        else:
            axes.plot(times, values, color=color, linewidth=1.1, label=label, marker="." if len(times) == 1 else None)
    highest = floor.values() if panel.stacked else (value for _, series in found for _, value in series.points)
    top = max(highest)
    for threshold, color in panel.thresholds:
        if threshold <= 2 * top:
            axes.axhline(threshold, color=NAMED[color], linewidth=0.9, linestyle="--")
    axes.set_xlim(0, view.end - view.start)
    axes.set_ylim(bottom=0, top=None if top > 0 else 1)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, panel.unit)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        axes.legend(
            handles[:LEGEND_ENTRIES],
            labels[:LEGEND_ENTRIES],
            loc="upper left",
            bbox_to_anchor=(0, -0.14),
            ncols=3 if max(map(len, labels)) < 16 else 2,
            fontsize=6,
            labelcolor=INK,
            frameon=False,
            handlelength=1,
            columnspacing=1,
            borderpad=0,
        )


def _bars(axes: Axes, panel: Panel, found: Sequence[tuple[str, Series]], view: View) -> None:
    names = [name for name, _ in found]
    values = [series.points[-1][1] for _, series in found]
    axes.barh(range(len(names)), values, color=NAMED["blue"], height=0.6)
    axes.set_yticks(range(len(names)), [textwrap.shorten(name, 26, placeholder="…") for name in names])
    axes.set_ylim(-0.7, max(len(names), 3) - 0.3)
    axes.set_xlim(0, (max(values) or 1) * 1.25)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, panel.unit)))
    for line, value in enumerate(values):
        axes.text(value, line, f" {in_unit(value, panel.unit)}", color=INK, fontsize=6.5, va="center")


def _states(axes: Axes, panel: Panel, found: Sequence[tuple[str, Series]], view: View) -> None:
    for line, (_, series) in enumerate(found):
        for time_, value in series.points:
            color = NAMED["green"] if value else NAMED["red"] if "False" in panel.words.values() else "#555566"
            axes.barh(line, view.step * 1.05, left=time_ - view.start, color=color, height=0.6, linewidth=0)
    axes.set_yticks(range(len(found)), [textwrap.shorten(name, 26, placeholder="…") for name, _ in found])
    axes.set_ylim(-0.7, max(len(found), 2) - 0.3)
    axes.set_xlim(0, view.end - view.start)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))


def in_unit(value: float, unit: str) -> str:
    """A value as people read it: Grafana's units that the dashboards use."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if 0 < abs(value) < 1 else f"{value:.3g} s"
    return f"{value:.3g}{SUFFIXES.get(unit, '')}"


def main() -> None:
    """Draw all dashboards."""
    parser = argparse.ArgumentParser(prog="python -m dev.dashboards.picture", description="Draw the dashboards.")
    parser.add_argument("url", help="of a Prometheus that scrapes videojob")
    parser.add_argument("folder", type=Path, help="where dashboard-NAME.png of each is written")
    parser.add_argument("--minutes", type=float, default=60, help="until now [%(default)s]")
    parser.add_argument("--scrape-seconds", type=float, default=15, help="Prometheus' scrape interval [%(default)s]")
    arguments = parser.parse_args()
    end, seconds = time.time(), arguments.minutes * 60
    step = max(seconds / 200, arguments.scrape_seconds)
    variables = chosen(step=step, scrape=arguments.scrape_seconds, seconds=seconds, window="15m")
    view = View(Prometheus(arguments.url), end - seconds, end, step, variables)
    for board in BOARDS:
        draw(board, view, arguments.folder / f"dashboard-{board.name}.png")


if __name__ == "__main__":
    main()
