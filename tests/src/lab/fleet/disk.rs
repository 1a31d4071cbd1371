//! Disk usage of samples and indexes, read from each program's own interface.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::engine::Engine;

/// Bytes per sample and of all indexes, from a snapshot of Prometheus.
pub fn of_prometheus(prometheus: &Engine) -> Result<[f64; 2]> {
    let (status, body) = prometheus.post("/api/v1/admin/tsdb/snapshot")?;
    ensure!(status == 200, "no snapshot: {body}");
    let snapshots = prometheus.dir().join("data/snapshots");
    let [chunks, index] = [size(&snapshots, "/chunks/")?, size(&snapshots, "/index")?];
    let mut samples = 0.0;
    for snapshot in fs::read_dir(&snapshots)? {
        for block in fs::read_dir(snapshot?.path())? {
            let Ok(meta) = fs::read_to_string(block?.path().join("meta.json")) else { continue };
            let meta: Value = serde_json::from_str(&meta)?;
            samples += meta["stats"]["numSamples"].as_f64().context("no numSamples")?;
        }
    }
    ensure!(samples > 0.0, "the snapshot has no samples");
    Ok([chunks as f64 / samples, index as f64])
}

/// The same for VictoriaMetrics, from its own metrics.
pub fn of_victoria(victoria: &Engine) -> Result<[f64; 2]> {
    let (status, body) = victoria.get("/internal/force_flush")?;
    ensure!(status == 200, "no flush: {body}");
    let own = victoria.own_metrics()?;
    let sum = |name: &str, storage: bool| -> f64 {
        let of = own.iter().filter(|(series, _)| series.starts_with(name));
        of.filter(|(series, _)| series.contains("storage/") == storage).map(|(_, n)| n).sum()
    };
    let rows = sum("vm_rows{", true);
    ensure!(rows > 0.0, "{} has no rows: {own:?}", victoria.name);
    Ok([sum("vm_data_size_bytes{", true) / rows, sum("vm_data_size_bytes{", false)])
}

/// Bytes of the files below a directory whose path contains `part`.
pub fn size(dir: &Path, part: &str) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        // A file may be removed meanwhile.
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        if about.is_dir() {
            bytes += size(&path, part).unwrap_or(0);
        } else if path.to_string_lossy().contains(part) {
            // Allocated blocks: a preallocated file is larger than its content.
            bytes += about.blocks() * 512;
        }
    }
    Ok(bytes)
}
