"""Writes the dashboards as JSON for import into Grafana: `generate.py [DIRECTORY]`.

The output is reproducible: panels are numbered in order.
"""

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

import fleet
import host
import incident
import sensor

DASHBOARDS = {"fleet": fleet, "host": host, "incident": incident, "sensor": sensor}


def main():
    """Writes each dashboard into the directory, by default the parent directory."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    for name, module in DASHBOARDS.items():
        board = module.build().build()
        for number, panel in enumerate(board.panels, 1):
            panel.id_val = number
        text = JSONEncoder(indent=1, ensure_ascii=False).encode(board)
        (directory / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
