"""Sensor: memsensor itself. Its probes, losses, delays and costs."""

from grafana_foundation_sdk.builders.dashboard import Row

import layout
from fleet import ANY, RATE
from panels import Column, Query, graph_panel, stat_panel, table_panel


def rate(metric, by):
    """The increase of a counter per second, by labels."""
    return f"sum by ({by}) (rate({metric}{{{ANY}}}{RATE}))"


def build():
    """The dashboard."""
    description = "memsensor itself: probes, lost events, delays, memory and CPU time."
    board = layout.runbooks(layout.hosts(layout.dashboard("sensor", description, "now-6h"), many=True))
    for panel in summary():
        board.with_panel(panel)
    for title, panels in (("Probes and losses", coverage), ("Delays", delays), ("Memory and CPU time", costs)):
        board.with_row(Row(title))
        for panel in panels():
            board.with_panel(panel)
    return board


def summary():
    """The first row: single values for all sensors."""
    red_above_0 = [(None, "green"), (1, "red")]
    probes = f'memsensor_probe_info{{{ANY},state=~"missing|partial"}}'
    yield stat_panel("Sensors", "Sensors whose last scrape succeeded.", Query(f"sum(up{{{ANY}}})"), "none", decimals=0)
    yield stat_panel(
        "Probes not fully attached",
        "On all hosts, including probes whose event this kernel does not have. The table below shows the reasons.",
        Query(f"count({probes})"),
        "none",
        no_value="none",
        thresholds=[(None, "green"), (1, "yellow")],
        decimals=0,
        runbook="MemsensorProbeMissing",
    )
    yield stat_panel(
        "Events lost",
        "In the time range, for all reasons.",
        Query(f"sum(increase(memsensor_events_lost_total{{{ANY}}}[$__range]))"),
        "none",
        thresholds=red_above_0,
        decimals=0,
        runbook="MemsensorEventsLost",
    )
    yield stat_panel(
        "Deadlines missed",
        "In the time range: the sampling loop late by a sample, or the serving loop late by 50 ms.",
        Query(f"sum(increase(memsensor_deadline_misses_total{{{ANY}}}[$__range]))"),
        "none",
        runbook="MemsensorDeadlineMisses",
        thresholds=[(None, "green"), (1, "orange")],
        decimals=0,
    )
    yield stat_panel(
        "Oldest sample",
        "Age of the oldest last sample, of the sensors that respond.",
        Query(f"max(time() - memsensor_last_sample_timestamp_seconds{{{ANY}}})"),
        "s",
        thresholds=[(None, "green"), (30, "red")],
        decimals=1,
        runbook="MemsensorStale",
    )
    yield stat_panel(
        "Largest daemon",
        "Resident memory, all of it locked.",
        Query(f"max(process_resident_memory_bytes{{{ANY}}})"),
        "bytes",
        thresholds=[(None, "green"), (32 << 20, "orange")],
        decimals=1,
    )


