//! Kernel lockdown. It cannot be undone, so each test is a separate step, after all others and in
//! this order.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use sensor_tests::support::{
    counts::vmstat,
    daemon::{Daemon, PATIENCE},
    scope::program,
};

use super::{enter, host::coverage, note, pressure::out_of_memory};

const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

fn lock_down(level: &str) {
    fs::write(LOCKDOWN, level).unwrap_or_else(|e| panic!("{LOCKDOWN}: {e}"));
    let now = fs::read_to_string(LOCKDOWN).expect("lockdown");
    assert!(now.contains(&format!("[{level}]")), "{now}");
}

/// The level that Secure Boot sets on most distributions: nothing changes.
#[test]
fn integrity() {
    enter();
    let before = coverage();
    lock_down("integrity");
    assert_eq!(coverage(), before);
}

/// BPF cannot read kernel memory: `run` fails with the reason and a remedy.
#[test]
fn confidentiality() {
    enter();
    lock_down("confidentiality");
    let memsensor = program("memsensor").expect("memsensor");
    let out = Command::new(memsensor)
        .args(["run", "--listen", "127.0.0.1:0"])
        .env("RUST_LOG", "off")
        .output()
        .expect("run");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{stderr}");
    assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
    for part in ["confidentiality", "lockdown=integrity", "--allow-degraded"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    kills_are_counted_without_probes();
}

/// vmstat counts a kill of the host, and the verdict uses it.
fn kills_are_counted_without_probes() {
    let daemon = Daemon::judging("allow_degraded = true\n").expect("daemon");
    let kills = || {
        let series = daemon.metrics().expect("metrics");
        ["global", "memcg"]
            .map(|kind| series[&format!("memsensor_oom_kills_total{{type=\"{kind}\"}}")])
    };
    assert_eq!(kills(), [0.0, 0.0]);
    let vmstat_kills = || vmstat().expect("vmstat")["oom_kill"];
    let before = vmstat_kills();
    out_of_memory();
    let end = Instant::now() + PATIENCE;
    while kills() != [(vmstat_kills() - before) as f64, 0.0] {
        assert!(Instant::now() < end, "{:?}, not {}", kills(), vmstat_kills() - before);
        std::thread::sleep(Duration::from_millis(50));
    }
    let ready = daemon.get("/readyz", "").expect("readyz").body;
    assert!(ready.contains("\"oom_kill\""), "{ready}");
    note(&format!("without probes: {}", ready.trim()));
}
