//! The results as tables for dashboards/scale/README.md, and an extrapolation to fleets that do not
//! fit on a machine like this one. Extrapolated rows are marked as computed.

use std::fmt::Write as _;

use super::run::{Group, Measured, ResourceUse};

const MIB: f64 = 1_048_576.0;
const DAY: f64 = 86_400.0;
/// Blocks per day: Prometheus writes one every two hours, each with its own index. It merges them
/// later, so this is an upper bound.
const BLOCKS: f64 = 12.0;
/// The fleet size of the computed row.
const COMPUTED: u32 = 100_000;

/// All tables of these runs.
pub fn tables(runs: &[Measured]) -> String {
    let mut text = String::new();
    let Some(last) = runs.last() else { return text };
    text.push_str(
        "| hosts | | series | samples/s | Prometheus, MiB | CPUs | rules, ms | disk, GB/day | \
         VictoriaMetrics, MiB | CPUs | disk, GB/day |\n\
         |---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for measured in runs {
        row(&mut text, "measured", &Row::of(measured));
    }
    if let [first, .., last] = runs {
        row(&mut text, "computed", &Row::extrapolate(&Row::of(first), &Row::of(last), COMPUTED));
    }
    let [fewest, mean, most] = last.series;
    let _ = writeln!(
        text,
        "\n{fewest:.0} to {most:.0} series per host ({mean:.0} on average), {:.1} KB per scrape, \
         every 15 s. Disk is extrapolated from minutes: samples as stored in a block, and an index \
         per two hours.",
        last.scrape_bytes / 1e3,
    );
    let _ = writeln!(
        text,
        "\n| with {} hosts | MiB in memory | CPUs | bytes per sample | index, MB |\n\
         |---|---:|---:|---:|---:|",
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
        "\nRemote write sent {:.0} kB/s. Prometheus' write-ahead log took {:.0} MB.",
        last.sent / 1e3,
        last.wal_bytes as f64 / 1e6,
    );
    rules(&mut text, last);
    compared(&mut text, last);
    text
}

/// Evaluation times of the rule groups.
fn rules(text: &mut String, measured: &Measured) {
    let _ = writeln!(
        text,
        "\n| rules for {} hosts, every 15 s | ms, median | ms, longest |\n|---|---:|---:|",
        measured.hosts
    );
    for Group { name, longest, median } in &measured.groups {
        let _ = writeln!(text, "| {name} | {:.1} | {:.1} |", median * 1e3, longest * 1e3);
    }
}

/// The results of the same rules in both.
fn compared(text: &mut String, measured: &Measured) {
    let same = measured.compared.iter().filter(|c| c.same()).count();
    let with_result = measured.compared.iter().filter(|c| c.prometheus > 0).count();
    let _ = writeln!(
        text,
        "\nOf the rules' {} expressions, {with_result} returned series; {same} returned the same \
         series in VictoriaMetrics and in Prometheus{}",
        measured.compared.len(),
        if same == measured.compared.len() { "." } else { "; the others are:" },
    );
    for other in measured.compared.iter().filter(|c| !c.same()) {
        let has = match &other.victoria {
            Ok(series) => series.to_string(),
            Err(error) => error.clone(),
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
    /// MiB, CPUs, bytes per day of Prometheus and of VictoriaMetrics.
    engines: [[f64; 3]; 2],
    /// Milliseconds of one evaluation of all rules, one group after the other.
    rules: f64,
}

impl Row {
    fn of(measured: &Measured) -> Self {
        let resource_use = |name| measured.resource_use.get(name).copied().unwrap_or_default();
        let engine = |resource_use: ResourceUse, indexes| {
            let day = measured.samples * DAY * resource_use.sample_bytes
                + indexes * resource_use.index_bytes;
            [resource_use.bytes as f64 / MIB, resource_use.cpus, day]
        };
        Self {
            hosts: f64::from(measured.hosts),
            series: measured.head_series,
            samples: measured.samples,
            engines: [
                engine(resource_use("Prometheus"), BLOCKS),
                engine(resource_use("VictoriaMetrics"), 1.0),
            ],
            // Medians: the longest depends on what else the machine did.
            rules: measured.groups.iter().map(|g| g.median * 1e3).sum(),
        }
    }

    /// A point on the line through two rows.
    fn extrapolate(a: &Self, b: &Self, hosts: u32) -> Self {
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
        "| {:.0} | {how} | {:.0} | {:.0} | {mib:.0} | {cpus:.2} | {:.0} | {} | {vm_mib:.0} \
         | {vm_cpus:.2} | {} |",
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

    fn measured(hosts: u32, scale: f64) -> Measured {
        let mut measured = Measured {
            hosts,
            head_series: 300.0 * scale,
            samples: 20.0 * scale,
            ..Measured::default()
        };
        for name in ["Prometheus", "VictoriaMetrics"] {
            let resource_use =
                ResourceUse { bytes: 50 << 20, cpus: 0.1, sample_bytes: 1.0, index_bytes: 0.0 };
            measured.resource_use.insert(name, resource_use);
        }
        measured
    }

    #[test]
    fn a_computed_row_lies_on_the_line_and_is_marked() {
        let text = tables(&[measured(10, 10.0), measured(1000, 1000.0)]);
        let row = text.lines().find(|l| l.starts_with("| 100000 |")).expect("a row");
        assert!(row.starts_with("| 100000 | computed | 30000000 | 2000000 | 50 | 0.10 |"), "{row}");
        assert_eq!(text.matches("measured").count(), 2, "{text}");
        assert!(!tables(&[measured(10, 10.0)]).contains("computed"), "one run gives no line");
    }
}
