"""Fleet: which host is in trouble, and which says nothing."""

from grafana_foundation_sdk.builders.dashboard import Row

import frame
from panels import Column, Query, figure, graph, sheet

ANY = 'job=~"$job",instance=~"$instance"'
SCOPE = f'{ANY},scope="$scope"'
# How long a sensor may say nothing: several times what Prometheus waits between two scrapes.
SILENT = 90

RATE = "[$__rate_interval]"
LAST_SAMPLE = f"memsensor_last_sample_timestamp_seconds{{{ANY}}}"
# Of who was there at any time of the range, gone or not.
SAMPLE_AGE = f"time() - max by (instance) (max_over_time({LAST_SAMPLE}[$__range]))"
STALL = f"sum by (instance) (rate(memsensor_stall_seconds_total{{{ANY}}}{RATE}))"

TO_HOST = (
    "/d/memsensor-host?var-instance=${__value.raw}&var-scope=$scope"
    "&${datasource:queryparam}&${job:queryparam}&${runbooks:queryparam}&${__url_time_range}"
)
LINKS = {
    "host": [
        ("What is wrong with ${__value.raw}", TO_HOST),
        ("What happened on ${__value.raw}", TO_HOST.replace("memsensor-host", "memsensor-incident")),
    ]
}


def build():
    """The dashboard."""
    about = "Which host is in trouble: the verdict, what stalls, what runs out, what was killed, who is silent."
    board = frame.hosts(frame.dashboard("fleet", about, "now-1h"), many=True)
    board = frame.runbooks(frame.scope(board, ANY))
    for panel in figures():
        board.with_panel(panel)
    board.with_row(Row("Hosts")).with_panel(hosts()).with_panel(silent()).with_panel(reasons())
    board.with_row(Row("When it began"))
    for panel in graphs():
        board.with_panel(panel)
    return board


def figures():
    """The fleet in one line."""
    state = f"memsensor_state{{{SCOPE}"
    bad = [(None, "green"), (1, "red")]
    yield figure(
        "Sensors that answer",
        "Targets of the chosen jobs that Prometheus could scrape just now.",
        Query(f"sum(up{{{ANY}}})"),
        "none",
        decimals=0,
    )
    yield figure(
        "Silent",
        f"Sensors that were there within the time range and have had no sample for {SILENT} s: the host is frozen, "
        "gone, or cut off. The table below tells what each said last.",
        Query(f"count({SAMPLE_AGE} > {SILENT})"),
        "none",
        nothing="none",
        steps=bad,
        decimals=0,
        runbook="MemsensorSilent MemsensorHostUnrecoverable MemsensorFleetSilent",
    )
    yield figure(
        "Overloaded",
        "Scopes without any weight because users suffer there; one that an operator drained is not counted.",
        Query(f'sum({state},state="overloaded"}})'),
        "none",
        steps=bad,
        decimals=0,
        runbook="MemsensorHostOverloaded",
    )
    yield figure(
        "Degraded",
        "Scopes that get less traffic than usual.",
        Query(f'sum({state},state="degraded"}})'),
        "none",
        steps=[(None, "green"), (1, "yellow")],
        decimals=0,
    )
    yield figure(
        "Drained, unknown or stale",
        "Scopes of which the verdict is not the sensor's own: drained by an operator, or not to be judged.",
        Query(f'sum({state},state=~"drained|unknown|stale|starting"}})'),
        "none",
        steps=[(None, "green"), (1, "blue")],
        decimals=0,
        runbook="MemsensorUnknown",
    )
    yield figure(
        "OOM kills",
        "Processes that the kernel killed for lack of memory within the time range, of machines and of cgroups.",
        Query(f"sum(increase(memsensor_oom_kills_total{{{ANY}}}[$__range]))"),
        "none",
        steps=bad,
        decimals=0,
        runbook="MemsensorHostOomKill MemsensorCgroupOomKill MemsensorOomKillsRepeated",
    )


