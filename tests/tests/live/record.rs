//! The report of a kill: its processes and cgroup, also a removed one, and the usage before it.

use std::{collections::BTreeSet, fs, process::Stdio, time::Instant};

use rustix::process::{Pid, Signal, kill_process};
use sensor_core::model::event::{Event, EventKind};
use sensor_tests::support::{
    daemon::{Daemon, delta},
    scope::{MIB, Scope},
};

use crate::{
    OOM_KILLS, as_kill, assert_no_losses, hog, is_kill, killed, oom_kills_of_vmstat, wait_for_line,
};

/// The events after this one, from `/api/v1/events`.
fn page_after(daemon: &Daemon, id: &str) -> Vec<Event> {
    let body = daemon.get(&format!("/api/v1/events?after={id}"), "*/*").expect("events").body;
    let mut page: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    serde_json::from_value(page["events"].take()).expect("events")
}

fn show_event(daemon: &Daemon, words: &[&str]) -> Event {
    let (output, code) = daemon.ask(&[&["event", "--json"], words].concat()).expect("event");
    assert_eq!(code, Some(0), "{output}");
    serde_json::from_str(&output).expect("an event")
}

/// Stops the daemon while a cgroup is made, its process killed and the cgroup removed.
fn killed_while_stopped(daemon: &Daemon, name: &str) -> (u64, String) {
    let pid = Pid::from_raw(daemon.pid().cast_signed()).expect("its id");
    kill_process(pid, Signal::STOP).expect("stop");
    let scope = Scope::new(name, 16 * MIB).expect("scope");
    killed(&scope, &["anon", "32"]);
    let removed = (scope.id().expect("id"), scope.path());
    drop(scope);
    kill_process(pid, Signal::CONT).expect("go on");
    removed
}

#[test]
fn a_kill_in_a_removed_cgroup_has_its_path() {
    let daemon = Daemon::start("").expect("daemon");
    let before = daemon.metrics().expect("metrics");
    let (id, path) = killed_while_stopped(&daemon, "short-lived.service");
    let events = daemon.wait_for_events(1, is_kill).expect("the kill");
    let (_, victim, trigger) = as_kill(&events[0].kind);
    assert_eq!((victim.cgroup_id, victim.cgroup.as_deref()), (id, Some(path.as_str())));
    assert_eq!(victim.workload.unit.as_deref(), Some(path.trim_start_matches('/')));
    assert_eq!(trigger.cgroup, victim.cgroup);
    let after = daemon.metrics().expect("metrics");
    for series in ["memsensor_cgroups_created_total", "memsensor_cgroups_removed_total"] {
        assert!(delta(&before, &after, series).expect("series") >= 1.0, "{series}");
    }
    assert_no_losses(&before, &after);
}

/// The control of the test above: without the probe the path is unknown, and none is invented.
#[test]
fn without_the_probe_a_removed_cgroup_has_no_path() {
    let daemon = Daemon::start("[probes]\ndisabled = [\"cgroups\"]\n").expect("daemon");
    let (id, _) = killed_while_stopped(&daemon, "unseen.service");
    let events = daemon.wait_for_events(1, is_kill).expect("the kill");
    let (_, victim, _) = as_kill(&events[0].kind);
    assert_eq!((victim.cgroup_id, &victim.cgroup), (id, &None));
    // An existing cgroup is found by a walk.
    let scope = Scope::new("seen.service", 16 * MIB).expect("scope");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    killed(&scope, &["anon", "32"]);
    let events = daemon.wait_for_events(2, is_kill).expect("the kill");
    assert_eq!(as_kill(&events[1].kind).1.cgroup.as_deref(), Some(scope.path().as_str()));
}

