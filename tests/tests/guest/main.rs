//! Tests that need a virtual machine: the whole guest out of memory, swap thrash, throttling,
//! lockdown. `cargo xtask vm` boots Debian's kernels and runs this in each; anywhere else every
//! test fails at once.
//!
//! * [`probes`]: one test per probe, which causes its events and compares memsensor's counts with
//!   the kernel's trace. Each writes its cell of the table.
//! * [`host`]: all programs that this kernel supports are attached, also without tracefs and bpffs.
//! * [`verdict`]: a whole host that thrashes is overloaded, then ready again.
//! * [`hotplug`]: CPUs and memory that go offline, and a wall clock that steps.
//! * [`oom_group`]: kills of a whole cgroup.
//! * [`suspend`]: a guest that sleeps.
//! * [`lockdown`], [`quirks`]: kernels with lockdown, without PSI, or with many CPUs.
#![allow(clippy::panic, clippy::float_cmp, reason = "tests fail by panicking; counts are whole")]

mod host;
mod hotplug;
mod lockdown;
mod oom_group;
mod pressure;
mod probes;
mod quirks;
mod suspend;
mod verdict;
mod watch;

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use sensor_tests::support::scope::{Scope, program};

/// The file that the init of the guest prints at its end.
const CELLS: &str = "/run/cells";

/// Must be called first. Fails outside of a guest; protects the test and its children from the OOM
/// killer.
fn enter() {
    let cmdline = fs::read_to_string("/proc/cmdline").expect("/proc/cmdline");
    assert!(
        cmdline.contains("memsensor.guest="),
        "this test exhausts the memory of its machine: run it with `cargo xtask vm`"
    );
    fs::write("/proc/self/oom_score_adj", "-1000").expect("oom_score_adj");
}

/// Writes a probe's cell of the table.
fn cell(probe: &str, state: &str, detail: &str) {
    append(&format!("cell\t{probe}\t{state}\t{detail}"));
}

/// Writes a measurement.
fn note(text: &str) {
    append(&format!("measured: {text}"));
}

fn append(line: &str) {
    let mut file =
        fs::File::options().create(true).append(true).open(CELLS).expect("the file of cells");
    writeln!(file, "{line}").expect("write the line");
}

/// A hog that the OOM killer selects first, in the root cgroup.
fn hog(args: &[&str]) -> Command {
    let mut command = Command::new(program("hog").expect("hog"));
    command.args(["--adj", "1000"]).args(args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Kills a hog of the scope, on this CPU.
fn kill_on(scope: &Scope, cpu: u32) {
    let mut hog = scope.command("taskset");
    hog.args(["-c", &cpu.to_string()]).arg(program("hog").expect("hog"));
    hog.args(["--adj", "1000", "anon", "32"]).stdout(Stdio::null());
    let status = hog.status().expect("hog");
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(9), "CPU {cpu}: {status}");
}

/// A number in a file of /proc or /sys.
fn number(path: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.trim().parse().unwrap_or_else(|e| panic!("{path}: {text:?}: {e}"))
}

/// Writes a number to a file of /proc or /sys.
fn set(path: &str, value: u64) {
    fs::write(path, value.to_string()).unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// A line of /proc/meminfo, in MiB.
fn meminfo_mib(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("{name}: {text}")) / 1024
}
