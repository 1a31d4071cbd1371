//! The generated table of metrics in docs/metrics.md: which series exist, with which labels.
//! `docs.rs` compares the table with the code, so that tests of rules and dashboards can rely on
//! it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

use super::repository::repository;

/// Series that Prometheus adds to each target, and those of the process.
const OTHER_SERIES: [&str; 6] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
];

/// Labels that Prometheus adds to every series.
const TARGET_LABELS: [&str; 2] = ["job", "instance"];

/// The labels of each series. A histogram is three series.
pub fn series_labels() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let path = repository().join("docs/metrics.md");
    let page =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let (_, table) = page.split_once("<!-- metrics:begin -->").context("no begin of the table")?;
    let (table, _) = table.split_once("<!-- metrics:end -->").context("no end of the table")?;
    let target_labels = || TARGET_LABELS.map(str::to_owned);
    let mut series: BTreeMap<String, BTreeSet<String>> =
        OTHER_SERIES.iter().map(|name| ((*name).to_owned(), target_labels().into())).collect();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        ensure!(cells.len() > 4, "a row with too few cells: {line}");
        let labels = cells[3].split(", ").map(|label| label.trim_matches('`'));
        let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned);
        let labels: BTreeSet<_> = labels.chain(target_labels()).collect();
        if cells[2] == "histogram" {
            let mut with_bound = labels.clone();
            with_bound.insert("le".to_owned());
            series.insert(format!("{}_bucket", cells[1]), with_bound);
            series.insert(format!("{}_sum", cells[1]), labels.clone());
            series.insert(format!("{}_count", cells[1]), labels);
        } else {
            series.insert(cells[1].to_owned(), labels);
        }
    }
    ensure!(series.len() > 60, "only {} series in {}", series.len(), path.display());
    Ok(series)
}
