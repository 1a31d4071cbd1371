"""Panels as all of our dashboards have them: what a graph, a figure, a table, a time line and a heat map look like.

Which queries they show is said in the module of each dashboard. Every panel needs a description and a
text for when there is nothing: what was not measured is absent, and must not look like a zero.
"""

from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, statetimeline, table, text, timeseries
from grafana_foundation_sdk.builders.dashboard import DashboardLink, ThresholdsConfig
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")

NOT_MEASURED = "not measured here"
NEVER_YET = "none yet"

# The states that balancers are told, the best first, as one number each: see `state_code`.
STATES = {
    "ready": "green",
    "degraded": "yellow",
    "overloaded": "red",
    "drained": "blue",
    "stale": "purple",
    "unknown": "text",
    "starting": "super-light-blue",
}

GOOD_BELOW = [(None, "green")]


@dataclass(frozen=True)
class Query:
    """An expression, what its series are called, and whether their exemplars are wanted."""

    expr: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table: a query, or (without one) a label that the queries before it return."""

    name: str
    query: str = ""
    unit: str = ""
    decimals: int | None = None
    steps: tuple = ()
    width: int | None = None
    label: str = ""


def state_code(selector: str) -> str:
    """The number of the state that is 1: its place in STATES, from 1."""
    ways = [f'memsensor_state{{{selector},state="{state}"}} * {n}' for n, state in enumerate(STATES, 1)]
    return f"max without (state) ({' or '.join(ways)})"


def state_names() -> list:
    """What the numbers of `state_code` are called, and their colours."""
    return [ValueMap({str(n): ValueMappingResult(s, c, None, n) for n, (s, c) in enumerate(STATES.items(), 1)})]


def graph(title, about, queries, unit, span=12, height=7, nothing=NOT_MEASURED, steps=(), **style):
    """Lines over time. `style`: stack, bars, points, log, states, fill, least, most, soft_most, decimals, runbook."""
    panel = _dress(timeseries.Panel(), title, about, span, height, nothing, style.get("runbook", ""))
    panel.unit(unit).fill_opacity(style.get("fill", 8)).line_width(1)
    panel.show_points(looks.VisibilityMode.NEVER)
    # None where values may be below 0, or where the scale has no 0.
    if style.get("least", 0) is not None:
        panel.min(0)
    names = any(query.legend for query in queries)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(names)
        .display_mode(looks.LegendDisplayMode.LIST)
        .placement(looks.LegendPlacement.BOTTOM)
        .calcs([])
    )
    panel.tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
    if style.get("stack"):
        panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL).group("A")).fill_opacity(40)
    if style.get("bars"):
        panel.draw_style(looks.GraphDrawStyle.BARS).fill_opacity(80)
    if style.get("points"):
        panel.show_points(looks.VisibilityMode.ALWAYS).point_size(6)
    if style.get("log"):
        panel.scale_distribution(common.ScaleDistributionConfig().type(looks.ScaleDistribution.LOG).log(2))
    if "most" in style:
        panel.max(style["most"])
    if "soft_most" in style:
        panel.axis_soft_max(style["soft_most"])
    if "decimals" in style:
        panel.decimals(style["decimals"])
    for state, color in STATES.items() if style.get("states") else ():
        panel.override_by_name(state, [DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})])
    if steps:
        panel.thresholds(_thresholds(steps))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.DASHED))
    return _ask(panel, queries)


def figure(title, about, query, unit, span=4, height=4, nothing=NOT_MEASURED, steps=GOOD_BELOW, **style):
    """One number, now. `style`: names (show what the series is called), decimals, states, graph, runbook."""
    panel = _dress(stat.Panel(), title, about, span, height, nothing, style.get("runbook", ""))
    panel.unit(unit).thresholds(_thresholds(steps))
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    panel.color_mode(looks.BigValueColorMode.BACKGROUND if style.get("states") else looks.BigValueColorMode.VALUE)
    graph_mode = looks.BigValueGraphMode.AREA if style.get("graph") else looks.BigValueGraphMode.NONE
    panel.graph_mode(graph_mode)
    if style.get("names"):
        panel.text_mode(looks.BigValueTextMode.VALUE_AND_NAME)
    if style.get("states"):
        panel.mappings(state_names())
    if "decimals" in style:
        panel.decimals(style["decimals"])
    return _ask(panel, [query], instant=not style.get("graph"))


def timeline(title, about, queries, span=24, height=6, nothing=NOT_MEASURED, states=False, on="holds", **style):
    """Which state when: of `state_code`, or of series that are 1 while something holds."""
    panel = _dress(statetimeline.Panel(), title, about, span, height, nothing, style.get("runbook", ""))
    holds = [ValueMap({"1": ValueMappingResult(on, "orange"), "0": ValueMappingResult(" ", "transparent")})]
    panel.mappings(state_names() if states else holds)
    panel.show_value(looks.VisibilityMode.AUTO).merge_values(True).row_height(0.9).fill_opacity(80).line_width(0)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(states)
        .display_mode(looks.LegendDisplayMode.LIST)
        .placement(looks.LegendPlacement.BOTTOM)
        .calcs([])
    )
    panel.tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.SINGLE).sort(looks.SortOrder.NONE))
    return _ask(panel, queries)


def heat(title, about, expr, span=12, height=7, nothing=NEVER_YET):
    """A histogram over time. The expression must keep only `le`."""
    panel = _dress(heatmap.Panel(), title, about, span, height, nothing)
    panel.calculate(False).cell_gap(1)
    panel.y_axis(heatmap.YAxisConfig().unit("s").axis_placement(looks.AxisPlacement.LEFT).reverse(False))
    panel.color(
        heatmap.HeatmapColorOptions()
        .mode(HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .scale(HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .fill("dark-orange")
        .steps(64)
        .reverse(False)
    )
    # Nothing in a bucket is no colour, not the faintest one.
    panel.filter_values(heatmap.FilterValueRange().le(1e-9))
    target = _query(Query(expr, "{{le}}"), 0).range().format(PromQueryFormat.HEATMAP)
    return panel.with_target(target)


def sheet(title, about, columns, sort, span=24, height=9, nothing=NOT_MEASURED, links=None, **style):
    """A table: one row for each value of the labels that all of the columns' queries return.

    `sort` is a list of (column, descending); `links` maps a column to (text, URL) pairs.
    """
    panel = _dress(table.Panel(), title, about, span, height, nothing, style.get("runbook", ""))
    panel.show_header(True).cell_height(looks.TableCellHeight.SM).filterable(True)
    # Rows beyond a page are a click away, whatever the size of the fleet.
    panel.footer(common.TableFooterOptions().show(False).reducer(["sum"]).enable_pagination(True).count_rows(False))
    panel.sort_by([common.TableSortByFieldState().display_name(name).desc(desc) for name, desc in sort])

    hidden, names, order, n = {"Time": True}, {}, {}, 0
    for place, column in enumerate(columns):
        field = column.label
        if column.query:
            value = "Value" if sum(bool(c.query) for c in columns) == 1 else f"Value #{_ref(n)}"
            # A query whose label is the column has a value that says nothing.
            field, hidden = (column.label, hidden | {value: True}) if column.label else (value, hidden)
            panel.with_target(_query(Query(column.query), n).instant().format(PromQueryFormat.TABLE))
            n += 1
        names[field], order[field] = column.name, place
        panel.override_by_name(column.name, _cell(column, (links or {}).get(column.name, [])))
    if n > 1:
        panel.with_transformation(DataTransformerConfig("merge", options={}))
    organize = {"excludeByName": hidden, "renameByName": names, "indexByName": order}
    return panel.with_transformation(DataTransformerConfig("organize", options=organize))


def words(title, content, span=24, height=4):
    """Text for people (Markdown)."""
    return text.Panel().title(title).content(content).span(span).height(height)


def link(title, url, tooltip=""):
    """A link to a page, in the same window."""
    kind = DashboardLinkType.LINK
    return DashboardLink(title).type(kind).icon("external link").tooltip(tooltip or title).url(url)


def _cell(column, links):
    settings = {"unit": column.unit, "decimals": column.decimals, "custom.width": column.width}
    values = [DynamicConfigValue(name, value) for name, value in settings.items() if value not in (None, "")]
    if column.steps:
        # What is not of our builders is put as they would write it.
        steps = [{"value": value, "color": color} for value, color in column.steps]
        values.append(DynamicConfigValue("thresholds", {"mode": "absolute", "steps": steps}))
        values.append(DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
    if column.name in ("state", "was"):
        by_name = {state: {"color": color, "index": n} for n, (state, color) in enumerate(STATES.items())}
        values.append(DynamicConfigValue("mappings", [{"type": "value", "options": by_name}]))
        values.append(DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
    if links:
        values.append(DynamicConfigValue("links", [{"title": title, "url": url} for title, url in links]))
    return values


def _dress(panel, title, about, span, height, nothing, runbook=""):
    panel.title(title).description(about).datasource(DATASOURCE).span(span).height(height).no_value(nothing)
    if runbook:
        alerts = runbook.split()
        panel.links([link(f"Runbook: {alert}", f"${{runbooks}}/{alert}.md") for alert in alerts])
    return panel


def _ask(panel, queries, instant=False):
    for n, query in enumerate(queries):
        target = _query(query, n)
        panel.with_target(target.instant() if instant else target.range())
    return panel


def _query(query, n):
    target = prometheus.Dataquery().ref_id(_ref(n)).expr(query.expr).datasource(DATASOURCE)
    if query.legend:
        target.legend_format(query.legend)
    return target.exemplar(True) if query.exemplars else target


def _ref(n):
    return chr(ord("A") + n)


def _thresholds(steps):
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps([Threshold(value, color) for value, color in steps])
