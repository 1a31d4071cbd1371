"""Host: what is wrong with one host, and which cgroup or process it is."""

from grafana_foundation_sdk.builders.dashboard import Row

import culprits
import frame
from ask import HOST, RATE, SCOPE, quantiles, rate
from panels import Query, figure, graph, heat, state_code, timeline

# Rules that spoke at some time of the range; the others would be empty lines.
SPOKE = f"and (max_over_time(memsensor_verdict_reason{{{SCOPE}}}[$__range] @ end()) > 0)"
REASONS = Query(f"memsensor_verdict_reason{{{SCOPE}}} {SPOKE}", "{{reason}}")
STATE = Query(state_code(SCOPE), "{{scope}}")


def build():
    """The dashboard."""
    about = "What is wrong with one host: verdict, pressure, reclaim, memory, kills, and who it was."
    board = frame.hosts(frame.dashboard("host", about, "now-1h"), many=False)
    board = frame.runbooks(frame.cgroups(frame.scope(board, HOST), HOST))
    for title, panels in rows():
        board.with_row(Row(title))
        for panel in panels():
            board.with_panel(panel)
    return board


def rows():
    """The rows, from what is felt to who it was."""
    yield "Verdict", verdict
    yield "Pressure", pressure
    yield "How long tasks were held up by reclaim", latency
    yield "How hard the kernel has to look", reclaim
    yield "What is left", memory
    yield "The kernel at work", helpers
    yield "Kills, and who grew", culprits.kills
    yield "Cgroups", culprits.groups


def verdict():
    """What balancers are told, and why."""
    ratio = f"memsensor_memory_available_bytes{{{SCOPE}}} / memsensor_memory_total_bytes{{{SCOPE}}}"
    no_trend = "no trend"
    yield figure("State", "What balancers are told of the scope.", STATE, "none", states=True)
    yield figure(
        "Weight",
        "Share of its usual traffic that the scope should get.",
        Query(f"memsensor_weight_ratio{{{SCOPE}}}"),
        "percentunit",
        steps=[(None, "red"), (0.01, "orange"), (1, "green")],
        decimals=0,
    )
    yield figure(
        "Available",
        "Memory that can be had without swapping, of what the scope may use.",
        Query(ratio),
        "percentunit",
        steps=[(None, "red"), (0.05, "orange"), (0.1, "green")],
        decimals=1,
        graph=True,
    )
    yield figure(
        "Memory and swap gone in",
        "If the trend holds. Without a trend there is no forecast, and no value here.",
        Query(f"memsensor_exhaustion_seconds{{{SCOPE}}}"),
        "s",
        nothing=no_trend,
        runbook="MemsensorExhaustionForecast",
        steps=[(None, "red"), (120, "orange"), (600, "green")],
    )
    yield figure(
        "OOM kills",
        "Within the time range, of the machine and of cgroups.",
        Query(f"sum(increase(memsensor_oom_kills_total{{{HOST}}}[$__range]))"),
        "none",
        steps=[(None, "green"), (1, "red")],
        decimals=0,
        runbook="MemsensorHostOomKill MemsensorCgroupOomKill MemsensorOomKillsRepeated",
    )
    yield figure(
        "Last sample",
        "How old the numbers of this host are. Seconds are normal; a minute is a host that hangs.",
        Query(f"time() - memsensor_last_sample_timestamp_seconds{{{HOST}}}"),
        "s",
        steps=[(None, "green"), (30, "red")],
        decimals=0,
        runbook="MemsensorStale",
    )
    yield timeline(
        "State over time",
        "What balancers were told.",
        [STATE],
        12,
        7,
        states=True,
        runbook="MemsensorHostOverloaded MemsensorFlapping",
    )
    yield timeline(
        "Reasons",
        "Rules that spoke against full traffic. `memsensor explain` on the host has their numbers and thresholds.",
        [REASONS],
        12,
        7,
        "no rule spoke in this time",
    )