def hosts():
    """One row a host, the worst first."""
    ratio = f"memsensor_memory_available_bytes{{{SCOPE}}} / memsensor_memory_total_bytes{{{SCOPE}}}"
    columns = [
        Column("host", label="instance", width=180),
        Column("state", f"max by (instance, state) (memsensor_state{{{SCOPE}}} == 1)", label="state", width=110),
        Column(
            "weight",
            f"min by (instance) (memsensor_weight_ratio{{{SCOPE}}})",
            "percentunit",
            0,
            ((None, "red"), (0.01, "orange"), (1, "green")),
        ),
        Column("reasons", f"count by (instance) (memsensor_verdict_reason{{{SCOPE}}} == 1)", "none", 0),
        Column("stalled", STALL, "percentunit", 1, ((None, "green"), (0.1, "orange"), (1, "red"))),
        Column(
            "all waited",
            f"max by (instance) (rate(memsensor_memory_full_seconds_total{{{SCOPE}}}{RATE}))",
            "percentunit",
            1,
            ((None, "green"), (0.05, "orange"), (0.2, "red")),
        ),
        Column(
            "available",
            f"min by (instance) ({ratio})",
            "percentunit",
            0,
            ((None, "red"), (0.05, "orange"), (0.1, "green")),
        ),
        Column(
            "full in",
            f"min by (instance) (memsensor_exhaustion_seconds{{{SCOPE}}})",
            "s",
            0,
            ((None, "red"), (120, "orange"), (600, "green")),
        ),
        Column(
            "kills",
            # Of who speaks: the others have a table of their own.
            f"sum by (instance) (increase(memsensor_oom_kills_total{{{ANY}}}[$__range]))"
            f" and on (instance) memsensor_weight_ratio{{{SCOPE}}}",
            "none",
            0,
            ((None, "text"), (1, "red")),
        ),
    ]
    about = (
        "The worst first; a click leads to the host, or to what happened on it. An empty cell was not measured: "
        "no forecast where there is no trend, no reasons where none speaks against traffic. `stalled` is the time "
        "of all tasks (of the whole host), above 100 % where several wait; `all waited` is PSI full."
    )
    return sheet(
        "Hosts, the worst first", about, columns, [("weight", False), ("stalled", True)], links=LINKS, height=10
    )


def silent():
    """Who says nothing, and what was last known of it."""
    last = f"last_over_time(memsensor_state{{{SCOPE}}}[$__range]) == 1"
    old = f"({SAMPLE_AGE} > {SILENT})"
    columns = [
        Column("host", label="instance"),
        Column("last sample", old, "s", 0, ((None, "red"),)),
        Column(
            "was",
            f"max by (instance, state) ({last}) and on (instance) {old}",
            label="state",
        ),
    ]
    about = (
        "Sensors seen within the time range whose last sample is old. One that was degraded or overloaded before it "
        "fell silent is most likely frozen; one that was ready may be cut off, or gone on purpose."
    )
    nothing = "every sensor of the time range speaks"
    return sheet(
        "Silent sensors",
        about,
        columns,
        [("last sample", True)],
        12,
        8,
        nothing,
        LINKS,
        runbook="MemsensorSilent MemsensorHostUnrecoverable MemsensorFleetSilent",
    )


def reasons():
    """Which rules speak, on how many hosts."""
    columns = [
        Column("rule", label="reason"),
        Column("hosts", f"count by (reason) (memsensor_verdict_reason{{{SCOPE}}} == 1)", "none", 0),
    ]
    about = "Rules that speak against full traffic now, and on how many hosts. `memsensor config rules` explains them."
    return sheet("Reasons", about, columns, [("hosts", True)], 12, 8, "no rule speaks against any host")


def graphs():
    """The worst ten over time."""
    yield graph(
        "Weight, the ten lowest",
        "Share of its usual traffic that a host should get, as balancers are told.",
        [Query(f"bottomk(10, min by (instance) (memsensor_weight_ratio{{{SCOPE}}}))", "{{instance}}")],
        "percentunit",
        most=1,
    )
    yield graph(
        "Stalled on memory, the top ten",
        "Time of all tasks in reclaim, throttling, compaction, per second: 100 % is one task that does nothing else.",
        [Query(f"topk(10, {STALL})", "{{instance}}")],
        "percentunit",
        steps=((None, "green"), (0.1, "orange")),
        runbook="MemsensorMemoryStallRising",
    )
    yield graph(
        "Hosts by state",
        "How many hosts are in each state: one that degrades at once has a common cause, and overloaded does not help.",
        [Query(f"sum by (state) (memsensor_state{{{SCOPE}}}) > 0", "{{state}}")],
        "none",
        stack=True,
        states=True,
        decimals=0,
        runbook="MemsensorFleetPressure",
    )
    yield graph(
        "OOM kills",
        "Processes killed by the kernel, by host.",
        [
            Query(
                f"topk(10, sum by (instance) (increase(memsensor_oom_kills_total{{{ANY}}}{RATE})) > 0)", "{{instance}}"
            )
        ],
        "none",
        nothing="no kill in this time",
        bars=True,
        decimals=0,
        runbook="MemsensorHostOomKill MemsensorCgroupOomKill MemsensorOomKillsRepeated",
    )
