"""Which series the panels of one host ask for, and the few ways in which they ask."""

from panels import Query

HOST = 'job=~"$job",instance="$instance"'
SCOPE = f'{HOST},scope="$scope"'
CGROUP = f'{HOST},cgroup=~"$cgroup"'
RATE = "[$__rate_interval]"


def rate(metric, selector=HOST):
    """What a counter goes up by in a second."""
    return f"rate({metric}{{{selector}}}{RATE})"


def quantiles(metric):
    """How long most took, and the slowest hundredth."""
    buckets = f"sum by (le) ({rate(metric + '_bucket')})"
    return [Query(f"histogram_quantile({q}, {buckets})", name) for q, name in ((0.5, "half"), (0.99, "99 %"))]
