//! `memsensor top --at`: the largest and the fastest growing processes and cgroups at a time, as a scan
//! of the record has them.

use std::{fmt::Write as _, path::Path, time::SystemTime};

use anyhow::{Context as _, Result};
use comfy_table::presets::NOTHING;
use sensor_core::record::content::{CgroupSize, Content, ProcessSize, Schema, Usage};
use serde_json::{Value, json};

use super::part::{self, Range};
use crate::{
    cli::format::{self, mib},
    history::times,
};

/// A scan that is older is not of that time: a calm host is scanned every ten seconds.
const OLDEST: i64 = 60_000_000_000;

/// The last scan before a time, as tables or as JSON.
pub fn read(dir: &Path, at: &str, rows: usize, json: bool) -> Result<String> {
    let Range { since: at, .. } = Range::parse(at, "now", SystemTime::now())?;
    let range = Range { since: at.saturating_sub(OLDEST), until: at };
    let timeline = part::read(dir, range)?;
    let scan = timeline.entries.iter().rev().find_map(|entry| match &entry.content {
        Content::Usage(usage) => Some((entry.time.wall_ns, usage)),
        _ => None,
    });
    let time = times::text(at);
    let (taken, usage) = scan.with_context(|| {
        format!("no scan of processes was recorded within the minute before {time} UTC")
    })?;
    let age = (at - taken) as f64 / 1e9;
    Ok(if json {
        format!("{}\n", object(taken, usage, &timeline.schema))
    } else {
        text(taken, age, usage, rows)
    })
}

fn text(taken: i64, age: f64, usage: &Usage, rows: usize) -> String {
    let mut out = format!("scan of {} UTC, {age:.1} s before\n\n", times::text(taken));
    let mut processes: Vec<&ProcessSize> = usage.processes.iter().collect();
    processes.sort_by_key(|p| std::cmp::Reverse(p.own_bytes));
    let head = ["pid", "MiB", "swap", "MiB/min", "age", "process", "cgroup"];
    let mut table = format::table(NOTHING, &head, 5);
    for p in processes.into_iter().take(rows) {
        table.add_row([
            p.pid.to_string(),
            mib(p.own_bytes),
            mib(p.swap_bytes),
            growth(p.growth_bytes),
            format::age(p.age_seconds),
            p.comm.escape_debug().to_string(),
            p.cgroup.escape_debug().to_string(),
        ]);
    }
    let _ = writeln!(out, "{table}\n");
    let mut cgroups: Vec<&CgroupSize> = usage.cgroups.iter().collect();
    cgroups.sort_by_key(|c| std::cmp::Reverse(c.own_bytes));
    let head = ["processes", "MiB", "swap", "MiB/min", "cgroup"];
    let mut table = format::table(NOTHING, &head, 4);
    for c in cgroups.into_iter().take(rows) {
        table.add_row([
            c.processes.to_string(),
            mib(c.own_bytes),
            mib(c.swap_bytes),
            growth(c.growth_bytes),
            c.path.escape_debug().to_string(),
        ]);
    }
    let _ = writeln!(out, "{table}");
    out
}

fn growth(bytes: i64) -> String {
    if bytes == 0 { String::new() } else { format!("{:+.1}", bytes as f64 / 1_048_576.0) }
}

fn object(taken: i64, usage: &Usage, schema: &Schema) -> Value {
    let memory = schema.memory.iter().zip(&usage.memory);
    let memory: serde_json::Map<_, _> =
        memory.map(|(name, bytes)| (name.clone(), json!(bytes))).collect();
    let processes = usage.processes.iter().map(|p| {
        json!({
            "pid": p.pid, "comm": p.comm, "cgroup": p.cgroup, "age_seconds": p.age_seconds,
            "own_bytes": p.own_bytes, "swap_bytes": p.swap_bytes, "minute_bytes": p.growth_bytes,
        })
    });
    let cgroups = usage.cgroups.iter().map(|c| {
        json!({
            "path": c.path, "processes": c.processes, "own_bytes": c.own_bytes,
            "swap_bytes": c.swap_bytes, "minute_bytes": c.growth_bytes,
        })
    });
    json!({
        "time": times::rfc3339(taken),
        "memory": memory,
        "processes": processes.collect::<Vec<_>>(),
        "cgroups": cgroups.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_names_are_escaped() {
        let process = |pid, comm: &str, own_bytes| ProcessSize {
            pid,
            comm: comm.into(),
            own_bytes,
            ..ProcessSize::default()
        };
        let usage = Usage {
            processes: vec![process(1, "small", 1 << 20), process(2, "big\u{1b}[2J", 9 << 20)],
            ..Usage::default()
        };
        let text = text(1_764_299_520_000_000_000, 2.5, &usage, 5);
        assert!(text.starts_with("scan of 2025-11-28 03:12:00.0 UTC, 2.5 s before"), "{text}");
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[3].contains("big\\u{1b}[2J") && lines[4].contains("small"), "{text}");
        let json = object(0, &usage, &Schema::default());
        assert_eq!(json["processes"][1]["own_bytes"], 9 << 20);
    }
}
