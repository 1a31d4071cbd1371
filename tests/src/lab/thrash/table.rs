//! Prints the result of a run.

use std::{fmt::Write as _, time::Duration};

use super::{
    programs::MemoryUse,
    result::Run,
    targets::{PATIENCE, Target, TargetResults},
};
use crate::support::open_loop::Request;

/// Requests of a hundred thousand that may take longer, and the name of the column.
const COLUMNS: [(u64, &str); 4] = [(50_000, "p50"), (1_000, "p99"), (100, "p99.9"), (0, "longest")];

/// The tables of a run.
pub fn tables(run: &Run) -> String {
    let seconds = run.load_duration().as_secs();
    let mut text = format!(
        "{}, {seconds} s of thrashing: PSI `some` {:.0} % of that time. Times are milliseconds \
         from when a query was due to the end of its response.\n\n",
        run.place,
        run.some_share * 100.0,
    );
    text += &query_table(run, run.load_start, run.load_end);
    if run.starve_start > run.load_end {
        let seconds = run.starve_start.saturating_sub(run.load_end).as_secs();
        let _ = writeln!(text, "\nRepeatedly out of memory, in the {seconds} s after that:\n");
        text += &query_table(run, run.load_end, run.starve_start);
    }
    text += "\n| program | calm: resident MiB | anonymous | thrashing: resident MiB | anonymous \
             | swapped | major faults |\n\
             |---|---:|---:|---:|---:|---:|---:|\n";
    for (name, calm) in &run.calm {
        let found = run.thrash.iter().find(|(n, _)| n == name);
        let cells = found.map_or("| ended | | | | | |".to_owned(), |(_, t)| memory_cells(calm, t));
        let _ = writeln!(text, "| {name} | {cells}");
    }
    let _ = writeln!(text, "\n{}", summary(run));
    text
}

/// Responses to queries that were due from `from` to `to`, beside those of the calm phase.
fn query_table(run: &Run, from: Duration, to: Duration) -> String {
    let rate = super::targets::RATE;
    let mut text = format!("| queried {rate} times per second | responses, calm | responses |");
    for (_, name) in COLUMNS {
        let _ = write!(text, " {name} |");
    }
    text += "\n|---|---:|---:|---:|---:|---:|---:|\n";
    for results in &run.targets {
        let due = |from, to| {
            let requests = results.requests.iter();
            requests.filter(|r| r.at >= from && r.at < to).collect::<Vec<_>>()
        };
        let (calm, requests) = (due(Duration::ZERO, run.load_start), due(from, to));
        let name = results.target.name();
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

/// Share of responses, rounded down: 100 % means all.
fn share(requests: &[&Request<String>]) -> String {
    let responses = requests.iter().filter(|r| r.outcome.is_ok()).count();
    let share = responses as f64 * 100.0 / requests.len().max(1) as f64;
    format!("{:.2} % of {}", (share * 100.0).floor() / 100.0, requests.len())
}

fn line(requests: &[&Request<String>]) -> String {
    let mut took: Vec<_> =
        requests.iter().map(|r| if r.outcome.is_ok() { r.took } else { PATIENCE }).collect();
    took.sort_unstable();
    let mut text = String::from("|");
    for (longer, _) in COLUMNS {
        let _ = write!(text, " {} |", milliseconds(quantile(&took, longer)));
    }
    text
}

/// The time that all but `longer` of a hundred thousand took at most.
fn quantile(sorted: &[Duration], longer: u64) -> Duration {
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

fn memory_cells(calm: &MemoryUse, thrash: &MemoryUse) -> String {
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
    let first = |results: &TargetResults, is: fn(&str) -> bool| {
        let found = results
            .requests
            .iter()
            .find(|r| r.at >= run.load_start && r.outcome.as_ref().is_ok_and(|state| is(state)));
        found.map(|r| (r.at + r.took).saturating_sub(run.load_start))
    };
    let mut text = String::new();
    if let Some(results) = run.targets.iter().find(|results| results.target == Target::Readyz) {
        for (what, is) in [
            ("reduced weight", (|s: &str| s != "ready") as fn(&str) -> bool),
            ("overloaded", |s: &str| s == "overloaded"),
        ] {
            let _ = match first(results, is) {
                Some(after) => write!(text, "{what} after {:.2} s; ", after.as_secs_f64()),
                None => write!(text, "never {what}; "),
            };
        }
    }
    if let Some((after, share)) = run.stale() {
        let (seconds, percent) = (after.as_secs_f64(), share * 100.0);
        let _ = write!(
            text,
            "with its sensing thread starved of CPU, stale after {seconds:.2} s and in \
             {percent:.0} % of responses from then on; "
        );
    }
    let _ = match run.late_start {
        Some(late) => {
            write!(
                text,
                "a memsensor started halfway responded after {:.2} s; ",
                late.as_secs_f64()
            )
        }
        None => write!(text, "a memsensor started halfway did not respond; "),
    };
    let silent = run.targets.iter().filter_map(|results| {
        let lost =
            results.requests.iter().find(|r| r.at >= run.load_start && r.outcome.is_err())?;
        let after = lost.at.saturating_sub(run.load_start).as_secs_f64();
        Some(format!("{} first did not respond after {after:.1} s", results.target.name()))
    });
    text += &silent.collect::<Vec<_>>().join("; ");
    if !run.ended.is_empty() {
        let _ = write!(text, "; ended: {}", run.ended.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_query_counts_as_the_timeout() {
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
