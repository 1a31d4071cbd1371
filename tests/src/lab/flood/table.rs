//! The results of a flood as Markdown.

use std::{fmt::Write as _, time::Duration};

use super::run::Results;
use crate::support::open_loop::Request;

/// Results of one kind of request.
struct Latency {
    p50: Duration,
    p99: Duration,
    longest: Duration,
    failed: usize,
    all: usize,
}

impl Latency {
    fn of(requests: &[Request<()>]) -> Self {
        let mut took: Vec<_> = requests.iter().map(|request| request.took).collect();
        took.sort_unstable();
        let at = |percent: usize| {
            let index = took.len() * percent / 100;
            took.get(index).or(took.last()).copied().unwrap_or_default()
        };
        Self {
            p50: at(50),
            p99: at(99),
            longest: at(100),
            failed: requests.iter().filter(|request| request.outcome.is_err()).count(),
            all: requests.len(),
        }
    }
}

/// The tables.
pub fn tables(results: &Results) -> String {
    let Results { calm, flooded, connections } = results;
    let mut out = format!(
        "{:.0} connections a second from one address; requests from another.\n\n\
         | | without | with the flood | ratio |\n|---|---:|---:|---:|\n",
        flooded.connects
    );
    for (name, a, b) in
        [("`/readyz`", &calm.readyz, &flooded.readyz), ("agent-check", &calm.agent, &flooded.agent)]
    {
        let (a, b) = (Latency::of(a), Latency::of(b));
        for (part, a, b) in
            [("median", a.p50, b.p50), ("p99", a.p99, b.p99), ("longest", a.longest, b.longest)]
        {
            let [a, b] = [a, b].map(|took| took.as_secs_f64() * 1e3);
            let _ = writeln!(out, "| {name}, {part} | {a:.1} ms | {b:.1} ms | {:.1} |", b / a);
        }
        let of = |latency: &Latency| format!("{} of {}", latency.failed, latency.all);
        let _ = writeln!(out, "| {name}, failed | {} | {} | |", of(&a), of(&b));
    }
    let [a, b] = [calm.cpu, flooded.cpu].map(|cpu| cpu * 100.0);
    let _ = writeln!(out, "| CPU of the daemon | {a:.1} % | {b:.1} % | {:.1} |", b / a);
    let [a, b] = [calm.locked_kib, flooded.locked_kib].map(|kib| kib as f64 / 1024.0);
    let _ = writeln!(out, "| locked memory | {a:.1} MiB | {b:.1} MiB | {:.2} |", b / a);
    out += "\n| connections | |\n|---|---:|\n";
    for (series, count) in connections {
        let _ = writeln!(out, "| `{series}` | {count:.0} |");
    }
    out
}
