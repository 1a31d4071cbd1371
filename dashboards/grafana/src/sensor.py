"""Sensor: memsensor itself. What it sees and why not more, what it lost, and what it costs."""

from grafana_foundation_sdk.builders.dashboard import Row

import frame
from fleet import ANY, RATE
from panels import Column, Query, figure, graph, sheet


def rate(metric, by):
    """What a counter goes up by in a second, by some labels."""
    return f"sum by ({by}) (rate({metric}{{{ANY}}}{RATE}))"


def build():
    """The dashboard."""
    about = "memsensor itself: what is attached and why not more, what was lost, whether it is on time, what it costs."
    board = frame.runbooks(frame.hosts(frame.dashboard("sensor", about, "now-6h"), many=True))
    for panel in figures():
        board.with_panel(panel)
    for title, panels in (("What it sees", sight), ("Is it on time", punctual), ("What it costs", costs)):
        board.with_row(Row(title))
        for panel in panels():
            board.with_panel(panel)
    return board


def figures():
    """All sensors in one line."""
    bad = [(None, "green"), (1, "red")]
    probes = f'memsensor_probe_info{{{ANY},state=~"missing|partial"}}'
    yield figure("Sensors", "That answered the last scrape.", Query(f"sum(up{{{ANY}}})"), "none", decimals=0)
    yield figure(
        "Probes not fully attached",
        "On all hosts, also those that a kernel simply has not got; the table tells why.",
        Query(f"count({probes})"),
        "none",
        nothing="none",
        steps=[(None, "green"), (1, "yellow")],
        decimals=0,
        runbook="MemsensorProbeMissing",
    )
    yield figure(
        "Events lost",
        "Within the time range, all reasons.",
        Query(f"sum(increase(memsensor_events_lost_total{{{ANY}}}[$__range]))"),
        "none",
        steps=bad,
        decimals=0,
        runbook="MemsensorEventsLost",
    )
    yield figure(
        "Deadlines missed",
        "Within the time range: samples that came a sample too late, answers that came 50 ms too late.",
        Query(f"sum(increase(memsensor_deadline_misses_total{{{ANY}}}[$__range]))"),
        "none",
        runbook="MemsensorDeadlineMisses",
        steps=[(None, "green"), (1, "orange")],
        decimals=0,
    )
    yield figure(
        "Oldest sample",
        "Of sensors that answer.",
        Query(f"max(time() - memsensor_last_sample_timestamp_seconds{{{ANY}}})"),
        "s",
        steps=[(None, "green"), (30, "red")],
        decimals=1,
        runbook="MemsensorStale",
    )
    yield figure(
        "Largest in memory",
        "Of the daemons, all of it locked.",
        Query(f"max(process_resident_memory_bytes{{{ANY}}})"),
        "bytes",
        steps=[(None, "green"), (32 << 20, "orange")],
        decimals=1,
    )


def sight():
    """Probes, and what got lost."""
    yield sheet(
        "Probes",
        "How far each got, on how many hosts, and why no further. What a kernel has not got is no fault.",
        [
            Column("probe", label="probe", width=160),
            Column("is", label="state", width=90),
            Column("hosts", f"count by (probe, state, reason) (memsensor_probe_info{{{ANY}}})", "none", 0, width=70),
            Column("because", label="reason"),
        ],
        [("is", True), ("probe", False)],
        16,
        runbook="MemsensorProbeMissing",
    )
    yield sheet(
        "Programs not attached",
        "Programs of a probe that hang on no kernel event, and on how many hosts.",
        [
            Column("probe", label="probe"),
            Column("program", label="program"),
            Column("hosts", f"count by (probe, program) (memsensor_probe_attached{{{ANY}}} == 0)", "none", 0, width=70),
        ],
        [("hosts", True)],
        8,
        nothing="all are attached",
    )
    yield graph(
        "Lost, by reason",
        "What the kernel half could not keep, per second. `ring_full` and `victims_full` are gaps in the record of "
        "kills; most others make a stall shorter than it was.",
        [Query(f"{rate('memsensor_events_lost_total', 'reason')} > 0", "{{reason}}")],
        "none",
        nothing="nothing was lost",
        runbook="MemsensorEventsLost",
    )
    yield graph(
        "Cgroups",
        "Made and removed per second; omitted are those that have processes and no metrics of their own.",
        [
            Query(f"sum(rate(memsensor_cgroups_created_total{{{ANY}}}{RATE}))", "made/s"),
            Query(f"sum(rate(memsensor_cgroups_removed_total{{{ANY}}}{RATE}))", "removed/s"),
            Query(f"sum(memsensor_cgroups_omitted{{{ANY}}})", "omitted"),
        ],
        "none",
        6,
    )
    yield graph(
        "Unknown scopes asked for",
        "Questions about scopes that there are not, per second: somebody's configuration is wrong.",
        [Query(f"topk(10, {rate('memsensor_unknown_scope_requests_total', 'instance')})", "{{instance}}")],
        "none",
        6,
    )


