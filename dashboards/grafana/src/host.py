"""Host: the memory pressure of one host, and the cgroups and processes that cause it."""

from grafana_foundation_sdk.builders.dashboard import Row

import layout
import workloads
from panels import Query, graph_panel, heatmap_panel, stat_panel, state_code, timeline_panel
from queries import HOST, RATE, SCOPE, quantiles, rate

# Only rules that were active in the time range. The others would be empty lines.
WAS_ACTIVE = f"and (max_over_time(memsensor_verdict_reason{{{SCOPE}}}[$__range] @ end()) > 0)"
REASONS = Query(f"memsensor_verdict_reason{{{SCOPE}}} {WAS_ACTIVE}", "{{reason}}")
STATE = Query(state_code(SCOPE), "{{scope}}")


def build():
    """The dashboard."""
    description = "One host: verdict, pressure, reclaim, memory, kills, processes and cgroups."
    board = layout.hosts(layout.dashboard("host", description, "now-1h"), many=False)
    board = layout.runbooks(layout.cgroups(layout.scope(board, HOST), HOST))
    for title, panels in rows():
        board.with_row(Row(title))
        for panel in panels():
            board.with_panel(panel)
    return board


def rows():
    """The rows, from the effect to the cause."""
    yield "Verdict", verdict
    yield "Pressure", pressure
    yield "Reclaim latency", latency
    yield "Reclaim efficiency", reclaim
    yield "Available memory", memory
    yield "kswapd, throttling, compaction", background
    yield "Kills and growing processes", workloads.kills
    yield "Cgroups", workloads.groups


def verdict():
    """The state and weight for load balancers, with the reasons."""
    ratio = f"memsensor_memory_available_bytes{{{SCOPE}}} / memsensor_memory_total_bytes{{{SCOPE}}}"
    no_trend = "no trend"
    yield stat_panel("State", "The state of the scope, as reported to load balancers.", STATE, "none", states=True)
    yield stat_panel(
        "Weight",
        "Share of its usual traffic that the scope should get.",
        Query(f"memsensor_weight_ratio{{{SCOPE}}}"),
        "percentunit",
        thresholds=[(None, "red"), (0.01, "orange"), (1, "green")],
        decimals=0,
    )
    yield stat_panel(
        "Available",
        "Share of the scope's memory that is available without swapping.",
        Query(ratio),
        "percentunit",
        thresholds=[(None, "red"), (0.05, "orange"), (0.1, "green")],
        decimals=1,
        graph=True,
    )
    yield stat_panel(
        "Memory and swap exhausted in",
        "If the trend continues. Without a trend there is no forecast.",
        Query(f"memsensor_exhaustion_seconds{{{SCOPE}}}"),
        "s",
        no_value=no_trend,
        runbook="MemsensorExhaustionForecast",
        thresholds=[(None, "red"), (120, "orange"), (600, "green")],
    )
    yield stat_panel(
        "OOM kills",
        "In the time range, of both types (global and memcg).",
        Query(f"sum(increase(memsensor_oom_kills_total{{{HOST}}}[$__range]))"),
        "none",
        thresholds=[(None, "green"), (1, "red")],
        decimals=0,
        runbook="MemsensorHostOomKill MemsensorCgroupOomKill MemsensorOomKillsRepeated",
    )
    yield stat_panel(
        "Last sample",
        "Age of the last sample. A few seconds are normal; after a minute the host probably hangs.",
        Query(f"time() - memsensor_last_sample_timestamp_seconds{{{HOST}}}"),
        "s",
        thresholds=[(None, "green"), (30, "red")],
        decimals=0,
        runbook="MemsensorStale",
    )
    yield timeline_panel(
        "State over time",
        "The state of the scope, as reported to load balancers.",
        [STATE],
        12,
        7,
        states=True,
        runbook="MemsensorHostOverloaded MemsensorFlapping",
    )
    yield timeline_panel(
        "Reasons",
        "Active rules of the verdict. On the host, `memsensor explain` shows their values and thresholds.",
        [REASONS],
        12,
        7,
        "no active rule in this time range",
    )


