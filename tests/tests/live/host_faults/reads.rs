//! Files and maps that the daemon reads, and its waits: each fails for a while, and all together.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sensor_core::model::event::Event;
use sensor_tests::support::{
    daemon::Daemon,
    failing_calls::FailingCalls,
    failing_map::FailingMap,
    scope::{MIB, Scope},
};
use serde_json::Value;

use super::{kill_of, readyz, short_or_long};
use crate::{killed, wait_until};

const READS: &str = "read,pread64";

/// Each error, and its text in the log.
const ERRORS: [(&str, &str); 3] = [
    ("EIO", "Input/output error"),
    ("ENOMEM", "Cannot allocate memory"),
    ("EPERM", "Operation not permitted"),
];

/// Asserts that everything that is not about the host's memory goes on.
fn assert_answers(daemon: &Daemon) {
    assert_eq!(daemon.get("/livez", "").expect("/livez").status, 200);
    let samples = daemon.metrics().expect("fresh samples");
    assert!(samples.contains_key("memsensor_drained"), "{samples:?}");
    assert_eq!(daemon.agent_check("").expect("agent"), "up 100%\n");
}

/// A file, and a signal that only it measures.
type Source = (PathBuf, Option<&'static str>);

/// Lets a file fail, and asserts that the signal of the scope is missing meanwhile, and back
/// afterwards.
fn fail_and_recover(daemon: &Daemon, scope: &str, source: &Source, error: (&str, &str)) {
    let (file, signal) = source;
    let has = |body: &Value| signal.is_none_or(|signal| body["signals"][signal] != Value::Null);
    let measures = || has(&readyz(daemon, scope).1);
    wait_until("it is measured", measures);
    let logged = daemon.log().len();
    let name = format!("{}, {}", file.display(), error.0);
    let failing = FailingCalls::begin(daemon.pid(), READS, error.0, Some(file)).expect("strace");
    wait_until(&format!("{name}: the signal is missing"), || signal.is_none() || !measures());
    let (status, body) = readyz(daemon, scope);
    assert_eq!((status, &body["state"]), (200, &Value::from("ready")), "{name}: {body}");
    assert_answers(daemon);
    let log = || daemon.log()[logged..].to_owned();
    wait_until(&format!("{name}: logged"), || log().contains(error.1));
    let path = file.file_name().expect("a name").to_str().expect("UTF-8");
    assert!(log().lines().any(|l| l.contains(error.1) && l.contains(path)), "{}", log());
    assert!(failing.end().expect("strace") > 0, "{name}: nothing failed");
    wait_until(&format!("{name}: measured again"), measures);
    wait_until(&format!("{name}: logged again"), || log().contains("again"));
    assert_eq!(log().matches(error.1).count(), 1, "logged once: {}", log());
}

/// Each file with each error in the long form, with one of them in the short form.
fn each_fault(sources: &[Source], mut each: impl FnMut(&Source, (&str, &str))) {
    for (at, source) in sources.iter().enumerate() {
        for error in short_or_long(&ERRORS[at % 3..=at % 3], &ERRORS[..]) {
            each(source, *error);
        }
    }
}

#[test]
fn a_file_of_the_host_that_cannot_be_read_takes_only_its_part() {
    let daemon = Daemon::start("").expect("daemon");
    // /proc/zoneinfo is read every 15 seconds only.
    let files: Vec<_> = [
        ("/proc/meminfo", "available_ratio"),
        ("/proc/vmstat", "swap_ins_10s"),
        ("/proc/pressure/memory", "full_share_1s"),
        ("/proc/pressure/io", "io_full_share_1s"),
        ("/proc/zoneinfo", "above_low_watermark_ratio"),
    ]
    .into_iter()
    .take(short_or_long(4, 5))
    .map(|(file, signal)| (PathBuf::from(file), Some(signal)))
    .collect();
    each_fault(&files, |source, error| fail_and_recover(&daemon, "", source, error));
    let failing =
        FailingCalls::begin(daemon.pid(), READS, "EIO", Some(Path::new("/proc/pressure/memory")));
    let failing = failing.expect("strace");
    wait_until("the probes measure the stalls", || {
        readyz(&daemon, "").1["measured_by"] == "stall_clock"
    });
    drop(failing);
    wait_until("PSI measures them", || readyz(&daemon, "").1["measured_by"] == "psi");
}

#[test]
fn a_file_of_a_scope_that_cannot_be_read_takes_only_its_part() {
    let scope = Scope::new("unreadable", 64 * MIB).expect("scope");
    let mut idle = scope.command("sleep").arg("600").spawn().expect("sleep");
    let config = format!("[[scope]]\nname = \"web\"\ncgroup = \"{}\"\n", scope.path());
    let daemon = Daemon::start(&config).expect("daemon");
    let names = if scope.is_v1() {
        ["memory.usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control"]
    } else {
        ["memory.current", "memory.max", "memory.events"]
    };
    let files = [
        (scope.memory().join(names[0]), Some("available_ratio")),
        (scope.memory().join(names[1]), Some("available_ratio")),
        // The probes count the kills too.
        (scope.memory().join(names[2]), None),
        (scope.memory().join("memory.stat"), Some("swap_ins_10s")),
        (scope.unified().join("io.pressure"), Some("io_full_share_1s")),
    ];
    each_fault(&files, |source, error| fail_and_recover(&daemon, "web", source, error));
    // PSI is the only measure of its stalls.
    let (file, error) = (&scope.unified().join("memory.pressure"), ERRORS[0]);
    let failing = FailingCalls::begin(daemon.pid(), READS, error.0, Some(file)).expect("strace");
    wait_until("its stalls are not measured", || {
        let (status, body) = readyz(&daemon, "web");
        let reason = body["reasons"][0].as_str().unwrap_or_default().to_owned();
        status == 200 && body["state"] == "unknown" && reason.contains(error.1)
    });
    drop(failing);
    wait_until("it is ready", || readyz(&daemon, "web").1["state"] == "ready");
    idle.kill().expect("kill");
    idle.wait().expect("wait");
}

/// Counters that are lower than before.
fn fallen(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> Vec<String> {
    let is_counter = |series: &str| {
        let name = series.split('{').next().unwrap_or_default();
        ["_total", "_bucket", "_count", "_sum"].iter().any(|suffix| name.ends_with(suffix))
    };
    let lower = |(series, value): (&String, &f64)| {
        let now = after.get(series).copied()?;
        (is_counter(series) && now < *value).then(|| format!("{series}: {value}, then {now}"))
    };
    before.iter().filter_map(lower).collect()
}

#[test]
fn maps_that_cannot_be_read_leave_psi_and_no_counter_falls() {
    let daemon = Daemon::start("").expect("daemon");
    let readable = "memsensor_bpf_maps_readable{maps=\"counters\"}";
    let mut before = daemon.metrics().expect("metrics");
    // The last: some of the maps in some of the samples.
    for error in ["EPERM", "EIO", "ENOMEM", "ENOMEM:when=3+7"] {
        let failing = FailingCalls::begin(daemon.pid(), "bpf", error, None).expect("strace");
        wait_until("the maps cannot be read", || {
            let metrics = daemon.metrics().expect("metrics");
            assert_eq!(fallen(&before, &metrics), [""; 0], "{error}");
            metrics[readable] == 0.0
        });
        let (status, body) = readyz(&daemon, "");
        assert_eq!((status, &body["measured_by"]), (200, &Value::from("psi")), "{body}");
        assert_answers(&daemon);
        assert!(failing.end().expect("strace") > 0);
        wait_until("the maps can be read", || daemon.metrics().expect("metrics")[readable] == 1.0);
        let after = daemon.metrics().expect("metrics");
        assert_eq!(fallen(&before, &after), [""; 0], "{error}");
        before = after;
    }
    let log = daemon.log();
    assert!(log.contains("BPF maps (counters) cannot be read"), "{log}");
}

/// The value of `memsensor_bpf_maps_readable` for each group of maps.
fn readable(metrics: &BTreeMap<String, f64>) -> [f64; 2] {
    ["counters", "cgroups"]
        .map(|maps| metrics[&format!("memsensor_bpf_maps_readable{{maps=\"{maps}\"}}")])
}

#[test]
fn each_map_that_cannot_be_read_takes_only_its_half() {
    let daemon = Daemon::start("").expect("daemon");
    for (map, group, expected) in [
        ("COUNTERS", "counters", [0.0, 1.0]),
        ("INFLIGHT", "counters", [0.0, 1.0]),
        ("STALLS", "cgroups", [1.0, 0.0]),
        ("RECLAIM", "cgroups", [1.0, 0.0]),
    ] {
        let metrics = || daemon.metrics().expect("metrics");
        wait_until("all maps can be read", || readable(&metrics()) == [1.0, 1.0]);
        let (before, logged) = (metrics(), daemon.log().len());
        let failing = FailingMap::begin(daemon.pid(), map).expect("the map");
        wait_until(&format!("{map} cannot be read"), || readable(&metrics()) == expected);
        let during = metrics();
        assert_eq!(fallen(&before, &during), [""; 0], "{map}");
        // A gauge of the probes, and one of /proc.
        let has = |series: &str| during.keys().any(|key| key.starts_with(series));
        assert_eq!(has("memsensor_reclaiming_tasks{"), group == "cgroups", "{map}");
        assert!(has("memsensor_memory_available_bytes{"), "{map}: {during:?}");
        let (status, body) = readyz(&daemon, "");
        assert_eq!((status, &body["measured_by"]), (200, &Value::from("psi")), "{map}: {body}");
        assert_answers(&daemon);
        assert!(failing.end().expect("detached") > 0, "{map}: nothing failed");
        wait_until(&format!("{map} can be read"), || readable(&metrics()) == [1.0, 1.0]);
        assert_eq!(fallen(&before, &metrics()), [""; 0], "{map}");
        let log = daemon.log()[logged..].to_owned();
        let failure = format!("BPF maps ({group}) cannot be read");
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&failure)).collect();
        assert!(lines.len() == 1 && lines[0].contains(&format!("read the map {map}")), "{log}");
        assert!(log.contains(&format!("BPF maps ({group}) can be read again")), "{log}");
    }
    // The thread that scans processes reads it, to make room. It is not part of a sample.
    let failing = FailingMap::begin(daemon.pid(), "VICTIMS").expect("the map");
    assert_answers(&daemon);
    failing.end().expect("detached");
    assert_eq!(readable(&daemon.metrics().expect("metrics")), [1.0, 1.0]);
}

