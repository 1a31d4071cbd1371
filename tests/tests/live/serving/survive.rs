//! The daemon responds while the host around it thrashes: locked memory, real-time threads, rate
//! limits.

use std::{
    io::Read as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use sensor_tests::{
    lab::thrash::{
        native::{self, SwapSpeed},
        targets::Target,
    },
    support::daemon::Daemon,
};

use super::agent_check;

/// In a cgroup whose other programs lose pages to reclaim, memsensor keeps all of its own and
/// answers every query.
#[test]
fn its_memory_is_not_reclaimed_in_a_thrash() {
    let run = native::run(SwapSpeed::Fast, Duration::from_secs(2), Duration::from_secs(10));
    let run = run.expect("a cgroup that thrashes");
    assert!(run.ended.is_empty(), "ended: {:?}", run.ended);
    let change = |name: &str| {
        let of = |all: &[(String, _)]| all.iter().find(|(n, _)| *n == name).expect("measured").1;
        (of(&run.calm), of(&run.thrash))
    };
    let (before, after) = change("memsensor");
    assert_eq!(after.swapped, 0);
    assert_eq!(after.major_faults, before.major_faults, "no page was read again");
    assert!(after.resident >= before.resident, "{} < {} KiB", after.resident, before.resident);
    let (before, after) = change("nginx");
    assert!(
        after.swapped > before.swapped || after.major_faults > before.major_faults,
        "nginx lost no pages: {before:?}, {after:?}"
    );
    for target in [Target::Readyz, Target::AgentCheck] {
        let results = run.targets.iter().find(|results| results.target == target);
        let requests = &results.expect("it was queried").requests;
        let failed: Vec<_> = requests.iter().filter(|r| r.outcome.is_err()).collect();
        let name = target.name();
        assert!(requests.len() > 100 && failed.is_empty(), "{name}: {failed:?}");
    }
}

/// Also the code that has not run yet: it must not wait for a disk under memory pressure.
#[test]
fn all_of_its_code_is_resident() {
    let daemon = Daemon::start("").expect("daemon");
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps", daemon.pid())).expect("smaps");
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let (mut name, mut size, mut code) = ("", None, 0);
    for line in maps.lines() {
        match line.split_once(':') {
            Some(("Size", _)) => size = kib(line),
            Some(("Rss", _)) if name.starts_with('/') => {
                assert_eq!(kib(line), size, "of {name}");
                code += size.expect("a size");
            }
            Some((range, _)) if range.contains('-') => {
                name = line.split_whitespace().nth(5).unwrap_or_default();
            }
            _ => {}
        }
    }
    assert!(code > 1024, "{code} KiB of code");
}

#[test]
fn threads_have_real_time_priority_or_the_log_says_why_not() {
    let daemon = Daemon::start("").expect("daemon");
    let has = !daemon.log().contains("could not set up real-time priority");
    // Fields 40 and 41 of proc_pid_stat(5), counted from the end of the name: SCHED_RR is 2.
    let expected = if has { ["1", "2"] } else { ["0", "0"] };
    for task in std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("threads") {
        let stat = task.expect("thread").path().join("stat");
        let stat = std::fs::read_to_string(stat).expect("stat");
        // No client waits for these threads, so they have none.
        let normal = ["(cgroups)", "(log)", "(record)"].iter().any(|name| stat.contains(name));
        let expected = if normal { ["0", "0"] } else { expected };
        let fields: Vec<_> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        assert_eq!(fields[37..39], expected, "{stat}");
    }
}

/// Of 300 connections at once from one address, a bounded number is served in each period; the
/// others are closed.
#[test]
fn a_flood_of_connections_is_rate_limited() {
    let daemon = Daemon::start("").expect("daemon");
    let begun = Instant::now();
    let flood: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(daemon.listening[1]).expect("into the backlog"))
        .collect();
    let (mut served, mut closed) = (0, 0);
    for mut stream in flood {
        // The end of the stream is the end of the request. It may be closed already.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut line = String::new();
        match stream.read_to_string(&mut line) {
            Ok(_) if line == "up 100%\n" => served += 1,
            _ => closed += 1,
        }
    }
    let periods = begun.elapsed().as_millis() / 100 + 1;
    assert!(served >= 25 && closed >= 1, "{served} served, {closed} closed");
    // 25 in each period, and the 32 that waited for it.
    assert!(served <= 57 * periods, "{served} served in {periods} periods");
    assert_eq!(agent_check(&daemon), "up 100%\n");
}