def pressure():
    """Waiting for memory: PSI and stalls."""
    psi = [("memory_some", "memory, some"), ("memory_full", "memory, full"), ("io_full", "I/O, full")]
    yield graph_panel(
        "PSI of the scope",
        "Share of the time in which some task, or all tasks (full), waited for memory or I/O. "
        "Absent if the kernel has no PSI. What cgroups at their own limits caused does not count for the host.",
        [
            *(Query(rate(f"memsensor_{name}_seconds_total", SCOPE), legend) for name, legend in psi),
            Query(rate("memsensor_limit_stall_seconds_total"), "memory, some: cgroups at their own limits"),
        ],
        "percentunit",
        soft_max=0.1,
    )
    yield graph_panel(
        "Stalled on memory, by cause",
        "Stall time of all tasks of the host, per second. The causes are exclusive. 100 %: as if one task always "
        "waits. Waits for swap-in and refaults are not included.",
        [Query(f"sum by (cause) ({rate('memsensor_stall_seconds_total')})", "{{cause}}")],
        "percentunit",
        stack=True,
        soft_max=0.1,
        runbook="MemsensorMemoryStallRising",
    )
    yield graph_panel(
        "Tasks in reclaim",
        "At the time of the scrape: direct (the machine is short of memory) or memcg (a cgroup is at its limit).",
        [Query(f"memsensor_reclaiming_tasks{{{HOST}}}", "{{kind}}")],
        "none",
        decimals=0,
    )
    yield graph_panel(
        "Refaulted and swapped",
        "Memory of the scope that was evicted and read again, read from swap, or written to swap. Refaults and swap-in "
        "slow tasks down; swap-out alone may not.",
        [
            Query(rate("memsensor_refaulted_bytes_total", SCOPE), "refaulted"),
            Query(rate("memsensor_swapped_in_bytes_total", SCOPE), "swapped in"),
            Query(rate("memsensor_swapped_out_bytes_total", SCOPE), "swapped out"),
        ],
        "Bps",
        runbook="MemsensorThrashingWithoutKill",
    )


def latency():
    """The duration of each reclaim."""
    kinds = [
        ("direct", "direct reclaim (the machine is short of memory)"),
        ("memcg", "memcg reclaim (a cgroup is at its limit)"),
    ]
    for kind, name in kinds:
        metric = f"memsensor_{kind}_reclaim_seconds"
        buckets = f"sum by (le) (increase({metric}_bucket{{{HOST}}}{RATE}))"
        description = (
            "Number of reclaims by duration. The bounds of the buckets are powers of four seconds, or powers of two "
            "with "
            '`buckets = "fine"`.'
        )
        yield heatmap_panel(f"Duration of {name}", description, buckets)
    for kind, name in kinds:
        yield graph_panel(
            f"Slowest {kind} reclaim",
            f"Median and 99th percentile of {name}. Without a reclaim there is no value: a gap means no reclaim.",
            quantiles(f"memsensor_{kind}_reclaim_seconds"),
            "s",
            8,
            no_value="no reclaim in this time range",
        )
    yield graph_panel(
        "Pages freed by waiting tasks",
        "Pages freed by direct and memcg reclaim, per second.",
        [
            Query(rate("memsensor_direct_reclaim_pages_total"), "direct"),
            Query(rate("memsensor_memcg_reclaim_pages_total"), "memcg"),
            Query(rate("memsensor_softlimit_reclaim_pages_total"), "soft limit (v1)"),
        ],
        "pps",
        8,
    )


