//! What was found, as dashboards/scale/README.md shows it; and what follows from it for fleets that do not fit on a machine
//! like this one. What is computed says so.

use std::fmt::Write as _;

use super::run::{Measured, Group, ResourceUse};

const MIB: f64 = 1_048_576.0;
const DAY: f64 = 86_400.0;
/// Prometheus makes a block every two hours, each with an index of its own; later it merges them, so this
/// is the most.
const BLOCKS: f64 = 12.0;
/// For how many hosts a row is computed.
const COMPUTED: u32 = 100_000;

/// All tables of these runs.
pub fn tables(runs: &[Measured]) -> String {
    let mut text = String::new();
    let Some(last) = runs.last() else { return text };
    text.push_str(
        "| hosts | | series | samples/s | Prometheus, MiB | CPUs | rules, ms | disk, GB a day | \
         VictoriaMetrics, MiB | CPUs | disk, GB a day |\n\
         |---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for found in runs {
        row(&mut text, "measured", &Row::of(found));
    }
    if let [first, .., last] = runs {
        row(&mut text, "computed", &Row::beyond(&Row::of(first), &Row::of(last), COMPUTED));
    }
    let [fewest, mean, most] = last.series;
    let _ = writeln!(
        text,
        "\n{fewest:.0} to {most:.0} series a host ({mean:.0} on average), {:.1} KB a scrape, every 15 s. Disk is \
         extrapolated from what minutes took: samples as they are in a block, and an index for every \
         two hours.",
        last.scrape_bytes / 1e3,
    );
    let _ = writeln!(
        text,
        "\n| with {} hosts | MiB in memory | CPUs | bytes a sample | index, MB |\n|---|---:|---:|---:|---:|",
        last.hosts
    );
    for (name, resource_use) in &last.resource_use {
        let ResourceUse { bytes, cpus, sample_bytes, index_bytes } = resource_use;
        let mut disk = String::from("| |");
        if *sample_bytes > 0.0 {
            disk = format!("{sample_bytes:.2} | {:.1} |", index_bytes / 1e6);
        }
        let _ = writeln!(text, "| {name} | {:.0} | {cpus:.2} | {disk}", *bytes as f64 / MIB);
    }
    let _ = writeln!(
        text,
        "\nRemote write sent {:.0} kB/s. Prometheus' log of what is in no block yet took {:.0} MB.",
        last.sent / 1e3,
        last.wal_bytes as f64 / 1e6,
    );
    let _ = writeln!(
        text,
        "\n| rules for {} hosts, every 15 s | ms, median | ms, longest |\n|---|---:|---:|",
        last.hosts
    );
    for Group { name, longest, median } in &last.groups {
        let _ = writeln!(text, "| {name} | {:.1} | {:.1} |", median * 1e3, longest * 1e3);
    }
    compared(&mut text, last);
    text
}

/// What the two make of the same rules.
fn compared(text: &mut String, found: &Measured) {
    let same = found.compared.iter().filter(|c| c.same()).count();
    let with_result = found.compared.iter().filter(|c| c.prometheus > 0).count();
    let _ = writeln!(
        text,
        "\nOf the {} expressions of the rules {with_result} gave any series, and {same} the same in VictoriaMetrics \
         as in Prometheus{}",
        found.compared.len(),
        if same == found.compared.len() { "." } else { "; the others:" },
    );
    for other in found.compared.iter().filter(|c| !c.same()) {
        let has = match &other.victoria {
            Ok(series) => series.to_string(),
            Err(why) => why.clone(),
        };
        let _ = writeln!(
            text,
            "* {}: {} in Prometheus, {has} in VictoriaMetrics",
            other.name, other.prometheus
        );
    }
}

/// A row of the first table.
#[derive(Debug, Clone, Copy)]
struct Row {
    hosts: f64,
    series: f64,
    samples: f64,
    /// MiB, processors, bytes a day of each of the two.
    engines: [[f64; 3]; 2],
    /// Milliseconds that all rules took once, one group after the other.
    rules: f64,
}

impl Row {
    fn of(found: &Measured) -> Self {
        let resource_use = |name| found.resource_use.get(name).copied().unwrap_or_default();
        let engine = |resource_use: ResourceUse, indexes| {
            let day = found.samples * DAY * resource_use.sample_bytes + indexes * resource_use.index_bytes;
            [resource_use.bytes as f64 / MIB, resource_use.cpus, day]
        };
        Self {
            hosts: f64::from(found.hosts),
            series: found.head_series,
            samples: found.samples,
            engines: [engine(resource_use("Prometheus"), BLOCKS), engine(resource_use("VictoriaMetrics"), 1.0)],
            // Medians: the longest tells what else the machine had to do.
            rules: found.groups.iter().map(|g| g.median * 1e3).sum(),
        }
    }

    /// On the line through two rows.
    fn beyond(a: &Self, b: &Self, hosts: u32) -> Self {
        let hosts = f64::from(hosts);
        let on = |of: &dyn Fn(&Self) -> f64| {
            of(a) + (of(b) - of(a)) / (b.hosts - a.hosts) * (hosts - a.hosts)
        };
        Self {
            hosts,
            series: on(&|row| row.series),
            samples: on(&|row| row.samples),
            engines: [0, 1].map(|i| [0, 1, 2].map(|j| on(&|row| row.engines[i][j]))),
            rules: on(&|row| row.rules),
        }
    }
}

fn row(text: &mut String, how: &str, row: &Row) {
    let [[mib, cpus, day], [vm_mib, vm_cpus, vm_day]] = row.engines;
    let gb = |bytes: f64| format!("{:.*}", usize::from(bytes < 1e10) * 2, bytes / 1e9);
    let _ = writeln!(
        text,
        "| {:.0} | {how} | {:.0} | {:.0} | {mib:.0} | {cpus:.2} | {:.0} | {} | {vm_mib:.0} | {vm_cpus:.2} | {} |",
        row.hosts,
        row.series,
        row.samples,
        row.rules,
        gb(day),
        gb(vm_day),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(hosts: u32, scale: f64) -> Measured {
        let mut found =
            Measured { hosts, head_series: 300.0 * scale, samples: 20.0 * scale, ..Measured::default() };
        for name in ["Prometheus", "VictoriaMetrics"] {
            let resource_use = ResourceUse { bytes: 50 << 20, cpus: 0.1, sample_bytes: 1.0, index_bytes: 0.0 };
            found.resource_use.insert(name, resource_use);
        }
        found
    }

    #[test]
    fn what_is_computed_lies_on_the_line_and_says_so() {
        let text = tables(&[found(10, 10.0), found(1000, 1000.0)]);
        let row = text.lines().find(|l| l.starts_with("| 100000 |")).expect("a row");
        assert!(row.starts_with("| 100000 | computed | 30000000 | 2000000 | 50 | 0.10 |"), "{row}");
        assert_eq!(text.matches("measured").count(), 2, "{text}");
        assert!(!tables(&[found(10, 10.0)]).contains("computed"), "one point makes no line");
    }
}