def coverage():
    """Probes, lost events, cgroups without metrics."""
    yield table_panel(
        "Probes",
        "State of each probe with the reason, and the number of hosts. An event that this kernel does not have is not "
        "a fault.",
        [
            Column("probe", label="probe", width=160),
            Column("state of the probe", label="state", width=120),
            Column("hosts", f"count by (probe, state, reason) (memsensor_probe_info{{{ANY}}})", "none", 0, width=70),
            Column("reason", label="reason"),
        ],
        [("state of the probe", True), ("probe", False)],
        16,
        runbook="MemsensorProbeMissing",
    )
    yield table_panel(
        "Programs not attached",
        "Programs of a probe that are not attached to their kernel event, and the number of hosts.",
        [
            Column("probe", label="probe"),
            Column("program", label="program"),
            Column("hosts", f"count by (probe, program) (memsensor_probe_attached{{{ANY}}} == 0)", "none", 0, width=70),
        ],
        [("hosts", True)],
        8,
        no_value="all programs are attached",
    )
    yield graph_panel(
        "Lost events, by reason",
        "Events that the kernel programs could not store, per second. With `ring_full` and `victims_full`, `memsensor "
        "events` is incomplete; most other reasons make a stall appear shorter.",
        [Query(f"{rate('memsensor_events_lost_total', 'reason')} > 0", "{{reason}}")],
        "none",
        no_value="no event was lost",
        runbook="MemsensorEventsLost",
    )
    yield graph_panel(
        "Cgroups",
        "Created and removed cgroups per second. Omitted: cgroups with processes but without their own metrics.",
        [
            Query(f"sum(rate(memsensor_cgroups_created_total{{{ANY}}}{RATE}))", "created/s"),
            Query(f"sum(rate(memsensor_cgroups_removed_total{{{ANY}}}{RATE}))", "removed/s"),
            Query(f"sum(memsensor_cgroups_omitted{{{ANY}}})", "omitted"),
        ],
        "none",
        6,
    )
    yield graph_panel(
        "Requests for unknown scopes",
        "Per second. The configuration of a client is wrong.",
        [Query(f"topk(10, {rate('memsensor_unknown_scope_requests_total', 'instance')})", "{{instance}}")],
        "none",
        6,
    )


def delays():
    """Late samples, responses and scrapes."""
    yield graph_panel(
        "Deadlines missed, by loop",
        "Per second.",
        [Query(rate("memsensor_deadline_misses_total", "loop"), "{{loop}}")],
        "none",
        8,
    )
    yield graph_panel(
        "Longest delay, by loop",
        "The longest delay of a loop since the start of its daemon, of all hosts.",
        [Query(f"max by (loop) (memsensor_deadline_overrun_max_seconds{{{ANY}}})", "{{loop}}")],
        "s",
        8,
    )
    yield graph_panel(
        "Age of the last sample, ten oldest",
        "Of the daemons that respond. If the age grows under memory pressure, the host is probably frozen.",
        [Query(f"topk(10, time() - memsensor_last_sample_timestamp_seconds{{{ANY}}})", "{{instance}}")],
        "s",
        8,
    )
    yield graph_panel(
        "Scrape duration",
        "Rendering in the sensor, and the whole scrape as measured by Prometheus: the slowest host.",
        [
            Query(f"max(memsensor_scrape_seconds{{{ANY}}})", "rendering"),
            Query(f"max(scrape_duration_seconds{{{ANY}}})", "whole scrape"),
        ],
        "s",
        8,
    )
    yield graph_panel(
        "Series per scrape",
        "Prometheus stores these for each host. Most of the difference between hosts is cgroups and their histograms.",
        [
            Query(f"max(scrape_samples_scraped{{{ANY}}})", "maximum"),
            Query(f"avg(scrape_samples_scraped{{{ANY}}})", "mean"),
        ],
        "none",
        8,
        decimals=0,
    )
    yield graph_panel(
        "Connections, by outcome",
        "Per second, and the connections that are open or queued now. Refused, evicted or queued connections: a client "
        "opens more than its share.",
        [
            Query(rate("memsensor_connections_total", "listener, outcome"), "{{listener}} {{outcome}}/s"),
            Query(
                f"sum by (listener, state) (memsensor_current_connections{{{ANY}}})", "{{listener}} {{state}} now"
            ),
        ],
        "none",
        8,
    )
    yield graph_panel(
        "Dropped cgroup paths and log lines",
        "Paths of cgroups beyond the memory budget, and lines of the log that nothing read. Per second.",
        [
            Query(f"sum(rate(memsensor_dropped_cgroup_paths_total{{{ANY}}}{RATE}))", "paths/s"),
            Query(f"sum(rate(memsensor_log_lines_lost_total{{{ANY}}}{RATE}))", "log lines/s"),
        ],
        "none",
        6,
    )
    yield graph_panel(
        "Daemons that cannot read their BPF maps",
        "Their verdict comes from PSI alone, and counters of the probes keep their last values.",
        [Query(f"sum(1 - memsensor_bpf_maps_readable{{{ANY}}})", "daemons")],
        "none",
        6,
        decimals=0,
    )


