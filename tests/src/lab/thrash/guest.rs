//! Queries a virtual machine from outside. `xtask` forwards the lines that the guest prints (see
//! `tests/guest/thrash/run`); they mark the phases.

use std::{
    io::BufRead,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{programs::MemoryUse, result::Run, targets::Polling};

/// memsensor's scope for the whole guest.
const SCOPE: &str = "host";

/// Follows a guest until it ends. Also returns its lines about kills and deadlines.
pub fn run(lines: impl BufRead) -> Result<(Run, Vec<String>)> {
    // The queries must be on time although the emulation uses all CPUs.
    let _ = rustix::process::setpriority_process(None, -19);
    let mut run = Run { place: "A guest of 512 MiB".to_owned(), ..Run::default() };
    let mut polling: Option<(Instant, Polling)> = None;
    let (mut some, mut notes) = (Vec::new(), Vec::new());
    for line in lines.lines() {
        let line = line.context("read the output of the guest")?;
        let Some(message) = line.trim().strip_prefix("guest: ") else { continue };
        let since = |polling: &Option<(Instant, Polling)>| {
            polling.as_ref().map_or(Duration::ZERO, |(start, _)| start.elapsed())
        };
        let words: Vec<_> = message.split_whitespace().collect();
        match words[..] {
            ["phase", "calm"] => {
                let start = Instant::now();
                polling = Some((start, Polling::begin(SCOPE, start)?));
            }
            ["phase", "thrash"] => run.load_start = since(&polling),
            ["phase", "oom"] => run.load_end = since(&polling),
            ["phase", "starved"] => run.starve_start = since(&polling),
            ["phase", "resumed"] => run.starve_end = since(&polling),
            ["phase", "end"] => {
                let (_, polling) =
                    polling.take().context("the guest ended before its calm phase")?;
                run.targets = polling.finish();
            }
            ["some", _, us] => some.push(us.parse::<u64>().context("a total of PSI")?),
            ["memory", phase, name, ref numbers @ ..] => {
                let all = if phase == "calm" { &mut run.calm } else { &mut run.thrash };
                add(all, name, numbers);
            }
            ["late", seconds] => {
                run.late_start = seconds.parse().ok().map(Duration::from_secs_f64);
            }
            ["ended", name] => run.ended.push(name.to_owned()),
            ["deadline", ..] | ["the", "kernel", "killed", ..] => notes.push(message.to_owned()),
            _ => {}
        }
    }
    ensure!(!run.targets.is_empty(), "the guest did not complete its run");
    // PSI `some` of memory and of I/O, before and after the load.
    let [memory, io, memory_after, io_after] = some[..] else {
        anyhow::bail!("the guest did not print its PSI")
    };
    let some = memory_after.saturating_sub(memory).max(io_after.saturating_sub(io));
    run.some_share = some as f64 / 1e6 / run.load_duration().as_secs_f64();
    ensure!(
        run.stale().is_some(),
        "memsensor was never stale while its sensing thread was starved"
    );
    Ok((run, notes))
}

/// Adds a process to the sum of its program: resident, anonymous, swapped, major faults.
fn add(all: &mut Vec<(String, MemoryUse)>, name: &str, numbers: &[&str]) {
    let numbers: Vec<u64> = numbers.iter().filter_map(|n| n.parse().ok()).collect();
    // A process that has ended prints no numbers.
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
        let error = run(&b"guest: up\nguest: phase thrash\n"[..]).expect_err("no query was sent");
        assert!(error.to_string().contains("did not complete its run"), "{error}");
    }
}
