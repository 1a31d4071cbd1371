"""Pictures of the dashboards for the README: `draw.py ANSWERS DIRECTORY`.

Matplotlib draws them from the queries, units, thresholds and layout of the dashboards. The pictures state that Grafana
did not render them. ANSWERS contains the results of the queries, which `cargo xtask dashboards --pictures` runs in a
real Prometheus.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from PIL import Image

from paint import COLORS, FAINT, INK, Series, paint, to_date

WIDTH, UNIT, HEAD = 13.0, 0.32, 0.9
# The margins around the axes of a panel, in inches: left, right, top, bottom.
MARGINS = {
    "timeseries": (0.72, 0.15, 0.3, 0.62),
    "heatmap": (0.72, 0.15, 0.3, 0.3),
    "state-timeline": (1.35, 0.15, 0.34, 0.3),
    "stat": (0.1, 0.1, 0.3, 0.1),
    "table": (0.1, 0.1, 0.3, 0.1),
    "text": (0.1, 0.1, 0.3, 0.1),
}
CAPTION = """\
Drawn by cargo xtask dashboards --pictures from the queries of this dashboard, not by Grafana. A real Prometheus scraped
three sensors on one machine (metrics of the host are the same for each). On web-01 an agent leaks memory until it is
killed, several times, and an operator drains the host for a while. On web-03 processes are killed, then it freezes."""
PALETTE_SIZE = 250


def marks_of(board, answers):
    """The regions of the annotations: (start, end, colour)."""
    marks = []
    for annotation in board["annotations"].get("list", []):
        place = f"{board['uid'].removeprefix('memsensor-')} / annotation {annotation['name']}"
        color = COLORS.get(annotation["iconColor"], FAINT)
        for answer in answers.get(place, {}).get("", {"series": []})["series"]:
            one = Series(answer, "")
            marks += _regions(one, color)
    return marks


def _regions(one, color):
    """Joins consecutive times into regions."""
    step = 2.5 / 86400
    begin = end = None
    for time, value in zip(one.times, one.values):
        if value <= 0:
            continue
        if end is None or time - end > step:
            if end is not None:
                yield begin, end + step / 2, color
            begin = time
        end = time
    if end is not None:
        yield begin, end + step / 2, color


def draw(board, results, path):
    """Draws one dashboard."""
    panels = board["panels"]
    rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    height = rows * UNIT + HEAD
    page = plt.figure(figsize=(WIDTH, height), dpi=100, facecolor="#f4f5f7")
    page.text(0.008, 1 - 0.22 / height, board["title"], fontsize=13, fontweight="bold", color=INK, va="center")
    page.text(0.992, 1 - 0.36 / height, CAPTION, fontsize=7.5, color=FAINT, ha="right", va="center")
    span = (to_date(results["begun"]), to_date(results["ended"]))
    marks = marks_of(board, results["answers"])
    left = 0.1
    for annotation in board["annotations"]["list"]:
        name, color = annotation["name"], COLORS.get(annotation["iconColor"], FAINT)
        page.text(left / WIDTH, 1 - 0.75 / height, "■ " + name, fontsize=7.5, color=color, va="center")
        left += 0.07 * len(name) + 0.28
    for panel in panels:
        at = panel["gridPos"]
        left, top = at["x"] / 24 * WIDTH, HEAD + at["y"] * UNIT
        wide, high = at["w"] / 24 * WIDTH, at["h"] * UNIT
        if panel["type"] == "row":
            page.text(
                (left + 0.1) / WIDTH,
                1 - (top + high / 2) / height,
                panel["title"],
                fontsize=10.5,
                color=INK,
                va="center",
            )
            continue
        frame = ((left + 0.04) / WIDTH, 1 - (top + high - 0.04) / height, (wide - 0.08) / WIDTH, (high - 0.08) / height)
        page.add_artist(
            plt.Rectangle(
                frame[:2], *frame[2:], transform=page.transFigure, fc="white", ec="#e1e4e8", lw=0.8, zorder=-1
            )
        )
        margin_left, margin_right, margin_top, margin_bottom = MARGINS[panel["type"]]
        inner = [
            left + margin_left,
            height - top - high + margin_bottom,
            wide - margin_left - margin_right,
            high - margin_top - margin_bottom,
        ]
        axes = page.add_axes((inner[0] / WIDTH, inner[1] / height, inner[2] / WIDTH, inner[3] / height))
        paint(axes, panel, results["answers"].get(str(panel["id"]), {}), span, marks)
    page.savefig(path)
    plt.close(page)
    # A palette reduces the file to a third of its size.
    Image.open(path).convert("RGB").quantize(PALETTE_SIZE, dither=Image.Dither.NONE).save(path, optimize=True)


def main():
    """Draws all dashboards that have results."""
    answers, directory = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    sources = Path(__file__).resolve().parent.parent
    for name, results in answers.items():
        board = json.loads((sources / f"{name}.json").read_text(encoding="utf-8"))
        draw(board, results, directory / f"grafana-{name}.png")


if __name__ == "__main__":
    main()