def costs():
    """Memory and CPU time of the daemon and the kernel programs."""
    yield graph_panel(
        "Memory of the daemons, top ten",
        "Resident memory, all of it locked.",
        [Query(f"topk(10, process_resident_memory_bytes{{{ANY}}})", "{{instance}}")],
        "bytes",
        8,
    )
    yield graph_panel(
        "Locked address space",
        "More than the resident memory: later mappings are locked on first access.",
        [Query(f"max(memsensor_locked_memory_bytes{{{ANY}}})", "maximum")],
        "bytes",
        8,
    )
    yield graph_panel(
        "CPU time of the daemons, top ten",
        "100 % is one CPU. Under memory pressure the daemon takes ten samples per second.",
        [Query(f"topk(10, rate(process_cpu_seconds_total{{{ANY}}}{RATE}))", "{{instance}}")],
        "percentunit",
        8,
    )
    yield graph_panel(
        "Kernel memory of the maps",
        "The largest host. `memsensor probes` shows details.",
        [Query(f"max(memsensor_bpf_map_bytes{{{ANY}}})", "maps")],
        "bytes",
        8,
        stack=True,
    )
    no_stats = "BPF statistics are off (enable them with bpf_stats = true)"
    yield graph_panel(
        "Kernel programs: CPU time",
        "The ten programs with the most time, summed over all hosts. Only while BPF statistics are on; each run "
        "includes the two clock reads of the statistics.",
        [Query(f"topk(10, {rate('memsensor_bpf_run_seconds_total', 'program')})", "{{program}}")],
        "percentunit",
        8,
        no_value=no_stats,
    )
    seconds, runs = (rate(f"memsensor_bpf_{what}_total", "program") for what in ("run_seconds", "runs"))
    yield graph_panel(
        "Kernel programs: time per run",
        "Mean. Only while BPF statistics are on. No line: the program did not run.",
        [Query(f"{seconds} / ({runs} > 0)", "{{program}}")],
        "s",
        8,
        no_value=no_stats,
    )
    written, lost = (f"rate(memsensor_record_{what}_total{{{ANY}}}{RATE})" for what in ("written_bytes", "entries_lost"))
    yield graph_panel(
        "Records on disk: bytes written, top ten",
        "A calm host writes well under 1 kB a second. Around a change of state it is more.",
        [Query(f"topk(10, {written})", "{{instance}}")],
        "Bps",
        8,
        6,
    )
    age = f"memsensor_last_sample_timestamp_seconds{{{ANY}}} - memsensor_record_synced_timestamp_seconds{{{ANY}}}"
    yield graph_panel(
        "Records on disk: age, top ten",
        "Since everything before was on disk. More than half a minute: the disk hangs, or cannot be written.",
        [Query(f"topk(10, {age})", "{{instance}}")],
        "s",
        8,
        6,
    )
    yield graph_panel(
        "Records on disk: losses",
        "Hosts that cannot write their record, and entries lost per second by reason.",
        [
            Query(f"sum(1 - memsensor_record_writable{{{ANY}}})", "hosts that cannot write"),
            Query(f"sum by (reason) ({lost})", "lost: {{reason}}"),
        ],
        "none",
        8,
        6,
    )
    yield table_panel(
        "Versions",
        "Running versions, and the number of hosts.",
        [
            Column("version", label="version"),
            Column("revision", label="revision"),
            Column("hosts", f"count by (version, revision) (memsensor_build_info{{{ANY}}})", "none", 0),
        ],
        [("hosts", True)],
        12,
        6,
    )
    yield graph_panel(
        "File descriptors, top ten",
        "Open descriptors of the daemon: connections and cgroup files. The number should not grow.",
        [Query(f"topk(10, process_open_fds{{{ANY}}})", "{{instance}}")],
        "none",
        12,
        6,
        decimals=0,
    )