/// The victim is not the process that leaks: the leak is protected by its score, the victim is not.
#[test]
fn the_report_names_the_leaking_process() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("culprit.slice", 160 * MIB).expect("scope");
    let service = scope.child("web.service").expect("child");
    let mut victim = hog(&service, &["--adj", "900", "--comm-hex", "776562", "anon", "60", "hold"]);
    let mut victim = victim.stdout(Stdio::piped()).spawn().expect("start hog");
    wait_for_line(&mut victim);
    // Held until a scan has seen it, as the memory of a slow leak would be.
    let agent = scope.child("agent.service").expect("child");
    let mut leak = hog(&agent, &["--comm-hex", "6167656e74", "leak", "120", "20"]);
    let mut leak = leak.stdout(Stdio::piped()).spawn().expect("start hog");
    victim.wait().expect("the victim is killed");
    let events = daemon.wait_for_events(1, is_kill).expect("the kill");
    let (pid, agent_pid) = (victim.id(), leak.id());
    crate::wait_until("its memory is freed", || {
        let event = show_event(&daemon, &[&events[0].id]);
        matches!(event.kind, EventKind::OomKill { memory_back_seconds: Some(s), .. } if s > 0.0)
    });
    // While the victim's memory is being freed, the kernel may also kill the leaking process.
    let event = show_event(&daemon, &[&events[0].id]);
    let text = daemon.ask(&["event", &event.id]).expect("event").0;
    leak.kill().expect("kill");
    leak.wait().expect("wait");
    let (_, found, trigger) = as_kill(&event.kind);
    assert_eq!((found.pid, trigger.pid), (pid, agent_pid));
    let report = event.report.expect("its report");
    // The victim's cgroup has no limit, its parent has one.
    let paths: Vec<_> = report.cgroups.iter().map(|l| l.path.clone()).collect();
    assert_eq!(paths[..2], [service.path(), scope.path()]);
    let limits: Vec<_> = report.cgroups.iter().map(|l| l.max_bytes).collect();
    assert_eq!(limits[..2], [None, Some(160 * MIB)]);
    assert!(report.contradictions.is_empty(), "{:?}", report.contradictions);
    let stalled = report.stalled.expect("stalls of the minute before");
    assert!(stalled.within_seconds > 0.0 && stalled.within_seconds <= 61.0, "{stalled:?}");
    // It started after the last scan of the calm phase.
    let leaked =
        report.top_growers.iter().find(|p| p.pid == agent_pid).expect("the leaking process");
    assert!(leaked.growth.ten_minutes_bytes > 10 * MIB.cast_signed(), "{leaked:?}");
    assert_eq!(leaked.cgroup_path.as_deref(), Some(agent.path().as_str()));
    assert_eq!(leaked.workload.unit.as_deref(), Some("agent.service"));
    assert!(report.largest.iter().any(|p| p.pid == agent_pid), "{:?}", report.largest);
    for part in [&*event.id, "web", "agent", "160.0", "grew most", "memory free  after"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(text.lines().count() <= 50, "longer than a screen:\n{text}");
}

/// The event by HTTP, and from the exemplar of the metric.
#[test]
fn the_exemplar_of_the_kill_count_names_the_event() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("exemplar", 16 * MIB).expect("scope");
    killed(&scope, &["anon", "32"]);
    let id = daemon.wait_for_events(1, is_kill).expect("the kill")[0].id.clone();
    let mut open = String::new();
    crate::wait_until("the count has an exemplar", || {
        open = daemon.get("/metrics", "application/openmetrics-text").expect("metrics").body;
        open.contains(" # {")
    });
    let line = open.lines().find(|l| l.starts_with(OOM_KILLS[1])).expect("the count");
    let (_, exemplar) = line.split_once(" # ").unwrap_or_else(|| panic!("{line}"));
    assert!(exemplar.starts_with(&format!("{{event_id=\"{id}\"}} 1")), "{exemplar}");
    let classic = daemon.get("/metrics", "text/plain").expect("metrics").body;
    assert!(classic.contains(OOM_KILLS[1]) && !classic.contains(&id), "{classic}");
    let one = daemon.get(&format!("/api/v1/events?id={id}"), "*/*").expect("events");
    let one: serde_json::Value = serde_json::from_str(&one.body).expect("JSON");
    assert_eq!(one["events"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&one["events"][0]["id"], &one["events"][0]["event"]),
        (&id.clone().into(), &"oom_kill".into())
    );
    assert!(one["events"][0]["report"].is_object(), "{one}");
    let list = daemon.get("/api/v1/events", "*/*").expect("events").body;
    assert!(list.contains(&id) && !list.contains("report"), "{list}");
    let none = daemon.get("/api/v1/events?id=no", "*/*").expect("a response");
    assert_eq!(none.status, 404);
}

