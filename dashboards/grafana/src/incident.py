"""Incident: one host in one time range, for a postmortem."""

import layout
import workloads
from host import REASONS, STATE
from layout import Annotation
from panels import Column, Query, graph_panel, table_panel, text_panel, timeline_panel
from queries import CGROUP, HOST, RATE, SCOPE, rate

ANNOTATIONS = [
    Annotation(
        "degraded",
        "yellow",
        f'memsensor_state{{{SCOPE},state="degraded"}} == 1',
        "{{scope}} is degraded",
        "{{instance}}: load balancers were asked to send less traffic",
    ),
    Annotation(
        "overloaded or stale",
        "red",
        f'memsensor_state{{{SCOPE},state=~"overloaded|stale"}} == 1',
        "{{scope}} is {{state}}",
        "{{instance}}: load balancers were asked to send no new traffic",
    ),
    Annotation(
        "drained by an operator",
        "blue",
        f"memsensor_drained{{{HOST}}} == 1",
        "drained by an operator",
        "{{instance}}: `memsensor explain` and the log of the daemon show the operator's reason",
    ),
    Annotation(
        "state changes",
        "purple",
        f"increase(memsensor_state_transitions_total{{{SCOPE}}}{RATE}) > 0",
        "{{scope}}: {{from}} to {{to}}",
        "{{instance}}",
    ),
    Annotation(
        "OOM kills",
        "dark-red",
        f"increase(memsensor_oom_kills_total{{{HOST}}}{RATE}) > 0",
        "OOM kill ({{type}})",
        "{{instance}}: the exemplar in the graph of OOM kills contains the event id",
    ),
    Annotation(
        "SIGKILL from user space",
        "orange",
        f'increase(memsensor_kill_signals_total{{{HOST},sender!="other"}}{RATE}) > 0',
        "killed by {{sender}}",
        "{{instance}}",
    ),
]

HOW_TO_READ = """\
**1.** Set the time range to the incident as users noticed it, and some minutes before. **2.** *Growing processes* and
*Largest cgroups* show what grew before the state changed. **3.** Hover over *OOM kills* for the id of an event. On the
host, `memsensor event ID` shows the victim, the trigger, the limits of the cgroups and the processes that had grown
(`GET /api/v1/events?id=ID` returns the same as JSON). The daemon keeps events only until it restarts: save them first.
**4.** A metric without a line was not measured. A gap in all lines: the host did not respond."""


def build():
    """The dashboard."""
    description = "One host in one time range: state, reasons, stalls, kills and growing processes."
    board = layout.hosts(layout.dashboard("incident", description, "now-30m"), many=False)
    board = layout.runbooks(layout.cgroups(layout.scope(board, HOST), HOST))
    for annotation in ANNOTATIONS:
        board.annotation(annotation)
    for panel in [*time_series(), *tables()]:
        board.with_panel(panel)
    return board


def time_series():
    """Over time, from the state for load balancers to the kills."""
    yield text_panel("How to read this", HOW_TO_READ)
    yield timeline_panel(
        "State",
        "The state of the scope, as reported to load balancers. A gap: no scrape.",
        [STATE],
        24,
        4,
        states=True,
    )
    yield timeline_panel(
        "Reasons", "Active rules of the verdict.", [REASONS], 24, 7, "no active rule in this time range"
    )
    yield graph_panel(
        "Weight",
        "Share of its usual traffic that the scope should get.",
        [Query(f"memsensor_weight_ratio{{{SCOPE}}}", "weight")],
        "percentunit",
        24,
        5,
        max=1,
        fill=20,
    )
    yield graph_panel(
        "Waiting for memory",
        "PSI of the scope (share of the time), and the stall time of all tasks of the host, per second.",
        [
            Query(rate("memsensor_memory_some_seconds_total", SCOPE), "PSI some"),
            Query(rate("memsensor_memory_full_seconds_total", SCOPE), "PSI full"),
            Query(f"sum({rate('memsensor_stall_seconds_total')})", "stalled, all tasks of the host"),
        ],
        "percentunit",
        24,
        7,
    )
    yield graph_panel(
        "Memory and swap",
        "Available and unused memory of the scope, and free swap.",
        [
            Query(f"memsensor_memory_available_bytes{{{SCOPE}}}", "available"),
            Query(f"memsensor_memory_unused_bytes{{{SCOPE}}}", "unused"),
            Query(f"memsensor_swap_free_bytes{{{SCOPE}}}", "free swap"),
        ],
        "bytes",
    )
    yield graph_panel(
        "Refaulted and swapped in",
        "Evicted memory that was read again, and memory that was read from swap. Tasks wait for both.",
        [
            Query(rate("memsensor_refaulted_bytes_total", SCOPE), "refaulted"),
            Query(rate("memsensor_swapped_in_bytes_total", SCOPE), "swapped in"),
        ],
        "Bps",
    )
    yield graph_panel(
        "Growing processes",
        "The processes that grew most within a minute.",
        [Query(f"memsensor_process_growth_bytes_per_second{{{HOST}}}", "{{comm}} ({{cgroup}})")],
        "Bps",
        no_value="no process grew",
        min=None,
        log=True,
        points=True,
    )
    yield graph_panel(
        "Largest cgroups",
        "Memory usage of the ten largest cgroups.",
        [Query(f"topk(10, memsensor_cgroup_memory_bytes{{{CGROUP}}})", "{{cgroup}}")],
        "bytes",
        no_value="no cgroup has its own metrics",
    )
    yield from list(workloads.kills())[:2]
    yield graph_panel(
        "OOM kills by cgroup",
        "Killed processes of the cgroup. The first kill of a cgroup is missing here, because a new counter has no "
        "rate. The table below includes it.",
        [
            Query(
                f"topk(10, sum by (cgroup) (increase(memsensor_cgroup_oom_kills_total{{{CGROUP}}}{RATE})) > 0)",
                "{{cgroup}}",
            )
        ],
        "none",
        8,
        no_value="no kill in this time range",
        bars=True,
        decimals=0,
    )


def tables():
    """Totals at the end of the time range."""

    def maximum(metric):
        return f"max by (cgroup) (max_over_time(memsensor_cgroup_{metric}{{{CGROUP}}}[$__range]))"

    yield table_panel(
        "Cgroups: maximum memory, stalls and kills",
        "Maximum memory and stall time are of the time range. Kills are counted since the sensor first saw the cgroup."
        " An empty cell: zero.",
        [
            Column("cgroup", label="cgroup", width=340),
            Column("max memory", maximum("memory_bytes"), "bytes", 1),
            Column("limit", maximum("memory_limit_bytes"), "bytes", 1),
            Column(
                "stalled",
                f"sum by (cgroup) (increase(memsensor_cgroup_stall_seconds_total{{{CGROUP}}}[$__range]))",
                "s",
                1,
            ),
            Column("kills", maximum("oom_kills_total"), "none", 0, ((None, "text"), (1, "red"))),
        ],
        [("kills", True), ("max memory", True)],
        16,
        no_value="no cgroup has its own metrics",
    )
    transitions = f"sum by (from, to) (increase(memsensor_state_transitions_total{{{SCOPE}}}[$__range])) > 0"
    yield table_panel(
        "State changes",
        "Number of changes from one state to another. With many changes the scope flaps, and each relapse makes it "
        "wait longer before it gets traffic.",
        [
            Column("from", label="from"),
            Column("to", label="to"),
            Column("times", transitions, "none", 0),
        ],
        [("times", True)],
        8,
        no_value="the state did not change",
    )
