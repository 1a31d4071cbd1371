"""Fleet: the hosts under memory pressure, and the silent hosts."""

from grafana_foundation_sdk.builders.dashboard import Row

import layout
from panels import Column, Query, graph_panel, stat_panel, table_panel

ANY = 'job=~"$job",instance=~"$instance"'
SCOPE = f'{ANY},scope="$scope"'
# A sensor without a sample for this long is silent: several scrape intervals.
SILENT_SECONDS = 90

RATE = "[$__rate_interval]"
LAST_SAMPLE = f"memsensor_last_sample_timestamp_seconds{{{ANY}}}"
# Of all hosts in the time range, also those that are gone.
SAMPLE_AGE = f"time() - max by (instance) (max_over_time({LAST_SAMPLE}[$__range]))"
STALL = f"sum by (instance) (rate(memsensor_stall_seconds_total{{{ANY}}}{RATE}))"

TO_HOST = (
    "/d/memsensor-host?var-instance=${__value.raw}&var-scope=$scope"
    "&${datasource:queryparam}&${job:queryparam}&${runbooks:queryparam}&${__url_time_range}"
)
LINKS = {
    "host": [
        ("Host ${__value.raw}", TO_HOST),
        ("Incident on ${__value.raw}", TO_HOST.replace("memsensor-host", "memsensor-incident")),
    ]
}


def build():
    """The dashboard."""
    description = "All hosts: verdict, stalls, memory exhaustion, OOM kills, silent sensors."
    board = layout.hosts(layout.dashboard("fleet", description, "now-1h"), many=True)
    board = layout.runbooks(layout.scope(board, ANY))
    for panel in summary():
        board.with_panel(panel)
    board.with_row(Row("Hosts")).with_panel(hosts()).with_panel(silent()).with_panel(reasons())
    board.with_row(Row("Over time"))
    for panel in graphs():
        board.with_panel(panel)
    return board


def summary():
    """The first row: single values for the fleet."""
    state = f"memsensor_state{{{SCOPE}"
    red_above_0 = [(None, "green"), (1, "red")]
    yield stat_panel(
        "Sensors that respond",
        "Targets of the selected jobs whose last scrape succeeded.",
        Query(f"sum(up{{{ANY}}})"),
        "none",
        decimals=0,
    )
    yield stat_panel(
        "Silent",
        f"Sensors that were seen in the time range and have had no sample for {SILENT_SECONDS} s: the host is frozen, "
        "removed or unreachable. The table below shows the last state of each.",
        Query(f"count({SAMPLE_AGE} > {SILENT_SECONDS})"),
        "none",
        no_value="none",
        thresholds=red_above_0,
        decimals=0,
        runbook="MemsensorSilent MemsensorHostUnrecoverable MemsensorFleetSilent",
    )
    yield stat_panel(
        "Overloaded",
        "Scopes with weight 0 because they are short of memory. Scopes that an operator has drained do not count.",
        Query(f'sum({state},state="overloaded"}})'),
        "none",
        thresholds=red_above_0,
        decimals=0,
        runbook="MemsensorHostOverloaded",
    )
    yield stat_panel(
        "Degraded",
        "Scopes with a reduced weight.",
        Query(f'sum({state},state="degraded"}})'),
        "none",
        thresholds=[(None, "green"), (1, "yellow")],
        decimals=0,
    )
    yield stat_panel(
        "Drained, unknown or stale",
        "Scopes without a current verdict: drained by an operator, not measured, or without a recent sample.",
        Query(f'sum({state},state=~"drained|unknown|stale|starting"}})'),
        "none",
        thresholds=[(None, "green"), (1, "blue")],
        decimals=0,
        runbook="MemsensorUnknown",
    )
    yield stat_panel(
        "OOM kills",
        "Processes that the OOM killer killed in the time range, of both types (global and memcg).",
        Query(f"sum(increase(memsensor_oom_kills_total{{{ANY}}}[$__range]))"),
        "none",
        thresholds=red_above_0,
        decimals=0,
        runbook="MemsensorHostOomKill MemsensorCgroupOomKill MemsensorOomKillsRepeated",
    )