/// Names with terminal escapes, quotes, tags and line separators, in every output.
#[test]
fn hostile_names_are_escaped_in_every_output() {
    // The kernel refuses a line break.
    const NAME: &str = "x\u{1b}]0;owned\u{7}\u{9b}31m\"<b>{}\\,#\t\u{2028}\u{2029}";
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new(NAME, 16 * MIB).expect("scope");
    // ESC [ 2 J " < / s > and a line separator
    killed(&scope, &["--comm-hex", "1b5b324a223c2f733ee280a8", "anon", "32"]);
    let id = daemon.wait_for_events(1, is_kill).expect("the kill")[0].id.clone();
    let mut child = hog(&scope, &["--comm-hex", "1b5b324a223c2f733ee280a8", "anon", "4", "hold"]);
    let mut child = child.stdout(Stdio::piped()).spawn().expect("start hog");
    wait_for_line(&mut child);
    crate::wait_until("top shows it", || {
        daemon.ask(&["top", "-n", "500"]).expect("top").0.contains("owned")
    });
    crate::wait_until("the metrics show it", || {
        daemon.get("/metrics", "").expect("metrics").body.contains("owned")
    });
    let mut outputs = vec![
        daemon.get("/metrics", "application/openmetrics-text").expect("metrics").body,
        daemon.get("/api/v1/events", "*/*").expect("events").body,
    ];
    for words in [
        &["events"][..],
        &["events", "--json"],
        &["event", &id],
        &["event", "--json"],
        &["top", "-n", "500"],
        &["top", "-n", "500", "--json"],
    ] {
        let (output, code) = daemon.ask(words).expect("a response");
        assert_eq!(code, Some(0), "{words:?}: {output}");
        assert!(words.contains(&"--json") || output.contains("owned"), "{words:?}: {output}");
        outputs.push(output);
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    for output in outputs {
        let harmful = |c: char| (c.is_control() && c != '\n') || "\u{2028}\u{2029}".contains(c);
        assert!(!output.contains(harmful), "{output:?}");
    }
}

/// 200 kills in about two seconds: each has an event with the right process.
#[test]
fn every_kill_of_a_storm_has_an_event() {
    const KILLS: usize = 200;
    let daemon = Daemon::start("").expect("daemon");
    let scopes: Vec<_> =
        (0..4).map(|i| Scope::new(&format!("storm{i}"), 4 * MIB).expect("scope")).collect();
    let (before, kernel) = (daemon.metrics().expect("metrics"), oom_kills_of_vmstat());
    let begun = Instant::now();
    let mut pids = BTreeSet::new();
    for round in 0..KILLS / scopes.len() {
        let running = scopes.iter().map(|scope| {
            let comm = format!("{:x}", 0x6161_u32 + u32::try_from(round).expect("small"));
            (scope, hog(scope, &["--comm-hex", &comm, "anon", "8"]).spawn().expect("start hog"))
        });
        for (_, mut child) in running.collect::<Vec<_>>() {
            child.wait().expect("wait");
            pids.insert(child.id());
        }
    }
    let took = begun.elapsed();
    let killed = oom_kills_of_vmstat() - kernel;
    assert_eq!((killed, pids.len()), (KILLS as f64, KILLS), "in {took:?}");
    let events = daemon.wait_for_events(KILLS, is_kill).expect("the kills");
    let after = daemon.metrics().expect("metrics");
    let found: BTreeSet<_> = events.iter().map(|e| as_kill(&e.kind).1.pid).collect();
    assert_eq!((events.len(), found), (KILLS, pids), "in {took:?}");
    assert_eq!(delta(&before, &after, OOM_KILLS[1]).expect("memcg"), KILLS as f64);
    assert_no_losses(&before, &after);
    let paths: BTreeSet<_> = scopes.iter().map(Scope::path).collect();
    let reported: BTreeSet<_> = events
        .iter()
        .filter_map(|e| as_kill(&e.kind).1.cgroup.as_deref().map(str::to_owned))
        .collect();
    assert_eq!(reported, paths);
    assert_pages_are_complete(&daemon, &events[0]);
    println!("{KILLS} kills in {took:?}");
}

/// Reading `?after=ID` page by page from an event returns every later one, in order.
fn assert_pages_are_complete(daemon: &Daemon, first: &Event) {
    let mut seen = vec![first.clone()];
    loop {
        let page = page_after(daemon, &seen[seen.len() - 1].id);
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 100, "{} events", page.len());
        seen.extend(page);
    }
    let seen: Vec<_> = seen.into_iter().map(|event| event.seq).collect();
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    let all = daemon.events().expect("events").into_iter().map(|event| event.seq);
    assert_eq!(seen, all.filter(|seq| (first..=last).contains(seq)).collect::<Vec<_>>());
    assert!(seen.len() > 200, "kills and exits: {}", seen.len());
    let latest = page_after(daemon, "unknown");
    assert_eq!(latest.len(), 100, "an unknown id returns the latest");
    assert!(latest[99].seq >= last, "an unknown id returns the latest");
}