/// A wait that fails at once must not become a loop that keeps the processor, at real-time
/// priority.
#[test]
fn waits_that_fail_take_their_time() {
    let daemon = Daemon::start("").expect("daemon");
    let begun = Instant::now();
    let failing = FailingCalls::begin(daemon.pid(), "poll,ppoll", "ENOMEM", None).expect("strace");
    assert_answers(&daemon);
    std::thread::sleep(Duration::from_secs(1));
    let count = failing.end().expect("strace");
    // Four threads; the shortest of their waits is the interval of 100 ms.
    let most = 4.0 * 10.0 * begun.elapsed().as_secs_f64() + 40.0;
    assert!(count > 0 && (count as f64) < most, "{count} waits, expected {most} at most");
    assert_answers(&daemon);
}

#[test]
fn a_kill_is_recorded_while_its_files_cannot_be_read() {
    let scope = Scope::new("kill-unread", 16 * MIB).expect("scope");
    let daemon = Daemon::start("").expect("daemon");
    let kill = || kill_of(&daemon, killed(&scope, &["anon", "32"]));
    let cgroups = |event: Event| event.report.expect("a report").cgroups.len();
    assert_ne!(cgroups(kill()), 0);
    for (error, _) in short_or_long(&ERRORS[..1], &ERRORS[..]) {
        let failing = FailingCalls::begin(daemon.pid(), "openat,read", error, None);
        let failing = failing.expect("strace");
        assert_eq!(cgroups(kill()), 0, "{error}");
        let log = daemon.log();
        assert!(log.contains("OOM reports lack the kernel's log: read /dev/kmsg"), "{log}");
        assert_answers(&daemon);
        assert!(failing.end().expect("strace") > 0);
        assert_ne!(cgroups(kill()), 0, "{error}");
        let log = daemon.log();
        assert!(log.contains("/dev/kmsg can be read again"), "{log}");
    }
}

