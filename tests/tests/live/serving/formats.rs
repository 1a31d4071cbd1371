//! Formats: output is well-formed for any process name, and metric names do not change.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Output, Stdio},
};

use sensor_tests::support::{
    counts::has_event,
    daemon::{Daemon, parse},
    scope::{MIB, Scope, program},
};

use crate::{as_kill, is_kill, killed, wait_until};

#[test]
fn a_hostile_name_keeps_output_well_formed() {
    // Escape sequence, quote, backslash, newline, and bytes that are not UTF-8.
    const HOSTILE: &str = "1b5b324a225c0aff9b";
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("hostile \"name\"\u{9b}", 16 * MIB).expect("scope");
    killed(&scope, &["--comm-hex", HOSTILE, "anon", "32"]);
    let events = daemon.wait_for_events(1, is_kill).expect("the kill");
    let (_, victim, _) = as_kill(&events[0].kind);
    assert_eq!(victim.comm, "\u{1b}[2J\"\\\n\u{fffd}\u{fffd}");
    let memsensor = program("memsensor").expect("memsensor");
    for extra in [&[][..], &["--json"]] {
        let out = Command::new(&memsensor)
            .args(["events", "--socket"])
            .arg(daemon.socket())
            .args(extra)
            .output()
            .expect("events");
        let text = String::from_utf8(out.stdout).expect("UTF-8");
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!text.is_empty() && !text.contains(control), "{text:?}");
        assert_eq!(text.lines().count(), daemon.events().expect("events").len(), "{text:?}");
    }
    assert_promtool_accepts(&daemon);
}

fn assert_promtool_accepts(daemon: &Daemon) {
    let classic = daemon.get("/metrics", "").expect("metrics");
    assert!(classic.head.contains("text/plain; version=0.0.4"), "{}", classic.head);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start promtool (apt-get install prometheus)");
    promtool.stdin.take().expect("piped").write_all(classic.body.as_bytes()).expect("write");
    let Output { status, stdout, stderr } = promtool.wait_with_output().expect("promtool");
    let output = [stdout, stderr].concat();
    let output = String::from_utf8_lossy(&output);
    assert!(status.success() && output.is_empty(), "promtool: {output}");
}

#[test]
fn both_formats_have_the_same_series() {
    let daemon = Daemon::start("bpf_stats = true").expect("daemon");
    assert_promtool_accepts(&daemon);
    let series = |text: &str| parse(text).into_keys().collect::<BTreeSet<_>>();
    let mut all = BTreeSet::new();
    // A series may appear between the two, for example after the first sample of the cgroups.
    wait_until("both have the same series", || {
        let open = daemon
            .get("/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
            .expect("metrics");
        let head = "application/openmetrics-text; version=1.0.0";
        assert!(open.head.contains(head), "{}", open.head);
        assert!(open.body.ends_with("# EOF\n"));
        let classic = daemon.get("/metrics", "").expect("metrics");
        all = series(&classic.body);
        let open = series(&open.body);
        let differ: Vec<_> = open.symmetric_difference(&all).collect();
        if !differ.is_empty() {
            println!("only in one: {differ:?}");
        }
        differ.is_empty()
    });
    let has = |name: &str| all.iter().any(|s| s.split('{').next() == Some(name));
    for name in CONTRACT {
        let needed = NEEDS.iter().find(|(n, _)| n == name).map(|(_, event)| event);
        let measured = needed.is_none_or(|event| has_event(event).expect("tracefs"));
        assert_eq!(has(name), measured, "{name}");
    }
    println!("{} series", all.len());
}

/// Metrics that are absent where the kernel lacks the event.
const NEEDS: &[(&str, &str)] =
    &[("memsensor_reclaim_throttle_seconds_total", "vmscan:mm_vmscan_throttled")];

/// The names that users rely on: renaming one is a breaking change.
const CONTRACT: &[&str] = &[
    "memsensor_oom_kills_total",
    "memsensor_oom_victim_exit_seconds_bucket",
    "memsensor_direct_reclaim_seconds_bucket",
    "memsensor_direct_reclaim_pages_total",
    "memsensor_memcg_reclaim_seconds_bucket",
    "memsensor_memcg_reclaim_pages_total",
    "memsensor_reclaiming_tasks",
    "memsensor_kswapd_wakeups_total",
    "memsensor_kswapd_active_seconds_total",
    "memsensor_reclaim_scanned_pages_total",
    "memsensor_reclaim_stolen_pages_total",
    "memsensor_reclaim_priority_min",
    "memsensor_reclaim_throttle_seconds_total",
    "memsensor_compaction_stall_seconds_bucket",
    "memsensor_alloc_retries_total",
    "memsensor_alloc_no_progress_loops_max",
    "memsensor_kill_signals_total",
    "memsensor_stall_seconds_total",
    "memsensor_probe_attached",
    "memsensor_probe_info",
    "memsensor_bpf_run_seconds_total",
    "memsensor_bpf_runs_total",
    "memsensor_bpf_map_bytes",
    "memsensor_bpf_maps_readable",
    "memsensor_events_lost_total",
    "memsensor_connections_total",
    "memsensor_current_connections",
    "memsensor_log_lines_lost_total",
    "memsensor_scrape_seconds",
    "memsensor_last_sample_timestamp_seconds",
    "memsensor_build_info",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
];
