"""The panels of all dashboards: the look of graphs, single values, tables, timelines and heat maps.

The queries are in the module of each dashboard. Every panel has a description, and a text for the case without data: a
metric that was not measured is absent and must not look like zero.
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

NOT_MEASURED = "not measured"
NO_OBSERVATION = "none yet"

# The states for load balancers with their colours, the best first. `state_code` numbers them.
STATES = {
    "ready": "green",
    "degraded": "yellow",
    "overloaded": "red",
    "drained": "blue",
    "stale": "purple",
    "unknown": "text",
    "starting": "super-light-blue",
}

ALWAYS_GREEN = [(None, "green")]


@dataclass(frozen=True)
class Query:
    """An expression, the legend of its series, and whether to request exemplars."""

    expr: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table: the value of a query, or a label of the queries before it."""

    name: str
    query: str = ""
    unit: str = ""
    decimals: int | None = None
    thresholds: tuple = ()
    width: int | None = None
    label: str = ""


def state_code(selector: str) -> str:
    """The number of the current state: its place in STATES, from 1."""
    terms = [f'memsensor_state{{{selector},state="{state}"}} * {n}' for n, state in enumerate(STATES, 1)]
    return f"max without (state) ({' or '.join(terms)})"


def state_names() -> list:
    """Maps the numbers of `state_code` to names and colours."""
    return [ValueMap({str(n): ValueMappingResult(s, c, None, n) for n, (s, c) in enumerate(STATES.items(), 1)})]


def graph_panel(title, description, queries, unit, span=12, height=7, no_value=NOT_MEASURED, thresholds=(), **style):
    """A graph over time. `style`: stack, bars, points, log, states, fill, min, max, soft_max, decimals, runbook."""
    panel = _base(timeseries.Panel(), title, description, span, height, no_value, style.get("runbook", ""))
    panel.unit(unit).fill_opacity(style.get("fill", 8)).line_width(1)
    panel.show_points(looks.VisibilityMode.NEVER)
    # None if values may be below 0, or if the scale has no 0.
    if style.get("min", 0) is not None:
        panel.min(0)
    has_legend = any(query.legend for query in queries)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(has_legend)
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
    if "max" in style:
        panel.max(style["max"])
    if "soft_max" in style:
        panel.axis_soft_max(style["soft_max"])
    if "decimals" in style:
        panel.decimals(style["decimals"])
    for state, color in STATES.items() if style.get("states") else ():
        panel.override_by_name(state, [DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})])
    if thresholds:
        panel.thresholds(_thresholds(thresholds))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.DASHED))
    return _with_queries(panel, queries)


def stat_panel(
    title, description, query, unit, span=4, height=4, no_value=NOT_MEASURED, thresholds=ALWAYS_GREEN, **style
):
    """One current value. `style`: names (show the name of the series), decimals, states, graph, runbook."""
    panel = _base(stat.Panel(), title, description, span, height, no_value, style.get("runbook", ""))
    panel.unit(unit).thresholds(_thresholds(thresholds))
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
    return _with_queries(panel, [query], instant=not style.get("graph"))


def timeline_panel(title, description, queries, span=24, height=6, no_value=NOT_MEASURED, states=False, **style):
    """States over time: of `state_code`, or of series that are 1 while a rule is active."""
    panel = _base(statetimeline.Panel(), title, description, span, height, no_value, style.get("runbook", ""))
    active = [ValueMap({"1": ValueMappingResult("active", "orange"), "0": ValueMappingResult(" ", "transparent")})]
    panel.mappings(state_names() if states else active)
    panel.show_value(looks.VisibilityMode.AUTO).merge_values(True).row_height(0.9).fill_opacity(80).line_width(0)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(states)
        .display_mode(looks.LegendDisplayMode.LIST)
        .placement(looks.LegendPlacement.BOTTOM)
        .calcs([])
    )
    panel.tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.SINGLE).sort(looks.SortOrder.NONE))
    return _with_queries(panel, queries)


