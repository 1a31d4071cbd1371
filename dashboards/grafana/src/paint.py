"""Draws one panel from its JSON and the results of its queries. For the pictures in the documentation only: Grafana
renders the dashboards for users."""

import math
import re
import textwrap
from itertools import pairwise

from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.dates import DateFormatter, date2num
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy import array, cumsum, datetime64, diff, full, nan, nan_to_num, vstack

from units import format_value

INK, FAINT, LINE = "#24292e", "#6e7681", "#d8dce1"
LINES = ["#2f7d32", "#d9a300", "#2f6fb5", "#d1493f", "#7a4fb0", "#d97706", "#0e8a8a", "#b03a7a", "#6b7280", "#8a6d3b"]
COLORS = {
    "green": "#2f7d32",
    "yellow": "#d9a300",
    "orange": "#d97706",
    "red": "#d1493f",
    "dark-red": "#8f1d14",
    "blue": "#2f6fb5",
    "purple": "#7a4fb0",
    "super-light-blue": "#9cc4ec",
    "text": INK,
    "transparent": "#ffffff",
}
HEAT = LinearSegmentedColormap.from_list("oranges", ["#fde4c8", "#f59e42", "#b45309", "#5a2a05"])
# Limits of a legend: characters of a name, and rows.
MAX_NAME, MAX_ROWS = 44, 2


def to_date(seconds):
    """A timestamp in the format of matplotlib."""
    return date2num(datetime64(int(seconds * 1000), "ms"))


class Series:
    """One series: labels, name from the legend, points (one point for an instant query)."""

    def __init__(self, answer, legend):
        self.labels = answer["metric"]
        points = answer.get("values") or [answer["value"]]
        self.times = array([to_date(t) for t, _ in points])
        self.values = array([float(v) for _, v in points])
        legend = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: self.labels.get(m[1], ""), legend)
        self.name = shortened(re.sub(r"memsensor-test-\d+-", "", legend or "value"))

    def on_grid(self, grid):
        """The values at the times of a grid; NaN where the series has no value."""
        values, at = full(len(grid), nan), {round(t, 6): v for t, v in zip(self.times, self.values)}
        for place, moment in enumerate(grid):
            values[place] = at.get(round(moment, 6), nan)
        return values


def with_gaps(times):
    """Adds a time in each gap. No series has a value there, so that lines are interrupted."""
    step = min((b - a for a, b in pairwise(times)), default=0)
    return array(sorted([*times, *((a + b) / 2 for a, b in pairwise(times) if b - a > 1.5 * step)]))


def shortened(name):
    """A name that fits. It keeps the end of a path, which is more specific than the start."""
    return name if len(name) <= MAX_NAME else "…" + name[-(MAX_NAME - 1) :]


def series_of(panel, answers):
    """All series of a panel with at least one number."""
    found = []
    for target in panel.get("targets", []):
        answer = answers.get(target["refId"], {"series": []})
        found += [Series(one, target.get("legendFormat", "")) for one in answer["series"]]
    return [one for one in found if not all(math.isnan(v) for v in one.values)]


def paint(axes, panel, answers, span, marks):
    """Draws a panel. `span` is the time range, `marks` are the annotations of the dashboard."""
    axes.set_title(panel["title"], loc="left", fontsize=9, fontweight="bold", color=INK, pad=5)
    for side in axes.spines.values():
        side.set_color(LINE)
    kind, found = panel["type"], series_of(panel, answers)
    if not found and kind != "text":
        return no_value(axes, panel)
    if kind == "timeseries":
        return lines(axes, panel, found, span, marks, answers)
    painters = {"stat": stat, "table": table, "state-timeline": timeline, "heatmap": heatmap, "text": text_panel}
    return painters[kind](axes, panel, found if kind != "table" else answers, span)


def defaults(panel):
    """The defaults of its fields."""
    return panel["fieldConfig"]["defaults"]


def hide_axes(axes):
    """Removes the axes."""
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])


def no_value(axes, panel):
    """The text of a panel without data."""
    hide_axes(axes)
    text = textwrap.fill(defaults(panel).get("noValue", "no data"), 40)
    axes.text(0.5, 0.5, text, ha="center", va="center", color=FAINT, fontsize=9, transform=axes.transAxes)


