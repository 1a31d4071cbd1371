//! The messages of the service to systemd, and what systemd does without them.

use std::{process::Command, time::Instant};

use crate::service::{
    SERVICE, enter, http, main_pid, measured, override_settings, property, run, systemctl,
    wait_until,
};

fn signal(name: &str, pid: u32) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(status.expect("kill").success());
}

/// Waits for systemd's first restart of the service, which had this process.
fn wait_for_restart(pid: u32) {
    // The count first: until systemd knows of the death, the service is still active.
    wait_until("a restart", || property("NRestarts") == "1" && property("ActiveState") == "active");
    assert_ne!(main_pid(), pid);
}

#[test]
fn a_start_ends_when_the_first_sample_is_served() {
    enter();
    systemctl(&["stop", SERVICE]);
    let start = Instant::now();
    systemctl(&["start", SERVICE]);
    let took = start.elapsed();
    let answer = http("/readyz").body;
    assert!(!answer.contains("\"starting\""), "{answer}");
    measured(&format!("systemctl start: {:.1} s", took.as_secs_f64()));
}

#[test]
fn the_status_names_state_and_weight() {
    enter();
    wait_until("ready", || property("StatusText").starts_with("host is ready, weight 100%"));
    let (status, code) = run("systemctl", &["--no-pager", "status", SERVICE]);
    assert_eq!(code, Some(0), "{status}");
    assert!(status.contains("Status: \"host is ready, weight 100%"), "{status}");
    assert_eq!(crate::service::memsensor(&["drain", "--reason", "test"]).1, Some(0));
    wait_until("drained", || property("StatusText").starts_with("host is drained, weight 0%"));
}

#[test]
fn the_watchdog_is_fed() {
    enter();
    assert_eq!(property("WatchdogUSec"), "2min");
    let last = || property("WatchdogTimestampMonotonic").parse::<u64>().expect("a number");
    let before = last();
    wait_until("a message", || last() > before);
}

#[test]
fn a_daemon_that_hangs_is_restarted() {
    enter();
    override_settings("WatchdogSec=8s\nTimeoutAbortSec=2s");
    let pid = main_pid();
    signal("STOP", pid);
    wait_for_restart(pid);
    let (log, _) = run("journalctl", &["--no-pager", "--unit", SERVICE, "--lines", "100"]);
    assert!(log.contains("Watchdog timeout"), "{log}");
}

#[test]
fn a_killed_daemon_is_restarted() {
    enter();
    systemctl(&["restart", SERVICE]);
    let pid = main_pid();
    let start = Instant::now();
    signal("KILL", pid);
    wait_for_restart(pid);
    measured(&format!("from SIGKILL to active: {:.1} s", start.elapsed().as_secs_f64()));
    assert_eq!(http("/livez").status, 200);
}
