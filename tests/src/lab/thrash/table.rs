//! What came of it, for people.

use std::{fmt::Write as _, time::Duration};

use super::{
    Run,
    targets::{TargetResults, PATIENCE, Target},
    programs::MemoryUse,
};
use crate::support::open_loop::Request;

/// How many of a hundred thousand may take longer, and how the column is called.
const COLUMNS: [(u64, &str); 4] = [(50_000, "p50"), (1_000, "p99"), (100, "p99.9"), (0, "longest")];

/// The tables of a run.
pub fn tables(run: &Run) -> String {
    let seconds = run.load().as_secs();
    let mut text = format!(
        "{}, {seconds} s of thrashing: some task waited {:.0} % of that time. Milliseconds from \
         when a question was due to its whole answer.\n\n",
        run.place,
        run.some * 100.0,
    );
    text += &answers(run, run.load_start, run.load_end);
    if run.end > run.load_end {
        let seconds = run.end.saturating_sub(run.load_end).as_secs();
        let _ = writeln!(text, "\nOut of memory again and again, in the {seconds} s after that:\n");
        text += &answers(run, run.load_end, run.end);
    }
    text += "\n| program | MiB in memory, calm | own | thrashing | own | in swap | faults from disk |\n\
             |---|---:|---:|---:|---:|---:|---:|\n";
    for (name, calm) in &run.calm {
        let found = run.thrash.iter().find(|(n, _)| n == name);
        let cells = found.map_or("| gone | | | | | |".to_owned(), |(_, t)| weight(calm, t));
        let _ = writeln!(text, "| {name} | {cells}");
    }
    let _ = writeln!(text, "\n{}", summary(run));
    text
}

/// What was answered of what was due from `from` until `to`, beside the calm before.
fn answers(run: &Run, from: Duration, to: Duration) -> String {
    let rate = super::targets::RATE;
    let mut text = format!("| asked {rate} times a second | answered when calm | answered |");
    for (_, name) in COLUMNS {
        let _ = write!(text, " {name} |");
    }
    text += "\n|---|---:|---:|---:|---:|---:|---:|\n";
    for asked in &run.asked {
        let due = |from, to| {
            let requests = asked.requests.iter();
            requests.filter(|r| r.at >= from && r.at < to).collect::<Vec<_>>()
        };
        let (calm, requests) = (due(Duration::ZERO, run.load_start), due(from, to));
        let name = asked.target.name();
        let _ = writeln!(
            text,
            "| {name} | {} | {} {}",
            share(&calm),
            share(&requests),
            line(&requests)
        );
    }
    text
}

/// How many were answered, rounded down: only all of them are 100 %.
fn share(requests: &[&Request<String>]) -> String {
    let answered = requests.iter().filter(|r| r.outcome.is_ok()).count();
    let share = answered as f64 * 100.0 / requests.len().max(1) as f64;
    format!("{:.2} % of {}", (share * 100.0).floor() / 100.0, requests.len())
}

fn line(requests: &[&Request<String>]) -> String {
    let mut took: Vec<_> =
        requests.iter().map(|r| if r.outcome.is_ok() { r.took } else { PATIENCE }).collect();
    took.sort_unstable();
    let mut text = String::from("|");
    for (longer, _) in COLUMNS {
        let _ = write!(text, " {} |", milliseconds(at(&took, longer)));
    }
    text
}

/// What all but so many of a hundred thousand took at most.
fn at(sorted: &[Duration], longer: u64) -> Duration {
    let all = sorted.len() as u64;
    let beyond = usize::try_from(all * longer / 100_000).unwrap_or_default();
    sorted.len().checked_sub(1 + beyond).map_or(Duration::ZERO, |i| sorted[i])
}

fn milliseconds(time: Duration) -> String {
    if time >= PATIENCE {
        return format!("> {}", PATIENCE.as_millis());
    }
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

fn weight(calm: &MemoryUse, thrash: &MemoryUse) -> String {
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    format!(
        "{} | {} | {} | {} | {} | {} |",
        mib(calm.resident),
        mib(calm.anonymous),
        mib(thrash.resident),
        mib(thrash.anonymous),
        mib(thrash.swapped),
        thrash.major_faults.saturating_sub(calm.major_faults)
    )
}

fn summary(run: &Run) -> String {
    let first = |asked: &TargetResults, is: fn(&str) -> bool| {
        let found = asked
            .requests
            .iter()
            .find(|r| r.at >= run.load_start && r.outcome.as_ref().is_ok_and(|said| is(said)));
        found.map(|r| (r.at + r.took).saturating_sub(run.load_start))
    };
    let mut text = String::new();
    if let Some(asked) = run.asked.iter().find(|asked| asked.target == Target::Readyz) {
        for (what, is) in [
            ("less weight", (|s: &str| s != "ready") as fn(&str) -> bool),
            ("draining", |s: &str| s == "draining"),
        ] {
            let _ = match first(asked, is) {
                Some(after) => write!(text, "{what} after {:.2} s; ", after.as_secs_f64()),
                None => write!(text, "never {what}; "),
            };
        }
    }
    if let Some((after, share)) = run.stale() {
        let (seconds, percent) = (after.as_secs_f64(), share * 100.0);
        let _ = write!(
            text,
            "its sensing thread starved, stale after {seconds:.2} s and in {percent:.0} % of answers \
             from then on; "
        );
    }
    let _ = match run.late {
        Some(late) => {
            write!(text, "started halfway, another answered after {:.2} s; ", late.as_secs_f64())
        }
        None => write!(text, "started halfway, another did not answer; "),
    };
    let silent = run.asked.iter().filter_map(|asked| {
        let lost = asked.requests.iter().find(|r| r.at >= run.load_start && r.outcome.is_err())?;
        let after = lost.at.saturating_sub(run.load_start).as_secs_f64();
        Some(format!("{} first did not answer after {after:.1} s", asked.target.name()))
    });
    text += &silent.collect::<Vec<_>>().join("; ");
    if !run.dead.is_empty() {
        let _ = write!(text, "; ended: {}", run.dead.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_not_answer_took_as_long_as_anybody_waits() {
        let took = |ms, outcome: Result<&str, _>| Request {
            at: Duration::ZERO,
            took: Duration::from_millis(ms),
            outcome: outcome.map(str::to_owned),
        };
        let mut requests: Vec<_> = (1..=1998).map(|_| took(2, Ok(""))).collect();
        requests.push(took(3, Err("connection lost")));
        requests.push(took(12, Ok("")));
        let requests: Vec<_> = requests.iter().collect();
        let both = |requests: &[_]| format!("{} {}", share(requests), line(requests));
        assert_eq!(both(&requests), "99.95 % of 2000 | 2.0 | 2.0 | 2.0 | > 5000 |");
        assert_eq!(both(&requests[1998..]), "50.00 % of 2 | 12 | > 5000 | > 5000 | > 5000 |");
        assert_eq!(both(&[]), "0.00 % of 0 | 0.0 | 0.0 | 0.0 | 0.0 |");
    }
}
