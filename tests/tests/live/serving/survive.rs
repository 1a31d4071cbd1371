//! What keeps it answering while the host around it thrashes.

use std::{
    io::Read as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use sensor_tests::{
    lab::thrash::{
        targets::Target,
        native::{self, SwapSpeed},
    },
    support::daemon::Daemon,
};

use super::agent_check;

/// All of its memory stays, and it answers every question, in a cgroup from whose other programs pages
/// are taken.
#[test]
fn nothing_of_it_is_reclaimed() {
    let run = native::run(SwapSpeed::Fast, Duration::from_secs(2), Duration::from_secs(10));
    let run = run.expect("a cgroup that thrashes");
    assert!(run.dead.is_empty(), "ended: {:?}", run.dead);
    let change = |name: &str| {
        let of = |all: &[(String, _)]| all.iter().find(|(n, _)| *n == name).expect("weighed").1;
        (of(&run.calm), of(&run.thrash))
    };
    let (before, after) = change("memsensor");
    assert_eq!(after.swapped, 0);
    assert_eq!(after.major_faults, before.major_faults, "nothing had to be read again");
    assert!(after.resident >= before.resident, "{} < {} KiB", after.resident, before.resident);
    let (before, after) = change("nginx");
    assert!(
        after.swapped > before.swapped || after.major_faults > before.major_faults,
        "others' pages were taken: {before:?}, {after:?}"
    );
    for asked in run.asked.iter().filter(|a| matches!(a.target, Target::Readyz | Target::AgentCheck)) {
        let failed: Vec<_> = asked.requests.iter().filter(|r| r.outcome.is_err()).collect();
        assert!(
            asked.requests.len() > 100 && failed.is_empty(),
            "{}: {failed:?}",
            asked.target.name()
        );
    }
}

/// What it has not used yet as well: it must not wait for a disk in an emergency.
#[test]
fn all_of_its_code_is_in_memory() {
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
fn every_thread_runs_before_others_or_says_that_it_cannot() {
    let daemon = Daemon::start("").expect("daemon");
    let has = !daemon.log().contains("without real-time priority");
    // Of proc_pid_stat(5) fields 40 and 41, counted from behind the name: SCHED_RR is 2.
    let expected = if has { ["1", "2"] } else { ["0", "0"] };
    for task in std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("threads") {
        let stat = task.expect("thread").path().join("stat");
        let stat = std::fs::read_to_string(stat).expect("stat");
        // What nobody waits for has none.
        let expected = if stat.contains("(cgroups)") { ["0", "0"] } else { expected };
        let fields: Vec<_> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        assert_eq!(fields[37..39], expected, "{stat}");
    }
}

/// A flood is answered at a bounded rate.
#[test]
fn a_flood_does_not_take_a_processor() {
    let daemon = Daemon::start("").expect("daemon");
    let begun = Instant::now();
    let flood: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(daemon.listening[1]).expect("into the backlog"))
        .collect();
    for mut stream in flood {
        // Hanging up is the end of the question.
        stream.shutdown(std::net::Shutdown::Write).expect("say nothing");
        let mut line = String::new();
        stream.read_to_string(&mut line).expect("an answer");
        assert_eq!(line, "up 100%\n");
    }
    // Five turns of a tenth of a second have to end before the last.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(400), "300 answers in {took:?}");
    assert_eq!(agent_check(&daemon), "up 100%\n");
}
