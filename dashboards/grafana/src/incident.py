"""Incident: what happened on one host, in one time range, for the postmortem."""

import culprits
import frame
from ask import CGROUP, HOST, RATE, SCOPE, rate
from frame import Annotation
from host import REASONS, STATE
from panels import Column, Query, graph, sheet, timeline, words

ANNOTATIONS = [
    Annotation(
        "less traffic",
        "yellow",
        f'memsensor_state{{{SCOPE},state="degraded"}} == 1',
        "{{scope}} is degraded",
        "{{instance}}: balancers were told to send less",
    ),
    Annotation(
        "no traffic",
        "red",
        f'memsensor_state{{{SCOPE},state=~"overloaded|stale"}} == 1',
        "{{scope}} is {{state}}",
        "{{instance}}: balancers were told to send nothing",
    ),
    Annotation(
        "drained by an operator",
        "blue",
        f"memsensor_drained{{{HOST}}} == 1",
        "drained by an operator",
        "{{instance}}: see `memsensor explain` and the log of the daemon for who and why",
    ),
    Annotation(
        "changes of the state",
        "purple",
        f"increase(memsensor_state_transitions_total{{{SCOPE}}}{RATE}) > 0",
        "{{scope}}: {{from}} to {{to}}",
        "{{instance}}",
    ),
    Annotation(
        "OOM kills",
        "dark-red",
        f"increase(memsensor_oom_kills_total{{{HOST}}}{RATE}) > 0",
        "OOM kill ({{scope}})",
        "{{instance}}: the exemplar on the graph of kills has the id of the last one",
    ),
    Annotation(
        "SIGKILL by a killer",
        "orange",
        f'increase(memsensor_kill_signals_total{{{HOST},sender!="other"}}{RATE}) > 0',
        "killed by {{sender}}",
        "{{instance}}",
    ),
]

HOW_TO_READ = """\
**1.** Set the time range to what users noticed, and some minutes before. **2.** *Who took it* names what grew before
the state changed. **3.** Hover over *OOM kills* for the id of an event; on the host, `memsensor event ID` shows the
victim, the trigger, the cgroups' limits and what had grown (`GET /api/v1/events?id=ID` is the same as JSON). The
daemon forgets its events when it restarts: save them first. **4.** What is not drawn was not measured; gaps in every
line are a host that did not answer."""


def build():
    """The dashboard."""
    about = "What happened on one host: state, reasons, stalls, kills and who grew, on one time line."
    board = frame.hosts(frame.dashboard("incident", about, "now-30m"), many=False)
    board = frame.runbooks(frame.cgroups(frame.scope(board, HOST), HOST))
    for annotation in ANNOTATIONS:
        board.annotation(annotation)
    for panel in [*story(), *tables()]:
        board.with_panel(panel)
    return board


def story():
    """One time line, from what users were told to what the kernel did."""
    yield words("How to read this", HOW_TO_READ)
    yield timeline(
        "What balancers were told",
        "The state of the scope; a gap is a time without a scrape.",
        [STATE],
        24,
        4,
        states=True,
    )
    yield timeline("Why", "Rules that spoke against full traffic.", [REASONS], 24, 7, "no rule spoke in this time")
    yield graph(
        "Weight",
        "Share of its usual traffic that the scope should get.",
        [Query(f"memsensor_weight_ratio{{{SCOPE}}}", "weight")],
        "percentunit",
        24,
        5,
        most=1,
        fill=20,
    )
    yield graph(
        "Tasks wait for memory",
        "PSI of the scope: share of the time. And the stalls of all tasks of the host, per second.",
        [
            Query(rate("memsensor_memory_some_seconds_total", SCOPE), "some wait (PSI)"),
            Query(rate("memsensor_memory_full_seconds_total", SCOPE), "all wait (PSI)"),
            Query(f"sum({rate('memsensor_stall_seconds_total')})", "stalled, all tasks of the host"),
        ],
        "percentunit",
        24,
        7,
    )
    yield graph(
        "What is left",
        "Available to the scope, and free swap.",
        [
            Query(f"memsensor_memory_available_bytes{{{SCOPE}}}", "available"),
            Query(f"memsensor_memory_unused_bytes{{{SCOPE}}}", "unused"),
            Query(f"memsensor_swap_free_bytes{{{SCOPE}}}", "free swap"),
        ],
        "bytes",
    )
    yield graph(
        "Read again",
        "What was evicted and needed again, and what came back from swap: what users wait for.",
        [
            Query(rate("memsensor_refaulted_bytes_total", SCOPE), "refaulted"),
            Query(rate("memsensor_swapped_in_bytes_total", SCOPE), "swapped in"),
        ],
        "Bps",
    )
    yield graph(
        "Who took it: processes",
        "The few that grew most within a minute.",
        [Query(f"memsensor_process_growth_bytes_per_second{{{HOST}}}", "{{comm}} ({{cgroup}})")],
        "Bps",
        nothing="no process grew",
        least=None,
        log=True,
        points=True,
    )
    yield graph(
        "Who took it: cgroups",
        "What the ten largest have.",
        [Query(f"topk(10, memsensor_cgroup_memory_bytes{{{CGROUP}}})", "{{cgroup}}")],
        "bytes",
        nothing="no cgroup has metrics of its own",
    )
    yield from list(culprits.kills())[:2]
    yield graph(
        "Killed, by cgroup",
        "OOM kills of the cgroup's processes. A cgroup's first kill has no rate: the table below has all of them.",
        [
            Query(
                f"topk(10, sum by (cgroup) (increase(memsensor_cgroup_oom_kills_total{{{CGROUP}}}{RATE})) > 0)",
                "{{cgroup}}",
            )
        ],
        "none",
        8,
        nothing="no kill in this time",
        bars=True,
        decimals=0,
    )


def tables():
    """What it comes to, at the end of the time range."""

    def most(metric):
        return f"max by (cgroup) (max_over_time(memsensor_cgroup_{metric}{{{CGROUP}}}[$__range]))"

    yield sheet(
        "Cgroups: the most that each had, and its kills since it is watched",
        "Those that grew large, were stalled or lost processes within the time range. An empty cell: none.",
        [
            Column("cgroup", label="cgroup", width=340),
            Column("most memory", most("memory_bytes"), "bytes", 1),
            Column("limit", most("memory_limit_bytes"), "bytes", 1),
            Column(
                "stalled",
                f"sum by (cgroup) (increase(memsensor_cgroup_stall_seconds_total{{{CGROUP}}}[$__range]))",
                "s",
                1,
            ),
            Column("kills", most("oom_kills_total"), "none", 0, ((None, "text"), (1, "red"))),
        ],
        [("kills", True), ("most memory", True)],
        16,
        nothing="no cgroup has metrics of its own",
    )
    transitions = f"sum by (from, to) (increase(memsensor_state_transitions_total{{{SCOPE}}}[$__range])) > 0"
    yield sheet(
        "Changes of the state",
        "How often the scope went from one state to another. Many: it flaps, and each relapse makes it wait longer.",
        [
            Column("from", label="from"),
            Column("to", label="to"),
            Column("times", transitions, "none", 0),
        ],
        [("times", True)],
        8,
        nothing="the state did not change",
    )
