//! SIGKILL from user space.

use std::process::{Child, Command, Stdio};

use sensor_core::model::event::EventKind;
use sensor_tests::support::{
    daemon::{Daemon, delta},
    scope::{MIB, Scope, program},
};

use crate::{killed, running_kernel, unified::Unified, wait_for_line};

fn sleeper() -> Child {
    Command::new("sleep").arg("60").spawn().expect("sleep")
}

const EARLYOOM: &str = "memsensor_kill_signals_total{sender=\"earlyoom\"}";
const OTHER: &str = "memsensor_kill_signals_total{sender=\"other\"}";

#[test]
fn a_kill_by_an_oom_daemon_is_an_event() {
    let daemon = Daemon::start("").expect("daemon");
    let before = daemon.metrics().expect("metrics");
    let hog = program("hog").expect("hog");
    let mut targets = [sleeper(), sleeper()];
    // "earlyoom" in hex; then an unknown sender.
    let known = ["--comm-hex", "6561726c796f6f6d"];
    for (target, name) in targets.iter_mut().zip([&known[..], &[]]) {
        let killer =
            Command::new(&hog).args(name).args(["kill", &target.id().to_string()]).status();
        assert!(killer.expect("killer").success());
        target.wait().expect("wait");
    }
    let events =
        daemon.wait_for_events(1, |w| matches!(w, EventKind::KillSignal { .. })).expect("kill");
    let EventKind::KillSignal { sender, target, .. } = &events[0].kind else { panic!() };
    assert_eq!((sender.comm.as_str(), target.comm.as_str()), ("earlyoom", "sleep"));
    assert_eq!(target.pid, targets[0].id());
    let after = daemon.metrics().expect("metrics");
    assert_eq!(delta(&before, &after, EARLYOOM).expect("earlyoom"), 1.0);
    assert_eq!(delta(&before, &after, OTHER).expect("other"), 1.0);
    assert_eq!(events.len(), 1, "the unknown sender is only counted");
}

#[test]
fn sigkill_of_the_kernel_does_not_count_but_cgroup_kill_does() {
    let daemon = Daemon::start("").expect("daemon");
    let before = daemon.metrics().expect("metrics");
    let scope = Scope::new("sigkill", 16 * MIB).expect("scope");
    killed(&scope, &["anon", "32"]);
    let after_oom = daemon.metrics().expect("metrics");
    assert_eq!(delta(&before, &after_oom, OTHER).expect("other"), 0.0, "an OOM kill");

    let group = Unified::new("sigkill");
    let kill = group.path().join("cgroup.kill");
    if !kill.exists() {
        let (version, release) = running_kernel();
        assert!(version < (5, 14), "{} is missing on {release}", kill.display());
        println!("skipped: cgroup.kill needs Linux 5.14, this is {release}");
        return;
    }
    let mut child = group.command(program("hog").expect("hog"));
    let mut child =
        child.args(["anon", "1", "hold"]).stdout(Stdio::piped()).spawn().expect("start hog");
    wait_for_line(&mut child);
    std::fs::write(&kill, "1").expect("cgroup.kill");
    child.wait().expect("wait");
    let after = daemon.metrics().expect("metrics");
    assert_eq!(delta(&after_oom, &after, OTHER).expect("other"), 1.0, "cgroup.kill by this test");
}