def hosts():
    """One row per host, the worst first."""
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
            "all wait (PSI)",
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
            "exhausted in",
            f"min by (instance) (memsensor_exhaustion_seconds{{{SCOPE}}})",
            "s",
            0,
            ((None, "red"), (120, "orange"), (600, "green")),
        ),
        Column(
            "kills",
            # Only hosts that respond. Silent ones have their own table.
            f"sum by (instance) (increase(memsensor_oom_kills_total{{{ANY}}}[$__range]))"
            f" and on (instance) memsensor_weight_ratio{{{SCOPE}}}",
            "none",
            0,
            ((None, "text"), (1, "red")),
        ),
    ]
    description = (
        "A click on a host opens its host or incident dashboard. An empty cell was not measured: without a trend there "
        "is no forecast, without an active rule there are no reasons. `stalled` is the stall time of all tasks of the "
        "host, above 100 % if several tasks wait. `all wait (PSI)` is PSI full."
    )
    return table_panel(
        "Hosts, the worst first", description, columns, [("weight", False), ("stalled", True)], links=LINKS, height=10
    )


def silent():
    """Sensors without a recent sample, with their last state."""
    last = f"last_over_time(memsensor_state{{{SCOPE}}}[$__range]) == 1"
    silent_age = f"({SAMPLE_AGE} > {SILENT_SECONDS})"
    columns = [
        Column("host", label="instance"),
        Column("last sample", silent_age, "s", 0, ((None, "red"),)),
        Column(
            "last state",
            f"max by (instance, state) ({last}) and on (instance) {silent_age}",
            label="state",
        ),
    ]
    description = (
        "Sensors of the time range whose last sample is old. A host that was degraded or overloaded before is most "
        "likely frozen. A host that was ready may be unreachable or removed."
    )
    no_value = "all sensors of the time range respond"
    return table_panel(
        "Silent sensors",
        description,
        columns,
        [("last sample", True)],
        12,
        8,
        no_value,
        LINKS,
        runbook="MemsensorSilent MemsensorHostUnrecoverable MemsensorFleetSilent",
    )


def reasons():
    """Active rules, and the number of hosts."""
    columns = [
        Column("rule", label="reason"),
        Column("hosts", f"count by (reason) (memsensor_verdict_reason{{{SCOPE}}} == 1)", "none", 0),
    ]
    description = "Active rules of the verdict, and the number of hosts. `memsensor config rules` explains the rules."
    return table_panel("Reasons", description, columns, [("hosts", True)], 12, 8, "no active rule")


def graphs():
    """The ten worst hosts over time."""
    yield graph_panel(
        "Weight, ten lowest",
        "Share of its usual traffic that a host should get, as reported to load balancers.",
        [Query(f"bottomk(10, min by (instance) (memsensor_weight_ratio{{{SCOPE}}}))", "{{instance}}")],
        "percentunit",
        max=1,
    )
    yield graph_panel(
        "Stalled on memory, top ten",
        "Time of all tasks in reclaim, throttling and compaction, per second. 100 %: as if one task always waits.",
        [Query(f"topk(10, {STALL})", "{{instance}}")],
        "percentunit",
        thresholds=((None, "green"), (0.1, "orange")),
        runbook="MemsensorMemoryStallRising",
    )
    yield graph_panel(
        "Hosts by state",
        "Number of hosts in each state. If many degrade at the same time, the cause is common to them.",
        [Query(f"sum by (state) (memsensor_state{{{SCOPE}}}) > 0", "{{state}}")],
        "none",
        stack=True,
        states=True,
        decimals=0,
        runbook="MemsensorFleetPressure",
    )
    yield graph_panel(
        "OOM kills",
        "Processes killed by the OOM killer, by host.",
        [
            Query(
                f"topk(10, sum by (instance) (increase(memsensor_oom_kills_total{{{ANY}}}{RATE})) > 0)", "{{instance}}"
            )
        ],
        "none",
        no_value="no kill in this time range",
        bars=True,
        decimals=0,
        runbook="MemsensorHostOomKill MemsensorCgroupOomKill MemsensorOomKillsRepeated",
    )