/// Every read of every thread, for three seconds.
#[test]
fn the_daemon_answers_while_nothing_can_be_read() {
    let daemon = Daemon::start("").expect("daemon");
    let calls = "openat,read,pread64,bpf,poll,ppoll,rename,unlink,statx";
    for (error, _) in short_or_long(&ERRORS[1..2], &ERRORS[..]) {
        let before = daemon.metrics().expect("metrics");
        let failing = FailingCalls::begin(daemon.pid(), calls, error, None).expect("strace");
        wait_until("it reports that", || readyz(&daemon, "").1["state"] == "unknown");
        let reason = readyz(&daemon, "").1["reasons"][0].as_str().unwrap_or_default().to_owned();
        assert!(reason.contains("neither PSI nor a probe"), "{reason}");
        for _ in 0..20 {
            assert_eq!(daemon.get("/livez", "").expect("/livez").status, 200);
            assert!(daemon.agent_check("").is_ok());
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(failing.end().expect("strace") > 0);
        wait_until("it is whole", || {
            let (status, body) = readyz(&daemon, "");
            status == 200 && body["measured_by"] == "psi" && body["state"] == "ready"
        });
        assert_answers(&daemon);
        let after = daemon.metrics().expect("metrics");
        assert_eq!(fallen(&before, &after), [""; 0], "{error}");
        wait_until("processes are known", || {
            let metrics = daemon.metrics().expect("metrics");
            metrics.contains_key("process_resident_memory_bytes")
        });
    }
}
