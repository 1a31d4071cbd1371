//! OOM kills and SIGKILL.

use std::process::Stdio;

use sensor_core::model::event::{EventKind, OomType};
use sensor_tests::support::counts::Record;
use sensor_tests::support::{
    daemon::{Daemon, PATIENCE},
    scope::{MIB, Scope, program},
};

use super::{field, is_missing};
use crate::{cell, hog, pressure::out_of_memory, watch::Watch};

/// The whole guest out of memory, and a cgroup at its limit.
#[test]
fn oom_kill() {
    if is_missing("oom_kill") {
        return;
    }
    let kills = |daemon: &Daemon, n| {
        daemon.wait_for_events(n, |w| matches!(w, EventKind::OomKill { .. })).expect("kills")
    };
    let watch = Watch::start(&["oom:mark_victim"]);
    let global = out_of_memory();
    let scope = Scope::new("limit", 24 * MIB).expect("scope");
    let mut limited = scope.command(program("hog").expect("hog"));
    let mut limited = limited.args(["--adj", "500", "anon", "48"]).spawn().expect("hog");
    limited.wait().expect("wait");
    let events = kills(&watch.daemon, 2);
    let (_, observed) = watch.stop();

    assert_eq!(events.len(), 2, "{events:#?}");
    assert_eq!(observed.vmstat("oom_kill"), 2.0);
    for (event, pid, wanted, adj, label, constraint) in [
        (&events[0], global, OomType::Global, 1000, "type=\"global\"", "none"),
        (&events[1], limited.id(), OomType::Memcg, 500, "type=\"memcg\"", "memcg"),
    ] {
        let EventKind::OomKill { oom_type: found, victim, memory, context, .. } = &event.kind
        else {
            panic!()
        };
        // Single pages, of any zone: all kernels here allow programs at functions.
        let context = context.as_ref().expect("the allocation");
        assert_eq!((context.order, context.constraint.as_str()), (0, constraint), "{event:#?}");
        assert_eq!((*found, victim.pid, victim.oom_score_adj), (wanted, pid, adj), "{event:#?}");
        assert_eq!((victim.comm.as_str(), victim.uid), ("hog", 0));
        assert!(memory.anon_bytes > 16 * MIB, "{memory:?}");
        assert_eq!(observed.went_up("memsensor_oom_kills_total", &[label]), 1.0, "{label}");
    }
    let EventKind::OomKill { victim, trigger, .. } = &events[1].kind else { panic!() };
    assert_eq!(victim.cgroup_id, scope.id().expect("id"));
    assert_eq!((trigger.pid, trigger.cgroup_id), (victim.pid, victim.cgroup_id));
    let marked = observed.records("mark_victim").into_iter().map(field("pid"));
    let expected = [global, limited.id()].map(f64::from);
    assert_eq!(marked.collect::<Vec<_>>(), expected, "by the kernel's trace");
    cell(
        "oom_kill",
        "verified",
        "a global and a memcg kill: victims, trigger, type, cgroup, constraint",
    );
}

#[test]
fn victim_exit() {
    if is_missing("victim_exit") {
        return;
    }
    let watch = Watch::start(&["oom:mark_victim", "sched:sched_process_exit"]);
    let pid = out_of_memory();
    let is_exit = |w: &EventKind| matches!(w, EventKind::VictimExit { .. });
    let exits = watch.daemon.wait_for_events(1, is_exit).expect("exit");
    let (_, observed) = watch.stop();
    let EventKind::VictimExit { pid: ended, seconds, .. } = exits[0].kind else { panic!() };
    assert_eq!((exits.len(), ended), (1, pid));
    assert_eq!(observed.went_up("memsensor_oom_victim_exit_seconds_count", &[]), 1.0);
    // Its memory is freed after the mark and before the parent is notified; the exit is near.
    let marked = observed.records("mark_victim")[0].seconds;
    let exited = observed.records("sched_process_exit").into_iter().filter(|r| r.tid == pid);
    let exited = exited.map(|r| r.seconds).fold(f64::NAN, f64::max);
    assert!(seconds > 0.0 && seconds < PATIENCE.as_secs_f64(), "{seconds}");
    assert!((marked + seconds - exited).abs() < 2.0, "{marked} + {seconds}, exit at {exited}");
    cell("victim_exit", "verified", &format!("memory freed after {seconds:.3} s"));
}

/// With the earlyoom of Debian.
#[test]
fn kill_signal() {
    if is_missing("kill_signal") {
        return;
    }
    let watch = Watch::start(&["signal:signal_generate"]);
    let mut victim = hog(&["anon", "64", "hold"]).spawn().expect("hog");
    // It sends SIGTERM below the first percentage and SIGKILL below the second: both always hold.
    let mut earlyoom = std::process::Command::new(program("earlyoom").expect("earlyoom"))
        .args(["-m", "99,99", "-s", "100,100", "-r", "0"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start earlyoom");
    let status = victim.wait().expect("wait");
    earlyoom.kill().expect("stop earlyoom");
    earlyoom.wait().expect("wait");
    let is_kill = |w: &EventKind| matches!(w, EventKind::KillSignal { .. });
    let kills = watch.daemon.wait_for_events(1, is_kill).expect("the kill");
    let (_, observed) = watch.stop();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(9), "earlyoom did not kill: {status}");
    let EventKind::KillSignal { sender, target, .. } = &kills[0].kind else { panic!() };
    assert_eq!((sender.pid, sender.comm.as_str()), (earlyoom.id(), "earlyoom"));
    assert_eq!((target.pid, target.comm.as_str()), (victim.id(), "hog"));
    let of = |r: &Record| {
        let is = field("sig")(r) == 9.0 && r.comm.as_deref() == Some("earlyoom");
        f64::from(u8::from(is))
    };
    let label = ["sender=\"earlyoom\""];
    let n = observed.assert_between("memsensor_kill_signals_total", &label, "signal_generate", of);
    assert_eq!(observed.went_up("memsensor_oom_kills_total", &[]), 0.0, "it is not an OOM kill");
    cell("kill_signal", "verified", &format!("{n} SIGKILL from earlyoom"));
}