/// A process id is reused, and a process changes by exec: each event names the process of its time.
#[test]
fn a_reused_process_id_names_the_process_of_its_time() {
    const FIRST: &str = "6669727374";
    const SECOND: &str = "7365636f6e64";
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("reuse", 16 * MIB).expect("scope");
    let kill = |name: &str, pid: Option<u32>| {
        if let Some(pid) = pid {
            // The next process gets the id after this one.
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("ns_last_pid");
        }
        killed(&scope, &["--comm-hex", name, "anon", "32"])
    };
    let mut first = kill(FIRST, None);
    // Other programs also start processes: repeat until an id is reused.
    let mut same = false;
    for _ in 0..50 {
        let second = kill(SECOND, Some(first));
        same = second == first;
        if same {
            break;
        }
        first = kill(FIRST, None);
    }
    assert!(same, "no process got the id of another in 50 attempts");
    crate::wait_until("both have events", || {
        let events = daemon.events().expect("events");
        let kills = events.iter().filter(|e| is_kill(&e.kind)).map(|e| as_kill(&e.kind).1.clone());
        let names: Vec<_> = kills.filter(|v| v.pid == first).map(|v| v.comm).collect();
        names.ends_with(&["first".to_owned(), "second".to_owned()])
    });
}

/// The allocation's order and flags come from the probe or the kernel log; where both exist, they
/// agree.
#[test]
fn the_kernel_log_completes_the_report() {
    let daemon = Daemon::start("").expect("daemon");
    let attached = "memsensor_probe_attached{probe=\"oom_kill\",program=\"oom_context\"}";
    let measured = daemon.metrics().expect("metrics")[attached] == 1.0;
    // With systemd's escape of a dash, and a character that the kernel log escapes.
    let scope = Scope::new("logged\\x2d\u{e9}", 16 * MIB).expect("scope");
    // The kernel logs ten kills per five seconds, and earlier tests cause more.
    std::thread::sleep(std::time::Duration::from_secs(6));
    killed(&scope, &["anon", "32"]);
    daemon.wait_for_events(1, is_kill).expect("the kill");
    let event = show_event(&daemon, &[]);
    let EventKind::OomKill { context, .. } = &event.kind else { panic!("{event:?}") };
    let context = context.as_ref().expect("known");
    assert_eq!((context.order, context.constraint.as_str()), (0, "memcg"), "{context:?}");
    assert_eq!(context.from_log, !measured, "{context:?}");
    assert!(context.gfp_flags.starts_with("0x"), "{context:?}");
    let report = event.report.expect("its report");
    assert_eq!(report.oom_cgroup, Some(scope.path()));
    assert!(report.contradictions.is_empty(), "{:?}", report.contradictions);
}

/// systemd-oomd marks the cgroups that it kills with extended attributes.
#[test]
fn marks_of_systemd_oomd_are_reported() {
    let daemon = Daemon::start("").expect("daemon");
    let scope = Scope::new("marked", 16 * MIB).expect("scope");
    // systemd-oomd supports only v2.
    let marked = sensor_user::host::cgroup::mounts::unified_root().is_some();
    for (name, value) in [("user.oomd_ooms", b"2"), ("user.oomd_kill", b"7")] {
        let flags = rustix::fs::XattrFlags::empty();
        let set = rustix::fs::setxattr(scope.unified(), name, value, flags);
        assert!(set.is_ok() || !marked, "{name}: {set:?}");
    }
    killed(&scope, &["anon", "32"]);
    let id = daemon.wait_for_events(1, is_kill).expect("the kill")[0].id.clone();
    let report = show_event(&daemon, &[&id]).report.expect("its report");
    let marks = (report.cgroups[0].oomd_ooms, report.cgroups[0].oomd_kills);
    assert_eq!(marks, (marked.then_some(2), marked.then_some(7)));
}
