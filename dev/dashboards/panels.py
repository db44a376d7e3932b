"""Parts of the dashboards: variables, panels with queries, and the frame that is the same for all four."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    text,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "videojob"
RUNBOOKS = "docs/runbooks"
"""Where the runbooks are in the repository; the chart puts the repository's address before it."""
WINDOWS = "1m,5m,15m,1h,6h"
SIZES = {
    "stat": (4, 4),
    "time series": (8, 8),
    "half": (12, 8),
    "quarter": (6, 8),
    "bar gauge": (8, 8),
    "state timeline": (8, 8),
    "text": (24, 5),
}
"""Width (of 24 columns) and height of each kind of panel."""

Thresholds = Sequence[tuple[float | None, str]]
"""Lower bound and colour of each range; the first one has no bound (None)."""
Panel = Builder[models.Panel]


@dataclass(frozen=True)
class Query:
    """A query, and the legend of each of its series: text with `{{label}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Section:
    """Panels under a heading. Their widths fill whole lines of 24 columns."""

    title: str
    panels: Sequence[Panel]


def leading(selector: str) -> str:
    """The series of the operator that leads: the others see the same objects, and would be counted twice."""
    return f"({selector} and on (instance) (videojob_operator_leader == 1))"


def or_zero(expr: str) -> str:
    """0 where nothing was counted yet: a counter with labels has no series before the first event."""
    return f"{expr} or on () vector(0)"


def counted(counter: str, labels: str, selector: str, window: str, function: str = "increase") -> str:
    """The increase of a counter of ended jobs, for each value of the labels.

    Every operator counts all jobs that it sees end, so the largest count is the complete one and the sum is too high.
    """
    return f"max by ({labels}) ({function}({counter}{{{selector}}}[{window}]))"


def quantile(q: float, histogram: str, selector: str, by: str = "", window: str = "$window") -> str:
    """The quantile of a histogram within the window, for each value of the labels `by`."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket{{{selector}}}[{window}])))"


def mean(histogram: str, selector: str, by: str, window: str = "$window") -> str:
    """The mean of a histogram within the window, for each value of the labels `by`."""
    total, count = (f"sum by ({by}) (rate({histogram}_{part}{{{selector}}}[{window}]))" for part in ("sum", "count"))
    return f"{total} / {count}"


def overall(histogram: str, selector: str, by: str) -> str:
    """The mean of a histogram over all time: for events that are too rare for a window."""
    total, count = (f"sum by ({by}) ({histogram}_{part}{{{selector}}})" for part in ("sum", "count"))
    return f"{total} / {count}"


def stat_panel(
    title: str, query: Query, description: str, *, unit: str = "short", thresholds: Thresholds = (), runbook: str = ""
) -> Panel:
    """One number, the last, with its curve behind it."""
    panel = stat.Panel().color_mode(looks.BigValueColorMode.VALUE).graph_mode(looks.BigValueGraphMode.AREA)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if query.legend:
        panel.text_mode(looks.BigValueTextMode.VALUE_AND_NAME)
    return _finish(panel, "stat", title, (query,), description, unit, thresholds or ((None, "blue"),), runbook)


def time_series(
    title: str,
    queries: Sequence[Query],
    description: str,
    *,
    unit: str = "short",
    thresholds: Thresholds = (),
    stacked: bool = False,
    size: str = "time series",
    runbook: str = "",
) -> Panel:
    """Lines over time; thresholds are dashed lines."""
    panel = timeseries.Panel().line_width(1).fill_opacity(60 if stacked else 8).show_points(looks.VisibilityMode.AUTO)
    panel.legend(
        common.VizLegendOptions()
        .display_mode(looks.LegendDisplayMode.LIST)
        .placement(looks.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    panel.tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
    panel.axis_soft_min(0)
    if stacked:
        panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    if thresholds:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.DASHED))
    return _finish(panel, size, title, queries, description, unit, thresholds or ((None, "green"),), runbook)


def bar_gauge(title: str, query: Query, description: str, *, unit: str = "short") -> Panel:
    """A bar for each series: its total in the time range."""
    panel = bargauge.Panel().display_mode(looks.BarGaugeDisplayMode.BASIC).orientation(looks.VizOrientation.HORIZONTAL)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return _finish(panel, "bar gauge", title, (query,), description, unit, ((None, "blue"),), "", instant=True)


