//! What may only be done to a machine of one's own: the whole guest out of memory, swap thrash,
//! throttling, lockdown. `cargo xtask vm` boots Debian's kernels and runs this in each; anywhere
//! else every test here fails at once.
//!
//! * [`probes`]: one test per probe, whose event the test makes happen; what memsensor counted is
//!   compared with what the kernel traced in the same time. Each writes its cell of the table.
//! * [`host`]: what is attached is what this kernel has, also without tracefs and bpffs.
//! * [`verdict`]: a whole host that thrashes is drained, and comes back.
//! * [`lockdown`], [`quirks`]: kernels that forbid, lack PSI, or have many CPUs.
#![allow(clippy::panic, clippy::float_cmp, reason = "tests fail by panicking; counts are whole")]

mod host;
mod lockdown;
mod pressure;
mod probes;
mod quirks;
mod verdict;
mod watch;

use std::{fs, io::Write as _, process::Command};

use sensor_tests::support::scope::program;

/// What the init of the guest shows at its end.
const CELLS: &str = "/run/cells";

/// Call first. Fails outside of a guest; keeps the OOM killer from the test and what it starts.
fn enter() {
    let cmdline = fs::read_to_string("/proc/cmdline").expect("/proc/cmdline");
    assert!(
        cmdline.contains("memsensor.guest="),
        "this test brings down the machine it runs on: `cargo xtask vm` gives it one of its own"
    );
    fs::write("/proc/self/oom_score_adj", "-1000").expect("oom_score_adj");
}

/// Writes a probe's cell of the table.
fn cell(probe: &str, state: &str, detail: &str) {
    say(&format!("cell\t{probe}\t{state}\t{detail}"));
}

/// Writes what was measured, for people.
fn note(what: &str) {
    say(&format!("measured: {what}"));
}

fn say(line: &str) {
    let mut file =
        fs::File::options().create(true).append(true).open(CELLS).expect("the file of cells");
    writeln!(file, "{line}").expect("write the line");
}

/// A hog that the OOM killer likes best, in no cgroup but the root's.
fn hog(args: &[&str]) -> Command {
    let mut command = Command::new(program("hog").expect("hog"));
    command.args(["--adj", "1000"]).args(args);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command
}

/// A number in a file of /proc or /sys.
fn number(path: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.trim().parse().unwrap_or_else(|e| panic!("{path}: {text:?}: {e}"))
}

/// Writes a number to such a file.
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
