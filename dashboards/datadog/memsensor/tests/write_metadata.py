"""Updates the descriptions in metadata.csv from the table in docs/metrics.md: `write_metadata.py`.

Needed after a metric's HELP has changed. It does not add or remove metrics: a new metric also needs a type and a unit.
"""

import csv
import io

# conftest.py expects this package to be imported, as pytest's plugin does.
import datadog_checks.base  # noqa: F401
from test_names import ROOT, sent


def main():
    path = ROOT / 'metadata.csv'
    with open(path) as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    descriptions = sent()
    for row in rows:
        row['description'] = descriptions.get(row['metric_name'], row['description'])
    text = io.StringIO()
    writer = csv.DictWriter(text, reader.fieldnames, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())


if __name__ == '__main__':
    main()
