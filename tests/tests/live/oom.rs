//! OOM kills: each is counted once, with its victim and its trigger.

use std::{collections::BTreeMap, process::Stdio};

use sensor_core::model::event::{EventKind, OomType};
use sensor_tests::support::{
    daemon::{Daemon, PATIENCE, delta},
    scope::{MIB, Scope},
};

use crate::{
    OOM_KILLS, as_kill, assert_no_losses, hog, is_kill, killed, oom_kills_of_vmstat, skipped,
    wait_for_line,
};

#[test]
fn an_oom_kill_is_in_metrics_and_events() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("kill", 32 * MIB).expect("scope");
    let (before, kernel_before) = (daemon.metrics().expect("metrics"), oom_kills_of_vmstat());
    let pid = killed(&scope, &["--adj", "321", "anon", "64"]);
    let events = daemon.wait_for_events(1, is_kill).expect("the kill");
    let after = daemon.metrics().expect("metrics");

    assert_eq!(oom_kills_of_vmstat() - kernel_before, 1.0);
    assert_eq!(delta(&before, &after, OOM_KILLS[0]).expect("global"), 0.0);
    assert_eq!(delta(&before, &after, OOM_KILLS[1]).expect("memcg"), 1.0);
    assert_eq!(events.len(), 1);
    let (oom, victim, trigger) = as_kill(&events[0].kind);
    assert_eq!(oom, OomType::Memcg);
    for process in [victim, trigger] {
        assert_eq!((process.pid, process.comm.as_str(), process.uid), (pid, "hog", 0));
        assert_eq!(process.cgroup_id, scope.id().expect("id"));
        assert_eq!(process.cgroup.as_deref(), Some(scope.path().as_str()));
        assert_eq!(process.oom_score_adj, 321);
    }
    let EventKind::OomKill { memory, .. } = &events[0].kind else { panic!() };
    assert!(memory.anon_bytes > 24 * MIB && memory.anon_bytes <= 32 * MIB, "{memory:?}");
    assert!(memory.virtual_bytes >= 64 * MIB, "{memory:?}");
    assert!(memory.page_tables_bytes > 0 && memory.page_tables_bytes < MIB, "{memory:?}");
    // The time until its memory was freed is in the histogram.
    let exits =
        daemon.wait_for_events(1, |w| matches!(w, EventKind::VictimExit { .. })).expect("exit");
    let EventKind::VictimExit { pid: ended, seconds, .. } = exits[0].kind else { panic!() };
    assert_eq!(ended, pid);
    assert!(seconds > 0.0 && seconds < PATIENCE.as_secs_f64());
    let exits = delta(&before, &after, "memsensor_oom_victim_exit_seconds_count").expect("count");
    assert_eq!(exits, 1.0);
    // The limit reclaim before the kill is a stall.
    let stall = "memsensor_stall_seconds_total{cause=\"memcg_reclaim\"}";
    assert!(delta(&before, &after, stall).expect("stall") > 0.0);
}

#[test]
fn the_victim_is_not_the_trigger() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("trigger", 64 * MIB).expect("scope");
    let big = &["--adj", "1000", "--comm-hex", "626967", "anon", "44", "hold"];
    let mut victim = hog(&scope, big).stdout(Stdio::piped()).spawn().expect("victim");
    wait_for_line(&mut victim);
    // Small, but its allocation exceeds the limit: by little, so that the first freed pages of the
    // victim suffice, or the kernel may kill it too while the rest is being freed.
    let small = &["--comm-hex", "736d616c6c", "anon", "22"];
    let kernel_before = oom_kills_of_vmstat();
    let mut trigger = hog(&scope, small).spawn().expect("trigger");
    let status = trigger.wait().expect("wait");
    victim.wait().expect("wait");
    let kills = if status.success() { 1 } else { 2 };
    assert_eq!(oom_kills_of_vmstat() - kernel_before, kills as f64, "trigger: {status}");
    let events = daemon.wait_for_events(kills, is_kill).expect("the kill");
    assert_eq!(events.len(), kills);
    let (_, found_victim, found_trigger) = as_kill(&events[0].kind);
    assert_eq!((found_victim.pid, found_victim.comm.as_str()), (victim.id(), "big"));
    assert_eq!((found_trigger.pid, found_trigger.comm.as_str()), (trigger.id(), "small"));
    assert_eq!((found_victim.oom_score_adj, found_trigger.oom_score_adj), (1000, 0));
}

