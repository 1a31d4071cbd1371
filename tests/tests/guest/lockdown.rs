//! Kernel lockdown. It cannot be undone, so each test is a separate step, after all others and in
//! this order.

use std::{fs, process::Command};

use sensor_tests::support::scope::program;

use super::{enter, host::coverage};

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
}
