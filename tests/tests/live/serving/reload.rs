//! The configuration is read again while the daemon runs.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use sensor_core::model::event::{EventKind, OperatorCommand};
use sensor_tests::support::daemon::Daemon;

use crate::wait_until;

/// Replaces the configuration, as editors do; `edit` gets the text of the start.
fn replace(daemon: &Daemon, edit: impl Fn(&str) -> String) {
    let (file, start) = (daemon.config(), daemon.config().with_extension("start"));
    if !start.exists() {
        fs::copy(&file, &start).expect("copy");
    }
    let text = edit(&fs::read_to_string(&start).expect("read"));
    let new = file.with_extension("new");
    fs::write(&new, text).expect("write");
    fs::rename(new, file).expect("rename");
}

#[test]
fn a_reload_replaces_rules_and_names_what_needs_a_restart() {
    let daemon = Daemon::start("on_unknown = \"pass\"\n").expect("daemon");
    let is_ready = || daemon.get("/readyz", "").expect("readyz").status == 200;
    assert!(is_ready(), "all rules are off");
    // A threshold of 0 is always reached.
    let off = "rules.stalled.enabled = false";
    replace(&daemon, |start| start.replace(off, "rules.stalled.full_share_10s = 0.0"));
    let (output, code) = daemon.ask(&["reload"]).expect("reload");
    assert_eq!((output.as_str(), code), ("reloaded: rules\n", Some(0)));
    wait_until("the sensing thread uses the rule", || !is_ready());
    let (explained, _) = daemon.ask(&["explain"]).expect("explain");
    assert!(explained.contains("stalled"), "{explained}");
    replace(&daemon, |start| {
        let start = start.replace("interval = \"100ms\"", "interval = \"200ms\"");
        format!("verdict.rise_per_second = 1.0\nverdict.recover_after = \"1s\"\n{start}")
    });
    let (output, code) = daemon.ask(&["reload"]).expect("reload");
    let expected = "reloaded: rules, verdict; changed, but needs a restart: interval\n";
    assert_eq!((output.as_str(), code), (expected, Some(0)));
    wait_until("the rule is off, and the scope recovers at the new pace", is_ready);
    let is_reload = |kind: &EventKind| {
        matches!(kind, EventKind::Operator { command: OperatorCommand::Reload, uid: 0, .. })
    };
    assert_eq!(daemon.wait_for_events(2, is_reload).expect("events").len(), 2);
}

#[test]
fn a_mistake_in_the_configuration_changes_nothing() {
    let daemon = Daemon::start("growing_processes = 7\n").expect("daemon");
    let series = || {
        let metrics = daemon.get("/metrics", "").expect("metrics").body;
        metrics.lines().any(|line| line.starts_with("memsensor_process_growth_bytes_per_second{"))
    };
    wait_until("it has the metric", series);
    let wrong = |start: &str| {
        start.replace("growing_processes = 7", "growing_processes = 0\non_unknown = \"maybe\"")
    };
    replace(&daemon, wrong);
    let (output, code) = daemon.ask(&["reload"]).expect("reload");
    assert_eq!(code, Some(1), "{output}");
    for part in ["nothing is changed", "config.toml", "on_unknown", "line"] {
        assert!(output.contains(part), "{part}: {output}");
    }
    let pid = Pid::from_raw(daemon.pid().cast_signed()).expect("a pid");
    kill_process(pid, Signal::HUP).expect("SIGHUP");
    wait_until("logged", || daemon.log().contains("SIGHUP: nothing is changed"));
    assert!(series(), "the old value holds");
    replace(&daemon, |start| start.replace("growing_processes = 7", "growing_processes = 0"));
    kill_process(pid, Signal::HUP).expect("SIGHUP");
    wait_until("logged", || daemon.log().contains("SIGHUP: reloaded: growing_processes"));
    wait_until("the metric is gone", || !series());
    assert_eq!(daemon.get("/livez", "").expect("/livez").status, 200);
}
