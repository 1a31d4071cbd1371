//! All programs that this kernel supports are attached, and no others. The reference is the
//! kernel's own list of events and functions, which memsensor does not use.

use std::{fs, process::Command};

use sensor_ebpf::probes;
use sensor_tests::support::{counts::has_event, daemon::Daemon, scope::program};
use serde_json::Value;

use super::enter;

/// The probes in the output of `memsensor probes --json`.
pub(crate) fn coverage() -> Vec<Value> {
    let out = Command::new(program("memsensor").expect("memsensor"))
        .args(["probes", "--json"])
        .output()
        .expect("memsensor probes");
    let stderr = String::from_utf8_lossy(&out.stderr);
    let json: Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"));
    json["probes"].as_array().expect("probes").clone()
}

/// The reason why a probe is not attached, if so.
pub(crate) fn why_missing(probe: &str) -> Option<String> {
    let probes = coverage();
    let found = probes.iter().find(|p| p["probe"] == probe).unwrap_or_else(|| panic!("no {probe}"));
    match found["state"].as_str() {
        Some("attached" | "partial") => None,
        _ => Some(found["reason"].as_str().expect("a reason").to_owned()),
    }
}

/// A kprobe of the kernel's own tracer, removed on drop.
pub(crate) struct Kprobe {
    /// The event's name.
    pub(crate) name: String,
}

const GROUP: &str = "memsensor_test";
const KPROBES: &str = "/sys/kernel/tracing/kprobe_events";

impl Kprobe {
    /// `kind` is `p` for the entry, `r` for the return.
    pub(crate) fn new(kind: &str, function: &str) -> Self {
        let name = format!("{function}_{kind}");
        append(&format!("{kind}:{GROUP}/{name} {function}"));
        Self { name }
    }

    /// `system:event`.
    pub(crate) fn event(&self) -> String {
        format!("{GROUP}:{}", self.name)
    }
}

impl Drop for Kprobe {
    fn drop(&mut self) {
        append(&format!("-:{GROUP}/{}", self.name));
    }
}

fn append(line: &str) {
    let file = fs::File::options().append(true).open(KPROBES);
    let written = file.and_then(|mut f| std::io::Write::write_all(&mut f, line.as_bytes()));
    if let Err(e) = written {
        // No panic: this is also called on drop.
        eprintln!("{KPROBES}: {line}: {e}");
    }
}

/// Whether the kernel has the hook of a program, by its own lists.
fn has_hook(hook: &str) -> bool {
    let has_function = |function: &str| {
        let symbols = fs::read_to_string("/proc/kallsyms").expect("kallsyms");
        symbols.lines().any(|l| l.split_whitespace().nth(2) == Some(function))
    };
    match hook.split_once(':') {
        Some(("fentry" | "fexit" | "kprobe", function)) => has_function(function),
        // The function in kernel/bpf/task_iter.c.
        Some(("iter", kind)) => has_function(&format!("{kind}_seq_show")),
        _ => has_event(hook).expect("tracefs"),
    }
}

#[test]
fn all_supported_programs_are_attached_and_no_others() {
    enter();
    let coverage = coverage();
    assert_eq!(coverage.len(), probes::ALL.len());
    let mut absent = Vec::new();
    for probe in &coverage {
        let programs = probe["programs"].as_array().expect("programs");
        for program in programs {
            let hook = program["event"].as_str().expect("event");
            let (has, attached) = (has_hook(hook), program["attached"] == true);
            // A begin is not attached without its end.
            let whole = programs.iter().all(|p| has_hook(p["event"].as_str().expect("event")));
            assert!(attached == has || (has && !whole), "{hook}: exists: {has}, {program:#}");
            if !attached {
                let reason = program["reason"].as_str().expect("a reason");
                assert!(
                    reason.contains(hook.split_once(':').expect("system").1),
                    "{hook}: {reason}"
                );
                absent.push(hook.to_owned());
            }
        }
    }
    println!("not on this kernel: {absent:?}");
}

#[test]
fn neither_tracefs_nor_bpffs_is_needed() {
    enter();
    let with = coverage();
    let memsensor = program("memsensor").expect("memsensor");
    let script = "umount /sys/kernel/tracing && umount /sys/fs/bpf && \
                  test ! -e /sys/kernel/tracing/events && exec \"$@\"";
    let out = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(memsensor)
        .args(["probes", "--json"])
        .output()
        .expect("unshare");
    let stderr = String::from_utf8_lossy(&out.stderr);
    let json: Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"));
    assert_eq!(json["probes"].as_array(), Some(&with));
}

/// The metrics have the state of each program.
#[test]
fn the_state_of_each_program_is_exported() {
    enter();
    let daemon = Daemon::start("").expect("daemon");
    let series = daemon.metrics().expect("metrics");
    for probe in coverage() {
        for program in probe["programs"].as_array().expect("programs") {
            let name = format!(
                "memsensor_probe_attached{{probe={},program={}}}",
                probe["probe"], program["program"]
            );
            let expected = f64::from(u8::from(program["attached"] == true));
            assert_eq!(series.get(&name), Some(&expected), "{name}");
        }
    }
}