def pressure():
    """Who waits for memory, and for how long."""
    psi = [("memory_some", "some task waits"), ("memory_full", "all wait"), ("io_full", "all wait for I/O")]
    yield graph(
        "PSI of the scope",
        "Share of the time in which tasks waited for memory (some, full) or for I/O (full). "
        "Absent where the kernel has no PSI.",
        [Query(rate(f"memsensor_{name}_seconds_total", SCOPE), legend) for name, legend in psi],
        "percentunit",
        soft_most=0.1,
    )
    yield graph(
        "Stalled on memory, by cause",
        "Time of all tasks of the host, per second; causes exclude each other. 100 % is one task that does nothing "
        "else. Waits for swap and refaults are not among it.",
        [Query(f"sum by (cause) ({rate('memsensor_stall_seconds_total')})", "{{cause}}")],
        "percentunit",
        stack=True,
        soft_most=0.1,
        runbook="MemsensorMemoryStallRising",
    )
    yield graph(
        "Tasks inside reclaim",
        "How many, at the moment of the scrape: direct (the machine is short) or memcg (a cgroup is at its limit).",
        [Query(f"memsensor_reclaiming_tasks{{{HOST}}}", "{{kind}}")],
        "none",
        decimals=0,
    )
    yield graph(
        "Refaulted and swapped",
        "Memory of the scope that was evicted and needed again, read from swap, written to swap. Refaults and "
        "swapping in are harm; swapping out alone need not be.",
        [
            Query(rate("memsensor_refaulted_bytes_total", SCOPE), "refaulted"),
            Query(rate("memsensor_swapped_in_bytes_total", SCOPE), "swapped in"),
            Query(rate("memsensor_swapped_out_bytes_total", SCOPE), "swapped out"),
        ],
        "Bps",
        runbook="MemsensorThrashingWithoutKill",
    )


def latency():
    """How long tasks were held up, per entry."""
    kinds = [("direct", "direct reclaim: the machine is short"), ("memcg", "memcg reclaim: a cgroup is at its limit")]
    for kind, name in kinds:
        metric = f"memsensor_{kind}_reclaim_seconds"
        buckets = f"sum by (le) (increase({metric}_bucket{{{HOST}}}{RATE}))"
        what = (
            "How long a task was held up each time, and how many were. Bounds of the buckets are powers of four "
            "seconds, of two with fine `buckets`."
        )
        yield heat(f"Entries into {name}", what, buckets)
    for kind, name in kinds:
        yield graph(
            f"Slowest {kind} reclaim",
            f"Of {name}: half of the entries were faster than the one, 99 of 100 than the other. "
            "A quantile of no entries is none: gaps are calm.",
            quantiles(f"memsensor_{kind}_reclaim_seconds"),
            "s",
            8,
            nothing="nobody was held up",
        )
    yield graph(
        "Freed by those who wait",
        "Pages that direct and memcg reclaim freed, per second.",
        [
            Query(rate("memsensor_direct_reclaim_pages_total"), "direct"),
            Query(rate("memsensor_memcg_reclaim_pages_total"), "memcg"),
            Query(rate("memsensor_softlimit_reclaim_pages_total"), "soft limit (v1)"),
        ],
        "pps",
        8,
    )