def step_color(steps, value):
    """The colour of the highest threshold that a value reaches."""
    reached = [s["color"] for s in steps if s.get("value") is None or value >= s["value"]]
    return COLORS.get(reached[-1] if reached else "text", INK)


def mapped(mappings, key):
    """Text and colour of a value mapping."""
    for mapping in mappings or []:
        if mapping["type"] == "value" and key in mapping["options"]:
            result = mapping["options"][key]
            return result.get("text", key), COLORS.get(result.get("color"), INK)
    return None


def stat(axes, panel, found, _span):
    """A single value."""
    hide_axes(axes)
    options, one = defaults(panel), found[0]
    value = [v for v in one.values if not math.isnan(v)][-1]
    text, color = mapped(options.get("mappings"), str(int(value))) or (
        format_value(value, options.get("unit"), options.get("decimals")),
        step_color(options["thresholds"]["steps"], value),
    )
    if len(one.times) > 1:
        axes.fill_between(one.times, one.values, color=color, alpha=0.15, lw=0)
        axes.set_ylim(0, max(one.values) * 3 or 1)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=19, color=color, transform=axes.transAxes)


def lines(axes, panel, found, span, marks, answers):
    """A graph with lines, bars or areas."""
    options = defaults(panel)
    custom, unit = options.get("custom", {}), options.get("unit")
    grid = with_gaps(sorted({t for one in found for t in one.times}))
    fixed = {
        o["matcher"]["options"]: o["properties"][0]["value"]["fixedColor"] for o in panel["fieldConfig"]["overrides"]
    }
    colors = [COLORS.get(fixed.get(one.name), LINES[n % len(LINES)]) for n, one in enumerate(found)]
    if custom.get("stacking", {}).get("mode") == "normal":
        stack = cumsum(nan_to_num(vstack([one.on_grid(grid) for one in found])), axis=0)
        below = 0 * stack[0]
        for one, top, color in zip(found, stack, colors):
            axes.fill_between(grid, below, top, color=color, alpha=0.55, lw=0.6, label=one.name)
            below = top
    elif custom.get("drawStyle") == "bars":
        width = (span[1] - span[0]) / 120
        for one, color in zip(found, colors):
            axes.bar(one.times, one.values, width=width, color=color, alpha=0.85, label=one.name)
    else:
        dots = custom.get("showPoints") == "always"
        for one, color in zip(found, colors):
            style = {"marker": "o", "ms": 2.2, "lw": 0.8} if dots else {"lw": 1.2}
            axes.plot(grid, one.on_grid(grid), color=color, label=one.name, **style)
    _scale(axes, options, custom, unit, found)
    exemplars(axes, answers)
    for start, end, color in marks:
        axes.axvspan(start, end, color=color, alpha=0.13, lw=0)
    time_axis(axes, span)
    legend(axes, found)


def _scale(axes, options, custom, unit, found):
    axes.tick_params(labelsize=7.5, colors=FAINT, length=2)
    axes.grid(axis="y", color=LINE, lw=0.5)
    axes.set_axisbelow(True)
    if custom.get("scaleDistribution", {}).get("type") == "log":
        axes.set_yscale("log", base=custom["scaleDistribution"]["log"])
        axes.yaxis.set_major_locator(LogLocator(base=custom["scaleDistribution"]["log"], numticks=7))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, unit)))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        return
    whole = options.get("decimals") == 0
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10], integer=whole))
    if all(nan_to_num(one.values).max() == 0 for one in found):
        axes.set_ylim(0, 1)
    elif unit in ("bytes", "Bps"):
        top = axes.get_ylim()[1]
        power = 1024 ** max(0, int(math.log(max(top, 1), 1024)))
        size = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top / power) * power
        axes.set_yticks([tick for tick in size if tick >= 0])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, unit)))
    if options.get("min") is not None:
        axes.set_ylim(bottom=options["min"])
    soft = custom.get("axisSoftMax")
    top = options.get("max", max(soft or 0, axes.get_ylim()[1]))
    axes.set_ylim(top=top * 1.03 if top else 1)
    if custom.get("thresholdsStyle", {}).get("mode") == "dashed":
        for step in options["thresholds"]["steps"]:
            if step.get("value") is not None and step["value"] <= axes.get_ylim()[1]:
                axes.axhline(step["value"], color=COLORS[step["color"]], ls="--", lw=0.9)