def state_timeline(
    title: str, query: Query, description: str, values: dict[str, tuple[str, str]], *, runbook: str = ""
) -> Panel:
    """A band for each series, coloured by its value; `values` has text and colour for each value."""
    panel = statetimeline.Panel().show_value(looks.VisibilityMode.NEVER).merge_values(True)
    mapping = models.ValueMap(
        options={
            value: models.ValueMappingResult(text=name, color=color, index=index)
            for index, (value, (name, color)) in enumerate(values.items())
        }
    )
    panel.mappings([mapping])
    return _finish(panel, "state timeline", title, (query,), description, "short", ((None, "text"),), runbook)


def text_panel(title: str, markdown: str) -> Panel:
    """A panel with text."""
    width, height = SIZES["text"]
    return text.Panel().title(title).mode(TextMode.MARKDOWN).content(markdown).span(width).height(height)


def _finish(
    panel: stat.Panel | timeseries.Panel | bargauge.Panel | statetimeline.Panel,
    size: str,
    title: str,
    queries: Sequence[Query],
    description: str,
    unit: str,
    thresholds: Thresholds,
    runbook: str,
    *,
    instant: bool = False,
) -> Panel:
    width, height = SIZES[size]
    panel.title(title).description(description).datasource(SOURCE).unit(unit).span(width).height(height)
    panel.thresholds(
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in thresholds])
    )
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().datasource(SOURCE).ref_id(letter).expr(query.expr)
        target.legend_format(query.legend or "__auto").format(PromQueryFormat.TIME_SERIES)
        panel.with_target(target.instant() if instant else target.range())
    if runbook:
        panel.links([dashboard.DashboardLink("Runbook").url(f"${{runbooks}}/{runbook}.md").target_blank(True)])
    return panel


def label_values(name: str, label: str, metric: str, description: str) -> dashboard.QueryVariable:
    """A variable with the values that a label has; all of them at first."""
    every = models.VariableOption(selected=True, text="All", value="$__all")
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .description(description)
        .query(f"label_values({metric}, {label})")
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        # Matches a missing label as well: what is scraped without a namespace is shown all the same.
        .all_value(".*")
        .current(every)
    )


@dataclass(frozen=True)
class Dashboard:
    """One dashboard. Its uid is `videojob-NAME` for ever: links and bookmarks point to it."""

    name: str
    title: str
    description: str
    variables: Sequence[dashboard.QueryVariable]
    sections: Sequence[Section]

    def json(self) -> str:
        """The dashboard as Grafana imports it; the same bytes every time."""
        return json.dumps(self._build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"

    def _build(self) -> models.Dashboard:
        board = (
            dashboard.Dashboard(f"videojob / {self.title}")
            .uid(f"videojob-{self.name}")
            .description(self.description)
            .tags([TAG])
            .time("now-3h", "now")
            .refresh("30s")
            .timezone("browser")
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .editable()
            .link(
                dashboard.DashboardLink("videojob")
                .type(models.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .keep_time(True)
                .include_vars(True)
            )
            .link(
                dashboard.DashboardLink("Runbooks")
                .type(models.DashboardLinkType.LINK)
                .icon("doc")
                .url("${runbooks}/README.md")
                .target_blank(True)
            )
            .annotation(
                dashboard.AnnotationQuery()
                .name("Alerts")
                .datasource(SOURCE)
                .enable(True)
                .icon_color("red")
                .expr('ALERTS{alertname=~"Videojob.+", alertstate="firing"}')
            )
            .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        )
        for variable in self.variables:
            board.with_variable(variable)
        board.with_variable(
            dashboard.IntervalVariable("window")
            .label("Window")
            .description("Over how long rates, means and quantiles of rare events are taken.")
            .values(WINDOWS)
            .current(models.VariableOption(selected=True, text="15m", value="15m"))
        )
        board.with_variable(
            dashboard.ConstantVariable("runbooks").value(RUNBOOKS).description("Where the runbooks are.")
        )
        for section in self.sections:
            board.with_row(dashboard.Row(section.title))
            for panel in section.panels:
                board.with_panel(panel)
        built = board.build()
        for number_, panel_ in enumerate(built.panels or (), start=1):
            panel_.id_val = number_
        return built
