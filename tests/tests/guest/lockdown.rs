//! Kernels that are locked down. It cannot be taken back, so each of these runs as a step of its
//! own, after everything else, and in this order.

use std::{fs, process::Command};

use sensor_tests::support::scope::program;

use super::{enter, host::coverage};

const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

fn lock_down(level: &str) {
    fs::write(LOCKDOWN, level).unwrap_or_else(|e| panic!("{LOCKDOWN}: {e}"));
    let now = fs::read_to_string(LOCKDOWN).expect("lockdown");
    assert!(now.contains(&format!("[{level}]")), "{now}");
}

/// What Secure Boot brings on most distributions: nothing changes for us.
#[test]
fn integrity() {
    enter();
    let before = coverage();
    lock_down("integrity");
    assert_eq!(coverage(), before);
}

/// BPF may not read kernel memory: a refusal that says so and what to do.
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
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    for part in ["confidentiality", "lockdown=integrity", "--allow-degraded"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
