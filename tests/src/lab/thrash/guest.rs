//! Asks a guest from outside: target drives it hands us the lines that it says (see
//! `tests/guest/thrash/run`), by which we know what time it is there.

use std::{
    io::BufRead,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Run, targets::Polling, programs::MemoryUse};

/// memsensor's scope that is all of it.
const SCOPE: &str = "host";

/// Follows it to its end. Beside the run: what it said of kills and deadlines.
pub fn run(lines: impl BufRead) -> Result<(Run, Vec<String>)> {
    // Target asks must not be late because the emulation memory_use the processors.
    let _ = rustix::process::setpriority_process(None, -19);
    let mut run = Run { place: "A guest of 512 MiB".to_owned(), ..Run::default() };
    let mut polling: Option<(Instant, Polling)> = None;
    let (mut some, mut notes) = (Vec::new(), Vec::new());
    for line in lines.lines() {
        let line = line.context("read what the guest says")?;
        let Some(said) = line.trim().strip_prefix("guest: ") else { continue };
        let since = |polling: &Option<(Instant, Polling)>| {
            polling.as_ref().map_or(Duration::ZERO, |(start, _)| start.elapsed())
        };
        let words: Vec<_> = said.split_whitespace().collect();
        match words[..] {
            ["phase", "calm"] => {
                let start = Instant::now();
                polling = Some((start, Polling::begin(SCOPE, start)?));
            }
            ["phase", "thrash"] => run.load_start = since(&polling),
            ["phase", "oom"] => run.load_end = since(&polling),
            ["phase", "starved"] => run.end = since(&polling),
            ["phase", "starve_end"] => run.starve_end = since(&polling),
            ["phase", "end"] => {
                let (_, polling) = polling.take().context("it ended before it began")?;
                run.asked = polling.finish();
            }
            ["some", _, us] => some.push(us.parse::<u64>().context("a total of PSI")?),
            ["memory_use", phase, name, ref numbers @ ..] => {
                let all = if phase == "calm" { &mut run.calm } else { &mut run.thrash };
                add(all, name, numbers);
            }
            ["late", seconds] => {
                run.late = seconds.parse().ok().map(Duration::from_secs_f64);
            }
            ["dead", name] => run.dead.push(name.to_owned()),
            ["deadline", ..] | ["the", "kernel", "killed", ..] => notes.push(said.to_owned()),
            _ => {}
        }
    }
    ensure!(!run.asked.is_empty(), "the guest did not come to its end");
    // Of memory and of I/O, before and after.
    let [memory, io, memory_after, io_after] = some[..] else {
        anyhow::bail!("the guest did not tell its PSI")
    };
    let some = memory_after.saturating_sub(memory).max(io_after.saturating_sub(io));
    run.some = some as f64 / 1e6 / run.load().as_secs_f64();
    ensure!(run.stale().is_some(), "while it was starved, it never said that it was stale");
    Ok((run, notes))
}

/// A process of a program: resident, anonymous, swapped, major faults. Those of one are added up.
fn add(all: &mut Vec<(String, MemoryUse)>, name: &str, numbers: &[&str]) {
    let numbers: Vec<u64> = numbers.iter().filter_map(|n| n.parse().ok()).collect();
    // One that is gone is told apart.
    let [resident, anonymous, swapped, major_faults] = numbers[..] else { return };
    if !all.iter().any(|(n, _)| n == name) {
        all.push((name.to_owned(), MemoryUse::default()));
    }
    for (_, memory_use) in all.iter_mut().filter(|(n, _)| n == name) {
        memory_use.resident += resident;
        memory_use.anonymous += anonymous;
        memory_use.swapped += swapped;
        memory_use.major_faults += major_faults;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_program_are_added_up() {
        let mut all = Vec::new();
        add(&mut all, "nginx", &["1", "10", "100", "1000"]);
        add(&mut all, "sshd", &["5", "6", "7", "8"]);
        add(&mut all, "nginx", &["2", "20", "200", "2000"]);
        add(&mut all, "nginx", &["gone"]);
        let memory_use = MemoryUse { resident: 3, anonymous: 30, swapped: 300, major_faults: 3000 };
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], ("nginx".to_owned(), memory_use));
    }

    #[test]
    fn a_guest_that_ends_early_is_an_error() {
        let why = run(&b"guest: up\nguest: phase thrash\n"[..]).expect_err("nothing was asked");
        assert!(why.to_string().contains("did not come to its end"), "{why}");
    }
}
