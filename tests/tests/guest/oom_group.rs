//! `memory.oom.group`: the kills of one OOM are one group, and each is counted.

use std::{
    collections::BTreeSet,
    fs,
    io::BufRead as _,
    process::{Child, Stdio},
};

use sensor_core::model::event::{Event, EventKind, OomGroup};
use sensor_tests::support::scope::{MIB, Scope, program};

use super::{enter, note, watch::Watch};

/// A process of the scope with that much memory, which it holds. With the oom_score_adj of this test,
/// -1000, the kernel would spare it.
fn holder(scope: &Scope, mib: u32) -> Child {
    let mut command = scope.command(program("hog").expect("hog"));
    let command =
        command.args(["--adj", "0", "anon", &mib.to_string(), "hold"]).stdout(Stdio::piped());
    let mut child = command.spawn().expect("hog");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    std::io::BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert!(!line.is_empty(), "the hog ended");
    child
}

/// Starts two holders in each scope and a leak in the first, and waits until all are killed. Returns
/// their process ids.
fn killed_as_group(scopes: &[Scope; 2]) -> BTreeSet<u32> {
    let holders = scopes.iter().flat_map(|scope| [holder(scope, 4), holder(scope, 4)]);
    let mut all: Vec<_> = holders.collect();
    let mut leak = scopes[0].command(program("hog").expect("hog"));
    all.push(leak.args(["--adj", "0", "anon", "96"]).stdout(Stdio::null()).spawn().expect("hog"));
    for child in &mut all {
        let status = child.wait().expect("wait");
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(9), "{status}");
    }
    all.iter().map(Child::id).collect()
}

fn group(event: &Event) -> Option<&OomGroup> {
    let EventKind::OomKill { oom_group, .. } = &event.kind else { panic!("{event:?}") };
    oom_group.as_deref()
}

fn assert_is_group(kills: &[Event], pids: &BTreeSet<u32>, cgroup: &str) {
    let victim = |event: &Event| {
        let EventKind::OomKill { victim, .. } = &event.kind else { panic!("{event:?}") };
        victim.pid
    };
    assert_eq!(&kills.iter().map(victim).collect::<BTreeSet<_>>(), pids);
    let expected = OomGroup { first: kills[0].id.clone(), cgroup: cgroup.to_owned() };
    for kill in kills {
        assert_eq!(group(kill), Some(&expected), "{kills:#?}");
    }
}

/// The kernel's count of such kills, in the report of the last one; `None` before Linux 5.17.
fn group_kills(kills: &[Event], cgroup: &str) -> Option<u64> {
    let report = kills.last().and_then(|kill| kill.report.as_ref()).expect("a report");
    let of_group = report.cgroups.iter().find(|limits| limits.path == cgroup).expect("its limits");
    assert_eq!(of_group.oom_group, Some(true));
    of_group.oom_group_kills
}

/// From the first to the last of these kills, by their ids.
fn milliseconds(kills: &[Event]) -> f64 {
    let time = |event: &Event| {
        let (_, ns) = event.id.split_once('-').expect("an id");
        u64::from_str_radix(ns, 16).expect("nanoseconds")
    };
    let [first, .., last] = kills else { return 0.0 };
    (time(last) - time(first)) as f64 / 1e6
}

#[test]
fn kills_of_an_oom_group_are_one_group() {
    enter();
    let is_kill = |kind: &EventKind| matches!(kind, EventKind::OomKill { .. });
    let scope = Scope::new("group", 64 * MIB).expect("scope");
    let children = ["a", "b"].map(|name| scope.child(name).expect("a child"));
    let file = scope.memory().join("memory.oom.group");
    if scope.is_v1() {
        assert!(!file.exists(), "{} exists", file.display());
        note("oom group: cgroup v1 has no memory.oom.group");
        return;
    }
    let watch = Watch::start(&["oom:mark_victim"]);
    // Without the group: one process is killed, alone.
    let alone = Scope::new("alone", 16 * MIB).expect("scope");
    let mut hog = alone.command(program("hog").expect("hog"));
    hog.args(["--adj", "0", "anon", "32"]).stdout(Stdio::null()).status().expect("hog");
    scope.write("memory.oom.group", "1").expect("memory.oom.group");
    let first = killed_as_group(&children);
    let second = killed_as_group(&children);
    let kills = watch.daemon.wait_for_events(11, is_kill).expect("kills");
    let lines = watch.daemon.ask(&["events"]).expect("events").0;
    let shown = watch.daemon.ask(&["event"]).expect("event").0;
    let (_, observed) = watch.stop();

    assert_eq!(kills.len(), 11, "{kills:#?}");
    assert_eq!(group(&kills[0]), None);
    let path = scope.path();
    assert_is_group(&kills[1..6], &first, &path);
    assert_is_group(&kills[6..], &second, &path);
    let lines: Vec<_> = lines.lines().filter(|line| line.contains("OOM kill")).collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, kill) in lines.iter().zip([&kills[0], &kills[1], &kills[6]]) {
        assert!(line.contains(&kill.id), "{line}");
        assert_eq!(line.ends_with("; and 4 more of the group"), group(kill).is_some(), "{line}");
    }
    assert!(shown.starts_with(&kills[6].id) && shown.contains("memory.oom.group"), "{shown}");
    // The counters count processes.
    assert_eq!(observed.went_up("memsensor_oom_kills_total", &["type=\"memcg\""]), 11.0);
    assert_eq!(observed.records("mark_victim").len(), 11, "by the kernel's trace");
    let events = fs::read_to_string(scope.memory().join("memory.events")).expect("memory.events");
    let counted = group_kills(&kills, &path);
    let expected = events.contains("oom_group_kill").then_some(2);
    assert_eq!(counted, expected, "{events}");
    note(&format!(
        "oom group: 11 processes killed by 3 OOMs, the groups within {:.1} and {:.1} ms; vmstat \
         counts {}; memory.events: {}",
        milliseconds(&kills[1..6]),
        milliseconds(&kills[6..]),
        observed.vmstat("oom_kill"),
        events.split_whitespace().collect::<Vec<_>>().join(" "),
    ));
}