def exemplars(axes, answers):
    """Marks exemplars with a diamond, and shows the id of the last event."""
    found = [e for answer in answers.values() for s in answer.get("exemplars") or [] for e in s["exemplars"]]
    ids = {e["labels"].get("event_id"): e["timestamp"] for e in found}
    if ids:
        height = axes.get_ylim()[1]
        axes.plot([to_date(t) for t in ids.values()], [height * 0.94] * len(ids), "D", color=COLORS["blue"], ms=4)
        last = max(ids, key=ids.get)
        axes.text(
            1,
            1.03,
            f"exemplar: {last}",
            ha="right",
            va="bottom",
            fontsize=7,
            color=COLORS["blue"],
            transform=axes.transAxes,
        )


def time_axis(axes, span):
    """The time range on the x axis."""
    axes.set_xlim(*span)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))
    axes.tick_params(labelsize=7.5, colors=FAINT, length=2)


def legend(axes, found):
    """Names below the graph, in as many columns as fit. Names that do not fit are counted."""
    if len(found) == 1 and found[0].name == "value":
        return
    handles, names = axes.get_legend_handles_labels()
    inches = axes.get_window_extent().width / axes.figure.dpi
    columns = max(1, min(6, int(inches * 14 / (max(map(len, names)) + 5))))
    if len(names) > MAX_ROWS * columns:
        kept = MAX_ROWS * columns - 1
        handles, names = handles[: kept + 1], names[:kept] + [f"and {len(names) - kept} more"]
    place = {"loc": "upper left", "bbox_to_anchor": (-0.01, -0.12), "borderaxespad": 0.2}
    axes.legend(
        handles, names, ncols=columns, fontsize=7.5, frameon=False, handlelength=1.2, columnspacing=1.2, **place
    )


def timeline(axes, panel, found, span):
    """One bar per series, coloured by its value mapping."""
    step = min((diff(one.times).min() for one in found if len(one.times) > 1), default=1e-5)
    named, shown = len(found) > 1, {}
    for row, one in enumerate(found):
        for time, value in zip(one.times, one.values):
            text, color = mapped(defaults(panel)["mappings"], str(int(value))) or (str(value), FAINT)
            if color != COLORS["transparent"]:
                axes.broken_barh([(time, step * 1.02)], (row - 0.4, 0.8), color=color, lw=0)
                shown[text] = color
    axes.set_ylim(len(found) - 0.4, -0.6)
    time_axis(axes, span)
    axes.set_yticks(range(len(found)), [one.name for one in found] if named or not found[0].name == "value" else [""])
    if len(shown) > 1:
        handles = [Rectangle((0, 0), 1, 1, color=color) for color in shown.values()]
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.1}
        axes.legend(handles, shown, ncols=len(shown), fontsize=7.5, frameon=False, handlelength=0.9, **place)


