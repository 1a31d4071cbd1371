"""Kills, growing processes and cgroups: rows of the host dashboard, and panels of the incident dashboard."""

from panels import Column, Query, graph_panel, table_panel
from queries import CGROUP, HOST, RATE, quantiles, rate


def kills():
    """OOM kills, SIGKILLs from user space, and growing processes."""
    yield graph_panel(
        "OOM kills",
        "Kills by the kernel: the machine was out of memory (global), or a cgroup was at its limit (memcg). Exemplars "
        "contain the event id: on the host, `memsensor event ID` shows the victim, the trigger and the report.",
        [
            Query(
                f"sum by (type) (increase(memsensor_oom_kills_total{{{HOST}}}{RATE})) > 0",
                "{{type}}",
                exemplars=True,
            )
        ],
        "none",
        8,
        no_value="no kill in this time range",
        bars=True,
        decimals=0,
        runbook="MemsensorHostOomKill MemsensorCgroupOomKill MemsensorOomKillsRepeated",
    )
    yield graph_panel(
        "SIGKILL from user space",
        "By the thread name of the sender: earlyoom, systemd-oomd, the kubelet, others. Any process can choose its "
        "name.",
        [Query(f"sum by (sender) (increase(memsensor_kill_signals_total{{{HOST}}}{RATE})) > 0", "{{sender}}")],
        "none",
        8,
        no_value="no SIGKILL in this time range",
        runbook="MemsensorUserSpaceKill",
        bars=True,
        decimals=0,
    )
    yield graph_panel(
        "Time until the victim's memory is freed",
        "From an OOM kill until the memory was freed. A victim that hangs keeps its memory.",
        quantiles("memsensor_oom_victim_exit_seconds"),
        "s",
        8,
        no_value="no victim in this time range",
        points=True,
    )
    yield growing(24)


def growing(span):
    """The processes that grow fastest."""
    return graph_panel(
        "Growing processes",
        "Growth of private memory, of the processes that grew most within a minute. On the host, `memsensor top --by "
        "minute` shows all processes.",
        [Query(f"memsensor_process_growth_bytes_per_second{{{HOST}}}", "{{comm}} ({{cgroup}})")],
        "Bps",
        span,
        no_value="no process grows",
        min=None,
        log=True,
        points=True,
    )


def groups():
    """The largest and the most stalled cgroups."""
    yield cgroup_table()
    top = [
        (
            "Memory, top ten",
            "memsensor_cgroup_memory_bytes",
            "bytes",
            "Memory usage, including child cgroups.",
            None,
        ),
        (
            "Stalled, top ten",
            f"sum by (cgroup) ({rate('memsensor_cgroup_stall_seconds_total', CGROUP)})",
            "percentunit",
            "Time of its tasks in reclaim, throttling and compaction, per second. Absent if zero.",
            "no cgroup was stalled",
        ),
        (
            "All tasks wait, top ten",
            rate("memsensor_cgroup_memory_full_seconds_total", CGROUP),
            "percentunit",
            "PSI full. Absent if zero, or if cgroups have no PSI.",
            "no cgroup waited",
        ),
        (
            "Refaulted, top ten",
            rate("memsensor_cgroup_refaulted_bytes_total", CGROUP),
            "Bps",
            "Evicted memory that was read again. Absent if zero.",
            "no refaults",
        ),
    ]
    for title, expr, unit, description, no_value in top:
        expr = expr if "{" in expr else f"{expr}{{{CGROUP}}}"
        query = Query(f"topk(10, {expr})", "{{cgroup}}")
        yield graph_panel(title, description, [query], unit, no_value=no_value or "no cgroup has its own metrics")
    yield slowest()


def slowest():
    """The duration of reclaim in cgroups."""
    buckets = f"sum by (cgroup, kind, le) ({rate('memsensor_cgroup_reclaim_seconds_bucket', CGROUP)})"
    return graph_panel(
        "Reclaim duration in cgroups, 99th percentile, top ten",
        "Reclaim by tasks of the cgroup because the machine was short of memory (direct), or because the cgroup was at "
        "its limit (memcg). Only for cgroups in `[cgroups] histograms`, which is empty by default.",
        [Query(f"topk(10, histogram_quantile(0.99, {buckets}) > 0)", "{{cgroup}} ({{kind}})")],
        "s",
        24,
        no_value="no reclaim in a cgroup of [cgroups] histograms",
        points=True,
        log=True,
        min=None,
    )


def cgroup_table():
    """One row per cgroup, the largest first."""

    def latest(metric):
        return f"max by (cgroup) (memsensor_cgroup_{metric}{{{CGROUP}}})"

    def total(metric):
        return f"sum by (cgroup) (rate(memsensor_cgroup_{metric}_total{{{CGROUP}}}{RATE}))"

    def count(metric):
        # Not increase(): it is 0 for a counter that starts with its first event.
        return f"max by (cgroup) (max_over_time(memsensor_cgroup_{metric}_total{{{CGROUP}}}[$__range]))"

    red_above_0 = ((None, "text"), (1, "red"))
    columns = [
        Column("cgroup", label="cgroup", width=340),
        Column("memory", latest("memory_bytes"), "bytes", 1),
        Column("limit", latest("memory_limit_bytes"), "bytes", 1),
        Column("swap", latest("swap_bytes"), "bytes", 1),
        Column("some wait (PSI)", total("memory_some_seconds"), "percentunit", 1),
        Column("all wait (PSI)", total("memory_full_seconds"), "percentunit", 1, ((None, "text"), (0.05, "orange"))),
        Column("stalled", total("stall_seconds"), "percentunit", 1, ((None, "text"), (0.1, "orange"))),
        Column("limit hits", count("limit_hits"), "none", 0),
        Column("kills", count("oom_kills"), "none", 0, red_above_0),
        Column("unit", f"max by (cgroup, unit, pod) (memsensor_cgroup_info{{{CGROUP}}})", label="unit"),
        Column("pod", label="pod"),
    ]
    description = (
        "The largest cgroups that match `[cgroups] paths` in the sensor's configuration; `other` is the sum of the "
        "rest. Limit hits and kills are counted since the sensor first saw the cgroup. An empty cell: no limit, or a "
        "count of zero. Rates need two scrapes."
    )
    return table_panel(
        "Cgroups, the largest first", description, columns, [("memory", True)], no_value="no cgroup has its own metrics"
    )
