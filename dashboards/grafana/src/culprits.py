"""Who was killed, by whom, and who took the memory: rows of the dashboard of a host, and parts of an incident."""

from ask import CGROUP, HOST, RATE, quantiles, rate
from panels import Column, Query, graph, sheet


def kills():
    """Who was killed, by whom, and who took the memory."""
    yield graph(
        "OOM kills",
        "By the kernel: of the machine (global) or of a cgroup (memcg). Exemplars carry the event's id: "
        "`memsensor event ID` on the host shows victim, trigger and circumstances.",
        [
            Query(
                f"sum by (scope) (increase(memsensor_oom_kills_total{{{HOST}}}{RATE})) > 0",
                "{{scope}}",
                exemplars=True,
            )
        ],
        "none",
        8,
        nothing="no kill in this time",
        bars=True,
        decimals=0,
        runbook="MemsensorHostOomKill MemsensorCgroupOomKill MemsensorOomKillsRepeated",
    )
    yield graph(
        "SIGKILL from user space",
        "By the thread name of the sender (which anybody may choose): earlyoom, systemd-oomd, the kubelet, others.",
        [Query(f"sum by (sender) (increase(memsensor_kill_signals_total{{{HOST}}}{RATE})) > 0", "{{sender}}")],
        "none",
        8,
        nothing="no SIGKILL in this time",
        runbook="MemsensorUserSpaceKill",
        bars=True,
        decimals=0,
    )
    yield graph(
        "Until a victim's memory is back",
        "From an OOM kill until the memory was given back; a victim that hangs keeps it.",
        quantiles("memsensor_oom_victim_exit_seconds"),
        "s",
        8,
        nothing="no victim in this time",
        points=True,
    )
    yield growing(24)


def growing(span):
    """Who takes memory."""
    return graph(
        "Growing processes",
        "How fast the few processes that grew most within a minute took memory of their own. "
        "`memsensor top --by minute` on the host has all of them.",
        [Query(f"memsensor_process_growth_bytes_per_second{{{HOST}}}", "{{comm}} ({{cgroup}})")],
        "Bps",
        span,
        nothing="no process grows",
        least=None,
        log=True,
        points=True,
    )


def groups():
    """The largest, the most stalled, the killed."""
    yield cgroup_table()
    top = [
        (
            "Memory, the top ten",
            "memsensor_cgroup_memory_bytes",
            "bytes",
            "What each has, those below it included.",
            None,
        ),
        (
            "Stalled, the top ten",
            f"sum by (cgroup) ({rate('memsensor_cgroup_stall_seconds_total', CGROUP)})",
            "percentunit",
            "Time of its tasks in reclaim, throttling and compaction, per second. Absent if none.",
            "no cgroup was stalled",
        ),
        (
            "All tasks wait, the top ten",
            rate("memsensor_cgroup_memory_full_seconds_total", CGROUP),
            "percentunit",
            "PSI full of each. Absent if none, or where cgroups have no PSI.",
            "no cgroup waited",
        ),
        (
            "Refaulted, the top ten",
            rate("memsensor_cgroup_refaulted_bytes_total", CGROUP),
            "Bps",
            "What was evicted and had to be read again. Absent if nothing.",
            "nothing was read again",
        ),
    ]
    for title, expr, unit, about, nothing in top:
        expr = expr if "{" in expr else f"{expr}{{{CGROUP}}}"
        query = Query(f"topk(10, {expr})", "{{cgroup}}")
        yield graph(title, about, [query], unit, nothing=nothing or "no cgroup has metrics of its own")
    yield slowest()


def slowest():
    """How long reclaim held up the tasks of a cgroup."""
    slow = f"sum by (cgroup, kind, le) ({rate('memsensor_cgroup_reclaim_seconds_bucket', CGROUP)})"
    return graph(
        "Slowest reclaim of a cgroup, the top ten",
        "99 % of the entries of its tasks into reclaim took less: because the machine was short (direct), or the "
        "cgroup was at its limit (memcg). Only of cgroups that `[cgroups] histograms` names, which is none by default.",
        [Query(f"topk(10, histogram_quantile(0.99, {slow}) > 0)", "{{cgroup}} ({{kind}})")],
        "s",
        24,
        nothing="no cgroup that [cgroups] histograms names was held up",
        points=True,
        log=True,
        least=None,
    )


def cgroup_table():
    """One row a cgroup, the largest first."""

    def latest(metric):
        return f"max by (cgroup) (memsensor_cgroup_{metric}{{{CGROUP}}})"

    def total(metric):
        return f"sum by (cgroup) (rate(memsensor_cgroup_{metric}_total{{{CGROUP}}}{RATE}))"

    def count(metric):
        # Not increase(): a counter appears with its first event, and would show none for it.
        return f"max by (cgroup) (max_over_time(memsensor_cgroup_{metric}_total{{{CGROUP}}}[$__range]))"

    some = ((None, "text"), (1, "red"))
    columns = [
        Column("cgroup", label="cgroup", width=340),
        Column("memory", latest("memory_bytes"), "bytes", 1),
        Column("limit", latest("memory_limit_bytes"), "bytes", 1),
        Column("swap", latest("swap_bytes"), "bytes", 1),
        Column("some waited", total("memory_some_seconds"), "percentunit", 1),
        Column("all waited", total("memory_full_seconds"), "percentunit", 1, ((None, "text"), (0.05, "orange"))),
        Column("stalled", total("stall_seconds"), "percentunit", 1, ((None, "text"), (0.1, "orange"))),
        Column("limit hit", count("limit_hits"), "none", 0),
        Column("kills", count("oom_kills"), "none", 0, some),
        Column("unit", f"max by (cgroup, unit, pod) (memsensor_cgroup_info{{{CGROUP}}})", label="unit"),
        Column("pod", label="pod"),
    ]
    about = (
        "Those that `[cgroups] paths` of the sensor's configuration names, the largest of them; `other` is the sum of "
        "the rest. Limit hits and kills are those since the cgroup was made and the sensor watches it. An empty cell: no "
        "limit, or nothing to count. A cgroup younger than two scrapes has no rates."
    )
    return sheet(
        "Cgroups, the largest first", about, columns, [("memory", True)], nothing="no cgroup has metrics of its own"
    )