def punctual():
    """Samples, answers, scrapes."""
    yield graph(
        "Deadlines missed, by loop",
        "Per second.",
        [Query(rate("memsensor_deadline_misses_total", "loop"), "{{loop}}")],
        "none",
        8,
    )
    yield graph(
        "Latest ever, by loop",
        "The longest that a loop was late by since the start of its daemon, of all of them.",
        [Query(f"max by (loop) (memsensor_deadline_overrun_max_seconds{{{ANY}}})", "{{loop}}")],
        "s",
        8,
    )
    yield graph(
        "Age of the last sample, the oldest ten",
        "While a daemon answers: one that stands still under pressure is what a frozen host looks like.",
        [Query(f"topk(10, time() - memsensor_last_sample_timestamp_seconds{{{ANY}}})", "{{instance}}")],
        "s",
        8,
    )
    yield graph(
        "A scrape takes",
        "Rendering by the sensor, and the whole of it as Prometheus saw it: the slowest of all hosts.",
        [
            Query(f"max(memsensor_scrape_seconds{{{ANY}}})", "rendering"),
            Query(f"max(scrape_duration_seconds{{{ANY}}})", "seen by Prometheus"),
        ],
        "s",
    )
    yield graph(
        "Series of a scrape",
        "The most of one host: what Prometheus has to keep. Cgroups and their histograms make the difference.",
        [
            Query(f"max(scrape_samples_scraped{{{ANY}}})", "most"),
            Query(f"avg(scrape_samples_scraped{{{ANY}}})", "mean"),
        ],
        "none",
        decimals=0,
    )


def costs():
    """Memory and processor time of both halves."""
    yield graph(
        "Memory of the daemons, the top ten",
        "Resident, all of it locked.",
        [Query(f"topk(10, process_resident_memory_bytes{{{ANY}}})", "{{instance}}")],
        "bytes",
        8,
    )
    yield graph(
        "Locked address space",
        "More than is resident: what is mapped later is locked as it is touched.",
        [Query(f"max(memsensor_locked_memory_bytes{{{ANY}}})", "most")],
        "bytes",
        8,
    )
    yield graph(
        "Processor time of the daemons, the top ten",
        "100 % is one processor. Under pressure it looks ten times a second.",
        [Query(f"topk(10, rate(process_cpu_seconds_total{{{ANY}}}{RATE}))", "{{instance}}")],
        "percentunit",
        8,
    )
    yield graph(
        "Kernel memory of the maps",
        "Of one host; `memsensor probes` has more.",
        [Query(f"max(memsensor_bpf_map_bytes{{{ANY}}})", "maps")],
        "bytes",
        8,
        stack=True,
    )
    off = "BPF statistics are off (bpf_stats = true turns them on)"
    yield graph(
        "Kernel programs: share of a processor",
        "Time in our programs, the top ten of them, on all hosts. Only while BPF statistics are on, whose two clock "
        "reads are in every figure.",
        [Query(f"topk(10, {rate('memsensor_bpf_run_seconds_total', 'program')})", "{{program}}")],
        "percentunit",
        8,
        nothing=off,
    )
    seconds, runs = (rate(f"memsensor_bpf_{what}_total", "program") for what in ("run_seconds", "runs"))
    yield graph(
        "Kernel programs: time of a run",
        "The mean; only while BPF statistics are on. No line: it did not run.",
        [Query(f"{seconds} / ({runs} > 0)", "{{program}}")],
        "s",
        8,
        nothing=off,
    )
    yield sheet(
        "Versions",
        "What is running, and on how many hosts.",
        [
            Column("version", label="version"),
            Column("revision", label="revision"),
            Column("hosts", f"count by (version, revision) (memsensor_build_info{{{ANY}}})", "none", 0),
        ],
        [("hosts", True)],
        12,
        6,
    )
    yield graph(
        "File descriptors, the top ten",
        "Open in the daemon: connections and files of cgroups. It should not grow.",
        [Query(f"topk(10, process_open_fds{{{ANY}}})", "{{instance}}")],
        "none",
        12,
        6,
        decimals=0,
    )
