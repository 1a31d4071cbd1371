//! Faults of the host around the daemon: it goes on, says which half is missing, and is whole again
//! when the fault ends.
//!
//! * [`reads`]: files and maps that cannot be read, waits that fail.
//! * [`state`]: directories of state that are full, read-only or missing.
//! * [`processes`]: other daemons, kills, stops, and namespaces.
//! * [`cgroups`]: scopes that come and go, and cgroups without number.
//!
//! Each test has a short form. `cargo xtask faults --long` runs the long forms, which take minutes.

mod cgroups;
mod processes;
mod reads;
mod state;

use std::path::PathBuf;

use sensor_core::model::event::Event;
use sensor_tests::support::daemon::Daemon;

use crate::{as_kill, is_kill, wait_until};

/// `short` normally, `long` in the long form of the tests.
pub(crate) fn short_or_long<T>(short: T, long: T) -> T {
    if std::env::var_os("MEMSENSOR_LONG_FAULTS").is_some() { long } else { short }
}

/// Prints a figure for the summary of `cargo xtask faults`.
pub(crate) fn figure(text: &str) {
    println!("measured: {text}");
}

/// `/readyz` of the host or a scope; status and JSON.
fn readyz(daemon: &Daemon, scope: &str) -> (u16, serde_json::Value) {
    let answer = daemon.get(&format!("/readyz/{scope}"), "").expect("an answer");
    (answer.status, serde_json::from_str(&answer.body).expect("JSON"))
}

/// The event of the kill of this process, among those of other programs.
fn kill_of(daemon: &Daemon, pid: u32) -> Event {
    let find = || {
        let events = daemon.events().expect("events");
        events.into_iter().find(|e| is_kill(&e.kind) && as_kill(&e.kind).1.pid == pid)
    };
    wait_until("the kill is recorded", || find().is_some());
    find().expect("it was there")
}

/// A new directory.
fn directory(name: &str) -> PathBuf {
    let name = format!("memsensor-test-{}-{name}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("mkdir {}: {e}", dir.display()));
    dir
}
