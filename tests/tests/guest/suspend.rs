//! A guest that sleeps: CLOCK_BOOTTIME goes on, CLOCK_MONOTONIC and all timers of the daemon do not.

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use sensor_core::model::event::EventKind;
use sensor_tests::support::{
    daemon::{Daemon, is_counter},
    scope::{MIB, Scope, program},
};
use serde_json::Value;

use super::{enter, note};

/// How the kernel hibernates. `test_resume` writes an image to swap and resumes from it at once: the
/// clocks behave as if the machine had been off, and no emulated firmware takes part.
const KIND: &str = "/sys/power/disk";

/// Longer than all until the guest is awake again.
const DRAIN: Duration = Duration::from_secs(30);

/// CLOCK_BOOTTIME and CLOCK_MONOTONIC.
fn clocks() -> [Duration; 2] {
    [ClockId::Boottime, ClockId::Monotonic]
        .map(|clock| Duration::try_from(clock_gettime(clock)).expect("positive"))
}

/// Both clocks since then.
fn since([boot, monotonic]: [Duration; 2]) -> [Duration; 2] {
    let now = clocks();
    [now[0].saturating_sub(boot), now[1].saturating_sub(monotonic)]
}

/// Hibernates to the first swap, and resumes. Older kernels report EBUSY: they open a swap that is in
/// use for writing only.
fn suspend() -> std::io::Result<()> {
    let swaps = fs::read_to_string("/proc/swaps").expect("swaps");
    let swap = swaps.lines().nth(1).and_then(|line| line.split_whitespace().next());
    let name = Path::new(swap.expect("swap")).file_name().expect("a name").to_owned();
    let device = Path::new("/sys/class/block").join(name).join("dev");
    fs::write("/sys/power/resume", fs::read(device).expect("a device")).expect("set the device");
    // By default it would first swap out what is more.
    fs::write("/sys/power/image_size", (1_u64 << 30).to_string()).expect("set the size");
    fs::write(KIND, "test_resume").expect("select the kind");
    fs::write("/sys/power/state", "disk")
}

/// Kills a hog of the scope; returns the event with its report, from the daemon.
fn kill(scope: &Scope, daemon: &Daemon, count: usize) -> Value {
    let mut hog = scope.command(program("hog").expect("hog"));
    hog.args(["--adj", "1000", "anon", "32"]).stdout(Stdio::null());
    let status = hog.status().expect("hog");
    assert!(!status.success(), "{status}");
    let is_kill = |kind: &EventKind| matches!(kind, EventKind::OomKill { .. });
    let kills = daemon.wait_for_events(count, is_kill).expect("events");
    let event = daemon.ask(&["event", &kills[count - 1].id, "--json"]).expect("event").0;
    serde_json::from_str(&event).expect("JSON")
}

/// The minute of the wall clock, as events begin with it.
fn minute() -> String {
    let date = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M"]).output().expect("date");
    String::from_utf8(date.stdout).expect("UTF-8").trim().to_owned()
}

/// Waits until `memsensor top` has the right age of this process: the scan may be from before the
/// sleep.
fn wait_for_own_age(daemon: &Daemon) {
    let process = procfs::process::Process::myself().and_then(|process| process.stat());
    let start = process.expect("stat").starttime as f64 / procfs::ticks_per_second() as f64;
    let mut shown = Vec::new();
    for _ in 0..60 {
        let top = daemon.ask(&["top", "--json", "--most", "1000"]).expect("top").0;
        let top: Value = serde_json::from_str(&top).expect("JSON");
        let processes = top["processes"].as_array().expect("processes");
        let own = processes.iter().find(|process| process["pid"] == std::process::id());
        let age = own.and_then(|own| own["age_seconds"].as_f64()).expect("this process");
        let seen = clocks()[0].as_secs_f64() - top["seen_seconds_ago"].as_f64().expect("a time");
        if (seen - start - age).abs() < 2.0 {
            return;
        }
        shown.push((seen - start, age));
        std::thread::sleep(Duration::from_millis(500));
    }
    panic!("right and shown ages: {shown:?}");
}

fn readyz(daemon: &Daemon) -> String {
    daemon.get("/readyz", "").expect("/readyz").body
}

fn is_drained(daemon: &Daemon) -> bool {
    readyz(daemon).contains("\"state\":\"drained\"")
}

fn drain(daemon: &Daemon, time: Duration) {
    let time = format!("{}s", time.as_secs());
    let answer = daemon.ask(&["drain", "--reason", "test", "--for", &time]).expect("drain");
    assert_eq!(answer.1, Some(0), "{}", answer.0);
    assert!(is_drained(daemon), "{}", readyz(daemon));
}

/// The drain ends when its time is over by CLOCK_BOOTTIME.
fn assert_drain_ends(daemon: &Daemon, begun: [Duration; 2]) {
    while is_drained(daemon) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let lasted = since(begun);
    note(&format!("suspend: a drain of {DRAIN:?} ended after {lasted:?}"));
    assert!(lasted[0] >= DRAIN && lasted[1] < DRAIN, "{lasted:?}");
}

/// The record of a kill before the sleep is kept; that of a new one is whole.
fn assert_kills_are_recorded(daemon: &Daemon, scope: &Scope, first: &Value) {
    let mut events = daemon.events().expect("events").into_iter();
    assert!(events.any(|event| first["id"] == event.id.as_str()), "the first kill is kept");
    let begun = minute();
    let second = kill(scope, daemon, 2);
    let (time, minutes) = (second["time"].as_str().expect("a time"), [begun, minute()]);
    assert!(minutes.iter().any(|minute| time.starts_with(minute)), "{time}, now is {minutes:?}");
    for event in [first, &second] {
        assert!(event["context"]["gfp_names"].is_string(), "not found in the log: {event:#}");
    }
}

#[test]
fn a_suspend_counts_for_drains_and_ages() {
    enter();
    if !cfg!(target_arch = "x86_64") {
        note("suspend: tested on amd64");
        return;
    }
    let mut daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("asleep", 16 * MIB).expect("scope");
    let first = kill(&scope, &daemon, 1);
    wait_for_own_age(&daemon);
    let begun = clocks();
    drain(&daemon, DRAIN);
    let before = daemon.metrics().expect("metrics");

    if let Err(e) = suspend() {
        assert_eq!(e.kind(), ErrorKind::ResourceBusy, "{e}");
        note(&format!("suspend: this kernel cannot resume from swap in use: {e}"));
        return;
    }
    let [boot, monotonic] = since(begun);
    let asleep = boot.saturating_sub(monotonic);
    note(&format!("suspend: {asleep:?} asleep"));
    // The real-time clock counts whole seconds.
    assert!(asleep >= Duration::from_millis(500), "asleep for {asleep:?} only");
    assert_eq!(daemon.get("/livez", "").expect("/livez").status, 200);
    let after = daemon.metrics().expect("fresh samples");
    for (series, value) in before.iter().filter(|(series, _)| is_counter(series)) {
        assert!(after.get(series).is_some_and(|now| now >= value), "{series} has fallen");
    }
    assert_drain_ends(&daemon, begun);
    wait_for_own_age(&daemon);
    assert_kills_are_recorded(&daemon, &scope, &first);

    // What is saved by CLOCK_BOOTTIME is of this boot.
    drain(&daemon, Duration::from_hours(1));
    daemon.restart().expect("restart");
    assert!(is_drained(&daemon), "the drain is kept");
    daemon.ask(&["undrain"]).expect("undrain");
}