def reclaim():
    """How hard the kernel has to look for a page."""
    stolen, scanned = (
        f"sum by (by) ({rate(f'memsensor_reclaim_{what}_pages_total')})" for what in ("stolen", "scanned")
    )
    yield graph(
        "Efficiency",
        "Pages freed of those looked at, by who looked. Low is thrash: what is found is in use. No line: calm.",
        [Query(f"{stolen} / ({scanned} > 0)", "{{by}}")],
        "percentunit",
        8,
        nothing="nobody had to look for pages",
        most=1,
    )
    yield graph(
        "Pages looked at",
        "By reclaim on the inactive lists, per second.",
        [Query(scanned, "{{by}}")],
        "pps",
        8,
        stack=True,
    )
    yield graph(
        "Scan priority",
        "The lowest within the sensor's window: 12 is calm, at 0 an OOM kill is near. Stays at 12 where there is "
        "nothing to scan.",
        [Query(f"memsensor_reclaim_priority_min{{{HOST}}}", "lowest")],
        "none",
        8,
        most=12,
        decimals=0,
    )
    yield graph(
        "Allocations in trouble",
        "Retries of the allocator per second, rounds of reclaim without progress (above 16 the OOM killer is "
        "called), and allocations that failed.",
        [
            Query(rate("memsensor_alloc_retries_total"), "retries/s"),
            Query(f"memsensor_alloc_no_progress_loops_max{{{HOST}}}", "rounds without progress"),
        ],
        "none",
    )
    yield graph(
        "Failed allocations",
        "Allocations that the kernel gave up on, per second. Absent where the kernel has no kprobes.",
        [Query(rate("memsensor_alloc_failures_total"), "failed/s")],
        "none",
    )


def memory():
    """What is left, and for how long."""
    yield graph(
        "What is left",
        "Of the scope. Unused is memory that nothing uses, not even page cache.",
        [
            Query(f"memsensor_memory_total_bytes{{{SCOPE}}}", "may use"),
            Query(f"memsensor_memory_available_bytes{{{SCOPE}}}", "available"),
            Query(f"memsensor_memory_unused_bytes{{{SCOPE}}}", "unused"),
            Query(f"memsensor_swap_free_bytes{{{SCOPE}}}", "free swap"),
        ],
        "bytes",
        8,
    )
    yield graph(
        "Above the low watermark",
        "Free memory of the host above the watermark at which kswapd wakes; below 0 it works.",
        [Query(f"memsensor_above_low_watermark_bytes{{{HOST}}}", "above low")],
        "bytes",
        8,
        least=None,
        steps=((None, "red"), (0, "green")),
    )
    yield graph(
        "Memory and swap gone in",
        "If the trend holds; no line where there is no trend.",
        [Query(f"memsensor_exhaustion_seconds{{{SCOPE}}}", "{{scope}}")],
        "s",
        8,
        nothing="no trend: it does not run out",
        steps=((None, "red"), (120, "green")),
        points=True,
    )


def helpers():
    """kswapd, throttling, compaction."""
    yield graph(
        "kswapd",
        "Share of the time that it was awake, per node. All of the time: it cannot keep up.",
        [Query(rate("memsensor_kswapd_active_seconds_total"), "node {{node}}")],
        "percentunit",
        6,
        most=1,
    )
    yield graph(
        "kswapd is woken",
        "Times per second that it started to reclaim, per node.",
        [Query(rate("memsensor_kswapd_wakeups_total"), "node {{node}}")],
        "none",
        6,
    )
    yield graph(
        "Put to sleep",
        "Time that reclaim put its callers to sleep, per second, by reason, and (pfmemalloc) because the reserves "
        "were nearly gone. Absent where the kernel lets nobody trace it.",
        [
            Query(f"sum by (reason) ({rate('memsensor_reclaim_throttle_seconds_total')})", "{{reason}}"),
            Query(rate("memsensor_pfmemalloc_throttle_seconds_total"), "pfmemalloc"),
        ],
        "percentunit",
        6,
        stack=True,
    )
    yield graph(
        "Compaction",
        "Direct compactions per second, by how they ended.",
        [Query(f"sum by (result) ({rate('memsensor_compaction_results_total')}) > 0", "{{result}}")],
        "none",
        6,
        nothing="no direct compaction in this time",
        stack=True,
    )
    yield graph(
        "Slowest compaction",
        "How long tasks were held up by direct compaction of a zone.",
        quantiles("memsensor_compaction_stall_seconds"),
        "s",
        nothing="no direct compaction in this time",
    )
    yield graph(
        "Slowest soft-limit reclaim",
        "Of memcg v1 only, and already part of direct reclaim or kswapd.",
        quantiles("memsensor_softlimit_reclaim_seconds"),
        "s",
        nothing="no soft-limit reclaim in this time",
    )
