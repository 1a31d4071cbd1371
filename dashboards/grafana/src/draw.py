"""Pictures of the dashboards for the README: `draw.py ANSWERS DIRECTORY`.

They are drawn from the dashboards' own queries, units, thresholds and places, by matplotlib and not by Grafana, and
say so. ANSWERS is what `cargo xtask dashboards --pictures` had a real Prometheus say.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from PIL import Image

from paint import COLORS, FAINT, INK, Series, paint, when

WIDTH, UNIT, HEAD = 13.0, 0.32, 0.9
# What stands around the axes of a panel, in inches: left, right, above, below.
ROOM = {
    "timeseries": (0.72, 0.15, 0.3, 0.62),
    "heatmap": (0.72, 0.15, 0.3, 0.3),
    "state-timeline": (1.35, 0.15, 0.34, 0.3),
    "stat": (0.1, 0.1, 0.3, 0.1),
    "table": (0.1, 0.1, 0.3, 0.1),
    "text": (0.1, 0.1, 0.3, 0.1),
}
SAYS = """\
Drawn from this dashboard's queries by cargo xtask dashboards --pictures, not by Grafana. A real Prometheus scraped
three sensors on one machine (what is not of a cgroup is the same for each): an agent leaks beside web-01's service
until it is killed, again and again; web-03 loses processes and freezes; an operator drains web-01 for a while."""
COLOURS = 250


def marks_of(board, answers):
    """Where annotations that last are: (begin, end, colour)."""
    marks = []
    for annotation in board["annotations"].get("list", []):
        place = f"{board['uid'].removeprefix('memsensor-')} / annotation {annotation['name']}"
        color = COLORS.get(annotation["iconColor"], FAINT)
        for answer in answers.get(place, {}).get("", {"series": []})["series"]:
            one = Series(answer, "")
            marks += _regions(one, color)
    return marks


def _regions(one, color):
    """Moments that follow each other are one region."""
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


def draw(board, told, path):
    """One dashboard."""
    panels = board["panels"]
    rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    height = rows * UNIT + HEAD
    page = plt.figure(figsize=(WIDTH, height), dpi=100, facecolor="#f4f5f7")
    page.text(0.008, 1 - 0.22 / height, board["title"], fontsize=13, fontweight="bold", color=INK, va="center")
    page.text(0.992, 1 - 0.36 / height, SAYS, fontsize=7.5, color=FAINT, ha="right", va="center")
    span = (when(told["begun"]), when(told["ended"]))
    marks = marks_of(board, told["answers"])
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
        before, after, above, below = ROOM[panel["type"]]
        inner = [left + before, height - top - high + below, wide - before - after, high - above - below]
        axes = page.add_axes((inner[0] / WIDTH, inner[1] / height, inner[2] / WIDTH, inner[3] / height))
        paint(axes, panel, told["answers"].get(str(panel["id"]), {}), span, marks)
    page.savefig(path)
    plt.close(page)
    # Few colours are used: a palette of them makes the file a third of the size.
    Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def main():
    """Draws all dashboards of which there are answers."""
    answers, into = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    here = Path(__file__).resolve().parent.parent
    for name, told in answers.items():
        board = json.loads((here / f"{name}.json").read_text(encoding="utf-8"))
        draw(board, told, into / f"grafana-{name}.png")


if __name__ == "__main__":
    main()