#[test]
fn parallel_kills_are_each_counted_once() {
    const SCOPES: usize = 8;
    const ROUNDS: usize = 3;
    let daemon = Daemon::start("").expect("daemon");
    let scopes: Vec<_> = (0..SCOPES)
        .map(|i| Scope::new(&format!("parallel{i}"), 16 * MIB).expect("scope"))
        .collect();
    let (before, kernel_before) = (daemon.metrics().expect("metrics"), oom_kills_of_vmstat());
    let mut expected = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut running: Vec<_> = scopes
            .iter()
            .map(|scope| (scope, hog(scope, &["anon", "32"]).spawn().expect("start hog")))
            .collect();
        for (scope, child) in &mut running {
            child.wait().expect("wait");
            expected.insert(child.id(), scope.path());
        }
    }
    let after = daemon.metrics().expect("metrics");
    let kernel = oom_kills_of_vmstat() - kernel_before;
    assert_eq!(kernel, (SCOPES * ROUNDS) as f64);
    let counted = delta(&before, &after, OOM_KILLS[1]).expect("memcg");
    let skipped = skipped(&before, &after);
    assert!(counted <= kernel && counted + skipped >= kernel, "{counted}, {skipped} skipped");
    let missing = (0..SCOPES * ROUNDS).filter(|i| counted + (*i as f64) < kernel).count();
    let events = daemon.wait_for_events(SCOPES * ROUNDS - missing, is_kill).expect("kills");
    let found: BTreeMap<_, _> = events
        .iter()
        .map(|event| as_kill(&event.kind).1)
        .map(|victim| (victim.pid, victim.cgroup.as_deref().unwrap_or_default().to_owned()))
        .collect();
    assert!(found.iter().all(|(pid, path)| expected.get(pid) == Some(path)), "{found:?}");
    assert_eq!((found.len(), events.len()), (expected.len() - missing, found.len()), "none twice");
    assert_eq!(delta(&before, &after, OOM_KILLS[0]).expect("global"), 0.0);
    assert_no_losses(&before, &after);
}

#[test]
fn kills_of_forking_and_threaded_victims_agree_with_vmstat() {
    let daemon = Daemon::start("").expect("daemon");
    let (before, kernel_before) = (daemon.metrics().expect("metrics"), oom_kills_of_vmstat());
    let forks = Scope::new("forks", 48 * MIB).expect("scope");
    // The parent waits for children, of which several are killed; it may be killed too.
    let mut parent = hog(&forks, &["forks", "24", "4"]).spawn().expect("forks");
    let threads = Scope::new("threads", 32 * MIB).expect("scope");
    let threaded = killed(&threads, &["threads", "16", "4"]);
    daemon.wait_for_events(2, is_kill).expect("kills");
    drop(forks);
    parent.wait().expect("wait");
    let kernel = oom_kills_of_vmstat() - kernel_before;
    let after = daemon.metrics().expect("metrics");
    assert!(kernel >= 2.0, "{kernel} kills");
    let counted = delta(&before, &after, OOM_KILLS[1]).expect("memcg");
    let skipped = skipped(&before, &after);
    assert!(counted <= kernel && counted + skipped >= kernel, "{counted} of {kernel}, {skipped}");
    let events = daemon.events().expect("events");
    let victims: Vec<_> = events.iter().filter(|e| is_kill(&e.kind)).collect();
    assert_eq!(victims.len() as f64, counted, "an event for each");
    let of_threaded = victims.iter().filter(|e| as_kill(&e.kind).1.pid == threaded).count();
    assert!(
        of_threaded == 1 || skipped > 0.0,
        "{of_threaded} kills of one process with 16 threads"
    );
}
