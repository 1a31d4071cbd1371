//! Real OOM kills and real reclaim on this kernel, and the daemon from outside.
//!
//! Each test makes its own cgroups and daemon and removes them. memsensor's output is compared with
//! the kernel's counters (vmstat, memory.stat) and with its trace. Needs root. Run one test at a
//! time: the counters are of the whole machine.
//!
//! * [`oom`]: OOM kills.
//! * [`reclaim`]: reclaim and compaction.
//! * [`processes`]: memory usage of processes.
//! * [`cgroups`]: metrics of cgroups.
//! * [`record`]: the report of a kill.
//! * [`rights`]: rights that the daemon gives up, and who gave it commands.
//! * [`signals`]: SIGKILL from user space.
//! * [`host_memory`]: huge pages and zram.
//! * [`host`]: requirements, reduced operation, and cleanup.
//! * [`serving`]: consumers of memsensor.
//! * [`host_faults`]: faults of the host around the daemon.
//!
//! All but `serving` and `host_faults` also run in a minimal guest: they only use sh, mount, umount,
//! unshare and sleep.

#![allow(clippy::panic, clippy::float_cmp, reason = "tests fail by panicking; counts are whole")]

mod cgroups;
mod host;
mod host_faults;
mod host_memory;
mod oom;
mod processes;
mod reclaim;
mod record;
mod rights;
mod serving;
mod signals;
mod unified;

use std::{
    collections::BTreeMap,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use sensor_core::model::event::{EventKind, OomType, TaskInfo};
use sensor_tests::support::{
    counts::vmstat,
    daemon::{PATIENCE, delta},
    scope::{Scope, program},
};

const OOM_KILLS: [&str; 2] =
    ["memsensor_oom_kills_total{type=\"global\"}", "memsensor_oom_kills_total{type=\"memcg\"}"];

fn hog(scope: &Scope, args: &[&str]) -> Command {
    let mut command = scope.command(program("hog").expect("hog"));
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Runs a hog that must be killed; returns its process id.
fn killed(scope: &Scope, args: &[&str]) -> u32 {
    let mut child = hog(scope, args).spawn().expect("start hog");
    let pid = child.id();
    let status = child.wait().expect("wait");
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(9), "hog {args:?} ended with {status}, it should have been killed");
    pid
}

fn oom_kills_of_vmstat() -> f64 {
    vmstat().expect("vmstat")["oom_kill"] as f64
}

fn is_kill(what: &EventKind) -> bool {
    matches!(what, EventKind::OomKill { .. })
}

fn as_kill(what: &EventKind) -> (OomType, &TaskInfo, &TaskInfo) {
    let EventKind::OomKill { oom_type, victim, trigger, .. } = what else { panic!("{what:?}") };
    (*oom_type, victim, trigger)
}

/// A program that is killed on drop, so that the next test can use its ports.
struct Running(Child);

impl Running {
    /// Stops it with SIGTERM and waits.
    fn stop(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("stop");
        self.0.wait().expect("wait")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for_line(child: &mut Child) {
    use std::io::BufRead as _;
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    std::io::BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert!(!line.is_empty(), "the child ended without output");
}

/// Events that the kernel skipped, by its own count: from 7.x it skips an event while the same
/// program is preempted on the same CPU. Almost none on real hardware, some on emulated. Kernels
/// before 5.12 do not count them.
fn skipped(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> f64 {
    delta(before, after, "memsensor_events_lost_total{reason=\"recursion\"}").unwrap_or(0.0)
}

/// Asserts that only events that the kernel skipped were lost, and the other halves of their pairs.
fn assert_no_losses(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    let skipped = skipped(before, after);
    for series in after.keys().filter(|s| s.starts_with("memsensor_events_lost_total")) {
        let halves = ["unmatched", "abandoned"].iter().any(|half| series.contains(half));
        let allowed = if halves { skipped } else { 0.0 };
        let lost = delta(before, after, series).expect("series");
        assert!(
            lost <= allowed || series.contains("recursion"),
            "{series}: {lost}, {skipped} skipped"
        );
    }
}

/// The sum of a counter over its labels.
fn sum(series: &BTreeMap<String, f64>, name: &str) -> f64 {
    series.iter().filter(|(s, _)| s.split('{').next() == Some(name)).map(|(_, v)| v).sum()
}

fn run_memsensor(args: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(program("memsensor").expect("memsensor"))
        .args(args)
        .env("RUST_LOG", "off")
        .output()
        .expect("run memsensor");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).trim().to_owned())
}

/// Writes a configuration for a test and returns its path.
fn config(name: &str, text: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("memsensor-test-{}-{name}", std::process::id()));
    std::fs::write(&path, text).expect("write");
    path
}

fn wait_until(condition: &str, mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(std::time::Instant::now() < end, "timeout: {condition}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Major and minor version of the running kernel, and its release.
fn running_kernel() -> ((u32, u32), String) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or_else(|| panic!("{release}"));
    ((next(), next()), release)
}
