//! Hardware that comes and goes while the daemon runs: CPUs and memory. And the wall clock, which
//! steps.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use sensor_core::model::event::EventKind;
use sensor_tests::support::{
    daemon::{Daemon, delta, is_counter},
    scope::{MIB, Scope},
};

use super::{enter, kill_on, meminfo_mib, note};

const KILLS: &str = "memsensor_oom_kills_total{type=\"memcg\"}";

fn is_kill(kind: &EventKind) -> bool {
    matches!(kind, EventKind::OomKill { .. })
}

/// Asserts that the daemon takes samples, answers, and that no counter has fallen since `before`;
/// returns its metrics.
fn check(daemon: &Daemon, before: &BTreeMap<String, f64>, when: &str) -> BTreeMap<String, f64> {
    let after = daemon.metrics().expect("fresh samples");
    for (series, value) in before.iter().filter(|(series, _)| is_counter(series)) {
        let now = after.get(series).unwrap_or_else(|| panic!("{when}: no {series}"));
        assert!(now >= value, "{when}: {series} was {value} and is {now}");
    }
    let body = daemon.get("/readyz", "").expect("/readyz").body;
    let state = |state: &str| body.contains(&format!("\"state\":\"{state}\""));
    assert!(!state("stale") && !state("unknown"), "{when}: {body}");
    after
}

/// Brings a CPU or memory back when dropped.
struct Offline(PathBuf, &'static str);

impl Offline {
    fn new(file: &Path, offline: &str, online: &'static str) -> std::io::Result<Self> {
        fs::write(file, offline)?;
        Ok(Self(file.to_owned(), online))
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, self.1);
    }
}

#[test]
fn counts_of_a_cpu_that_goes_offline_stay() {
    enter();
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("hotplug", 16 * MIB).expect("scope");
    let start = daemon.metrics().expect("metrics");
    let mut before = start.clone();
    let file = Path::new("/sys/devices/system/cpu/cpu1/online");
    for round in 1..=3 {
        kill_on(&scope, 1);
        before = check(&daemon, &before, "both CPUs");
        let offline = Offline::new(file, "0", "1").expect("CPU 1 offline");
        kill_on(&scope, 0);
        before = check(&daemon, &before, "one CPU");
        drop(offline);
        before = check(&daemon, &before, "both CPUs again");
        let kills = delta(&start, &before, KILLS).expect("kills");
        assert_eq!(kills, f64::from(2 * round), "a kill on each CPU in each round");
    }
}

/// Blocks of memory that are online, the last first.
fn blocks() -> Vec<PathBuf> {
    let all = fs::read_dir("/sys/devices/system/memory").into_iter().flatten().flatten();
    let files = all.map(|entry| entry.path().join("state"));
    let is_online = |file: &PathBuf| fs::read_to_string(file).is_ok_and(|s| s.trim() == "online");
    let mut online: Vec<_> = files.filter(is_online).collect();
    // By number: names of the same length are in order.
    online.sort_by_key(|file| std::cmp::Reverse((file.as_os_str().len(), file.clone())));
    online
}

/// A kernel without memory hotplug has no blocks, and may not be able to move the pages of any.
#[test]
fn memory_that_goes_offline_is_missed_at_once() {
    enter();
    let total = |metrics: &BTreeMap<String, f64>| {
        let ratio = metrics.get("memsensor_memory_available_bytes{scope=\"host\"}").copied();
        ratio.expect("available memory")
    };
    let daemon = Daemon::start("").expect("daemon");
    let before = daemon.metrics().expect("metrics");
    let mib = meminfo_mib("MemTotal");
    let offline = blocks().iter().find_map(|file| Offline::new(file, "offline", "online").ok());
    let Some(offline) = offline else {
        let blocks = blocks().len();
        note(&format!("memory hotplug: none of {blocks} blocks can go offline"));
        assert_eq!(meminfo_mib("MemTotal"), mib);
        return;
    };
    let less = mib - meminfo_mib("MemTotal");
    assert!(less > 0, "{} is offline", offline.0.display());
    let without = check(&daemon, &before, "without a block");
    assert!(total(&without) <= (meminfo_mib("MemTotal") * MIB) as f64);
    note(&format!(
        "memory hotplug: {less} of {mib} MiB offline, available {:.0} MiB before, {:.0} MiB then",
        total(&before) / MIB as f64,
        total(&without) / MIB as f64
    ));
    drop(offline);
    assert_eq!(meminfo_mib("MemTotal"), mib, "the block is online again");
    check(&daemon, &without, "with all blocks");
}

/// Sets the wall clock back when dropped.
struct Clock(Duration);

impl Clock {
    /// Sets the wall clock to seconds since 1970.
    fn set(seconds: i64) {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        clock_settime(ClockId::Realtime, time).expect("set the clock");
    }

    fn new() -> Self {
        let now = clock_gettime(ClockId::Realtime).tv_sec - clock_gettime(ClockId::Boottime).tv_sec;
        Self(Duration::from_secs(u64::try_from(now).expect("after 1970")))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let booted = i64::try_from(self.0.as_secs()).unwrap_or(0);
        Self::set(booted + clock_gettime(ClockId::Boottime).tv_sec);
    }
}

#[test]
fn a_wall_clock_that_steps_changes_only_the_times_that_are_shown() {
    enter();
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("clock", 16 * MIB).expect("scope");
    let _clock = Clock::new();
    let drained = daemon.ask(&["drain", "--reason", "test", "--for", "1h"]).expect("drain");
    assert_eq!(drained.1, Some(0), "{}", drained.0);
    let sample_time = "memsensor_last_sample_timestamp_seconds";
    // Back to the first day, before the boot; and far ahead.
    for (n, (seconds, day)) in
        [(86_400, "1970-01-02"), (4_102_444_800, "2100-01-01")].into_iter().enumerate()
    {
        Clock::set(seconds);
        std::thread::sleep(Duration::from_millis(500));
        let answer = daemon.get("/metrics", "").expect("metrics");
        let metrics = sensor_tests::support::daemon::parse(&answer.body);
        let shown = metrics[sample_time] - seconds as f64;
        assert!((0.0..60.0).contains(&shown), "{day}: {shown}");
        let body = daemon.get("/readyz", "").expect("/readyz").body;
        assert!(body.contains("\"state\":\"drained\""), "{day}: {body}");
        kill_on(&scope, 0);
        let kills = daemon.wait_for_events(n + 1, is_kill).expect("events");
        let time = &kills[n].time;
        assert!(time.starts_with(day), "{time} instead of {day}");
    }
    daemon.ask(&["undrain"]).expect("undrain");
    let body = daemon.get("/readyz", "").expect("/readyz").body;
    assert!(body.contains("\"state\":\"ready\""), "{body}");
}