def heatmap(axes, panel, found, span):
    """The number of observations in each bucket over time."""
    ordered = sorted(found, key=lambda one: float(one.labels["le"].replace("+Inf", "inf")))
    bounds = [float(one.labels["le"].replace("+Inf", "inf")) for one in ordered]
    grid = array(sorted({t for one in found for t in one.times}))
    counts = vstack([nan_to_num(one.on_grid(grid)) for one in ordered])
    counts[1:] = diff(counts, axis=0)
    # A count below 0.5 is an artefact of extrapolation in Prometheus.
    counts[counts < 0.5] = nan
    rows = [n for n in range(len(bounds)) if not all(math.isnan(c) for c in counts[n]) and math.isfinite(bounds[n])]
    if not rows:
        return no_value(axes, panel)
    low, high = max(0, min(rows) - 1), min(max(rows) + 1, len(bounds) - 1)
    least = min(c for row in counts for c in row if not math.isnan(c))
    most = max(c for row in counts for c in row if not math.isnan(c))
    norm = LogNorm(least, max(most, least * 2))
    edges = list(range(low, high + 2))
    axes.pcolormesh([*grid, grid[-1] + (grid[1] - grid[0])], edges, counts[low : high + 1], cmap=HEAT, norm=norm)
    ticks = list(range(low, high + 1, max(1, (high - low) // 6)))
    axes.set_yticks([tick + 1 for tick in ticks], [format_value(bounds[tick], "s") for tick in ticks])
    time_axis(axes, span)
    note = f"up to {format_value(most)} in a cell"
    return axes.text(0.99, 0.97, note, ha="right", va="top", fontsize=7.5, color=FAINT, transform=axes.transAxes)


def text_panel(axes, panel, _found, _span):
    """A text, without Markdown."""
    hide_axes(axes)
    plain = re.sub(r"[*`]", "", panel["options"]["content"]).replace("\n", " ")
    room = int(axes.get_window_extent().width / axes.figure.dpi * 15)
    text = textwrap.fill(plain, room)
    axes.text(0.01, 0.9, text, ha="left", va="top", fontsize=8.5, color=INK, linespacing=1.4, transform=axes.transAxes)


def table(axes, panel, answers, _span):
    """The rows after the transformations of the panel, as many as fit."""
    hide_axes(axes)
    columns, rows = rows_of(panel, answers)
    inches = axes.get_window_extent().height / axes.figure.dpi
    room = max(1, int(inches / 0.24) - 1)
    shown = rows[:room] if len(rows) <= room else rows[: room - 1]
    overrides = {o["matcher"]["options"]: o["properties"] for o in panel["fieldConfig"]["overrides"]}
    sizes = [
        max([len(name), *(len(cell(row.get(name), overrides.get(name, []))[0]) for row in shown)]) + 2
        for name in columns
    ]
    left, line = 0.005, 1 / (room + 1)
    for name, size in zip(columns, sizes):
        axes.text(
            left, 1 - line / 2, name, va="center", fontsize=8, fontweight="bold", color=FAINT, transform=axes.transAxes
        )
        for n, row in enumerate(shown, 1):
            text, color = cell(row.get(name), overrides.get(name, []))
            axes.text(
                left, 1 - line * (n + 0.5), text, va="center", fontsize=8.5, color=color, transform=axes.transAxes
            )
        left += size / max(sum(sizes), 60)
    for n in range(1, len(shown) + 1):
        axes.axhline(1 - line * n, color=LINE, lw=0.5)
    axes.set_ylim(0, 1)
    if len(shown) < len(rows):
        more = f"and {len(rows) - len(shown)} more"
        axes.text(0.005, line / 2, more, va="center", fontsize=8, color=FAINT, transform=axes.transAxes)


def rows_of(panel, answers):
    """The result of the transformations `merge` and `organize`, sorted."""
    organize = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    names, order = organize["renameByName"], organize["indexByName"]
    single = len(panel["targets"]) == 1
    rows = []
    for target in panel["targets"]:
        value = "Value" if single else f"Value #{target['refId']}"
        for one in answers.get(target["refId"], {"series": []})["series"]:
            new = {**one["metric"], value: float(one["value"][1])}
            same = [r for r in rows if all(r[k] == new[k] for k in set(r) & set(new))]
            for row in same or [rows.append(new) or new]:
                row.update(new)
    columns = sorted((field for field in order if not organize["excludeByName"].get(field)), key=order.get)
    shown = [{names.get(field, field): row.get(field) for field in columns} for row in rows]
    for key in reversed(panel["options"]["sortBy"]):
        name, down = key["displayName"], key.get("desc", False)
        given, empty = ([r for r in shown if (r[name] is None) == none] for none in (False, True))
        shown = sorted(given, key=lambda row: row[name], reverse=down) + empty
    return [names.get(field, field) for field in columns], shown


def cell(value, override):
    """Text and colour of a cell."""
    properties = {p["id"]: p["value"] for p in override}
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", INK
    if isinstance(value, str):
        mapping = mapped(properties.get("mappings"), value)
        text = re.sub(r"memsensor-test-\d+-", "", value)
        return (text if len(text) < 76 else text[:75] + "…"), mapping[1] if mapping else INK
    color = step_color(properties["thresholds"]["steps"], value) if "thresholds" in properties else INK
    return format_value(value, properties.get("unit", "none"), properties.get("decimals")), color