def heatmap_panel(title, description, expr, span=12, height=7, no_value=NO_OBSERVATION):
    """A histogram over time. The expression must keep only the label `le`."""
    panel = _base(heatmap.Panel(), title, description, span, height, no_value)
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
    # An empty bucket has no colour, not the lightest one.
    panel.filter_values(heatmap.FilterValueRange().le(1e-9))
    target = _query(Query(expr, "{{le}}"), 0).range().format(PromQueryFormat.HEATMAP)
    return panel.with_target(target)


def table_panel(title, description, columns, sort, span=24, height=9, no_value=NOT_MEASURED, links=None, **style):
    """A table with one row for each value of the labels that all queries of the columns return.

    `sort` is a list of (column, descending); `links` maps a column to (text, URL) pairs.
    """
    panel = _base(table.Panel(), title, description, span, height, no_value, style.get("runbook", ""))
    panel.show_header(True).cell_height(looks.TableCellHeight.SM).filterable(True)
    # Pages, because a fleet can have thousands of rows.
    panel.footer(common.TableFooterOptions().show(False).reducer(["sum"]).enable_pagination(True).count_rows(False))
    panel.sort_by([common.TableSortByFieldState().display_name(name).desc(desc) for name, desc in sort])

    hidden, names, order, n = {"Time": True}, {}, {}, 0
    for place, column in enumerate(columns):
        field = column.label
        if column.query:
            value = "Value" if sum(bool(c.query) for c in columns) == 1 else f"Value #{_ref(n)}"
            # If the column shows a label, the value of its query is hidden.
            field, hidden = (column.label, hidden | {value: True}) if column.label else (value, hidden)
            panel.with_target(_query(Query(column.query), n).instant().format(PromQueryFormat.TABLE))
            n += 1
        names[field], order[field] = column.name, place
        panel.override_by_name(column.name, _cell(column, (links or {}).get(column.name, [])))
    if n > 1:
        panel.with_transformation(DataTransformerConfig("merge", options={}))
    organize = {"excludeByName": hidden, "renameByName": names, "indexByName": order}
    return panel.with_transformation(DataTransformerConfig("organize", options=organize))


def text_panel(title, content, span=24, height=4):
    """A text in Markdown."""
    return text.Panel().title(title).content(content).span(span).height(height)


def link(title, url, tooltip=""):
    """A link that opens in the same window."""
    kind = DashboardLinkType.LINK
    return DashboardLink(title).type(kind).icon("external link").tooltip(tooltip or title).url(url)


def _cell(column, links):
    settings = {"unit": column.unit, "decimals": column.decimals, "custom.width": column.width}
    values = [DynamicConfigValue(name, value) for name, value in settings.items() if value not in (None, "")]
    if column.thresholds:
        # Overrides are not typed by the builders, so this is the JSON that they would write.
        steps = [{"value": value, "color": color} for value, color in column.thresholds]
        values.append(DynamicConfigValue("thresholds", {"mode": "absolute", "steps": steps}))
        values.append(DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
    if column.name in ("state", "last state"):
        by_name = {state: {"color": color, "index": n} for n, (state, color) in enumerate(STATES.items())}
        values.append(DynamicConfigValue("mappings", [{"type": "value", "options": by_name}]))
        values.append(DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
    if links:
        values.append(DynamicConfigValue("links", [{"title": title, "url": url} for title, url in links]))
    return values


def _base(panel, title, description, span, height, no_value, runbook=""):
    panel.title(title).description(description).datasource(DATASOURCE).span(span).height(height).no_value(no_value)
    if runbook:
        alerts = runbook.split()
        panel.links([link(f"Runbook: {alert}", f"${{runbooks}}/{alert}.md") for alert in alerts])
    return panel


def _with_queries(panel, queries, instant=False):
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