def reclaim():
    """Pages scanned and freed, and allocations that fail."""
    stolen, scanned = (
        f"sum by (by) ({rate(f'memsensor_reclaim_{what}_pages_total')})" for what in ("stolen", "scanned")
    )
    yield graph_panel(
        "Reclaim efficiency",
        "Freed pages divided by scanned pages, by reclaimer. A low value indicates thrashing: most scanned pages are "
        "in use. No line: no scan.",
        [Query(f"{stolen} / ({scanned} > 0)", "{{by}}")],
        "percentunit",
        8,
        no_value="no page was scanned",
        max=1,
    )
    yield graph_panel(
        "Scanned pages",
        "On the inactive lists, per second.",
        [Query(scanned, "{{by}}")],
        "pps",
        8,
        stack=True,
    )
    yield graph_panel(
        "Scan priority",
        "The lowest priority in the sensor's window: 12 is normal, 0 is close to an OOM kill. Stays at 12 if there is "
        "nothing to scan.",
        [Query(f"memsensor_reclaim_priority_min{{{HOST}}}", "lowest")],
        "none",
        8,
        max=12,
        decimals=0,
    )
    yield graph_panel(
        "Allocation retries",
        "Retries of the allocator per second, and rounds of reclaim without progress (above 16 the kernel calls the "
        "OOM killer).",
        [
            Query(rate("memsensor_alloc_retries_total"), "retries/s"),
            Query(f"memsensor_alloc_no_progress_loops_max{{{HOST}}}", "rounds without progress"),
        ],
        "none",
    )
    yield graph_panel(
        "Failed allocations",
        "Allocations that failed, per second. Absent if the kernel has no kprobes.",
        [Query(rate("memsensor_alloc_failures_total"), "failed/s")],
        "none",
    )


def memory():
    """Available memory, and the forecast."""
    yield graph_panel(
        "Memory and swap",
        "Of the scope. Unused memory is not even used by page cache.",
        [
            Query(f"memsensor_memory_total_bytes{{{SCOPE}}}", "total"),
            Query(f"memsensor_memory_available_bytes{{{SCOPE}}}", "available"),
            Query(f"memsensor_memory_unused_bytes{{{SCOPE}}}", "unused"),
            Query(f"memsensor_swap_free_bytes{{{SCOPE}}}", "free swap"),
        ],
        "bytes",
        8,
    )
    yield graph_panel(
        "Above the low watermark",
        "Free memory of the host above the low watermark, which wakes kswapd. Below 0 kswapd reclaims.",
        [Query(f"memsensor_above_low_watermark_bytes{{{HOST}}}", "above low")],
        "bytes",
        8,
        min=None,
        thresholds=((None, "red"), (0, "green")),
    )
    yield graph_panel(
        "Memory and swap exhausted in",
        "If the trend continues. No line: no trend.",
        [Query(f"memsensor_exhaustion_seconds{{{SCOPE}}}", "{{scope}}")],
        "s",
        8,
        no_value="no trend towards exhaustion",
        thresholds=((None, "red"), (120, "green")),
        points=True,
    )


def background():
    """kswapd, throttling, compaction, soft limits."""
    yield graph_panel(
        "kswapd",
        "Share of the time that kswapd was active, per node. At 100 % it cannot keep up.",
        [Query(rate("memsensor_kswapd_active_seconds_total"), "node {{node}}")],
        "percentunit",
        6,
        max=1,
    )
    yield graph_panel(
        "kswapd wakeups",
        "Number of times per second that kswapd started to reclaim, per node.",
        [Query(rate("memsensor_kswapd_wakeups_total"), "node {{node}}")],
        "none",
        6,
    )
    yield graph_panel(
        "Throttling",
        "Time that reclaim throttled tasks, per second, by reason; pfmemalloc: because the reserves were nearly used "
        "up. Absent if the kernel does not allow the probe.",
        [
            Query(f"sum by (reason) ({rate('memsensor_reclaim_throttle_seconds_total')})", "{{reason}}"),
            Query(rate("memsensor_pfmemalloc_throttle_seconds_total"), "pfmemalloc"),
        ],
        "percentunit",
        6,
        stack=True,
    )
    yield graph_panel(
        "Compaction",
        "Direct compactions per second, by result.",
        [Query(f"sum by (result) ({rate('memsensor_compaction_results_total')}) > 0", "{{result}}")],
        "none",
        6,
        no_value="no direct compaction in this time range",
        stack=True,
    )
    yield graph_panel(
        "Slowest compaction",
        "Duration of direct compaction of a zone.",
        quantiles("memsensor_compaction_stall_seconds"),
        "s",
        no_value="no direct compaction in this time range",
    )
    yield graph_panel(
        "Slowest soft-limit reclaim",
        "Only with cgroup v1. This time is also part of direct reclaim or kswapd.",
        quantiles("memsensor_softlimit_reclaim_seconds"),
        "s",
        no_value="no soft-limit reclaim in this time range",
    )
