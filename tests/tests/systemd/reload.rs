//! `systemctl reload`.

use crate::service::{
    SERVICE, configure, enter, http, main_pid, memsensor, property, run, systemctl, wait_until,
    write_config,
};

/// A host that recovers at once.
const QUICK: &str = "verdict.rise_per_second = 1.0\nverdict.recover_after = \"1s\"\n";

#[test]
fn a_reload_takes_over_the_configuration() {
    enter();
    configure(QUICK);
    let pid = main_pid();
    wait_until("ready", || http("/readyz").status == 200);
    // A threshold of 0 is always reached.
    write_config(&format!("{QUICK}rules.stalled.full_share_10s = 0.0\n"));
    systemctl(&["reload", SERVICE]);
    wait_until("the rule holds", || http("/readyz").status == 503);
    // Again: the first one must have left everything as it was.
    write_config(QUICK);
    systemctl(&["reload", SERVICE]);
    wait_until("the rule is off", || http("/readyz").status == 200);
    assert_eq!((main_pid(), property("ActiveState").as_str()), (pid, "active"));
    let (text, code) = memsensor(&["drain", "--reason", "after the reload"]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_broken_configuration_changes_nothing_and_the_reload_fails() {
    enter();
    configure(QUICK);
    let pid = main_pid();
    wait_until("ready", || http("/readyz").status == 200);
    write_config("rules.stalled.full_share_10s = 0.0\non_unknown = \"maybe\"\n");
    let (text, code) = run("systemctl", &["reload", SERVICE]);
    assert_eq!(code, Some(1), "{text}");
    let (log, _) = run("journalctl", &["--no-pager", "--unit", SERVICE, "--lines", "20"]);
    for part in ["nothing is changed", "config.toml", "on_unknown"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!((main_pid(), property("ActiveState").as_str()), (pid, "active"));
    assert_eq!(http("/readyz").status, 200, "the old rules hold");
}
