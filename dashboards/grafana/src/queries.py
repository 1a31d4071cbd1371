"""Label selectors and common query forms of the panels of one host."""

from panels import Query

HOST = 'job=~"$job",instance="$instance"'
SCOPE = f'{HOST},scope="$scope"'
CGROUP = f'{HOST},cgroup=~"$cgroup"'
RATE = "[$__rate_interval]"


def rate(metric, selector=HOST):
    """The increase of a counter per second."""
    return f"rate({metric}{{{selector}}}{RATE})"


def quantiles(metric):
    """The median and the 99th percentile of a histogram."""
    buckets = f"sum by (le) ({rate(metric + '_bucket')})"
    return [
        Query(f"histogram_quantile({q}, {buckets})", name) for q, name in ((0.5, "median"), (0.99, "99th percentile"))
    ]
