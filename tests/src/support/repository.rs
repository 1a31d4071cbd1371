//! Files of the repository that tests read: shipped configurations, dashboards, documents.

use std::path::{Path, PathBuf};

/// An exposition that was recorded from a sensor, with every state and every label value of a fixed
/// set. The tests of the Datadog check compare its states with those of a running sensor.
pub const RECORDED_METRICS: &str = "dashboards/datadog/memsensor/tests/fixtures/metrics.txt";

/// The root of the repository.
pub fn repository() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// The YAML files in a directory, in order.
pub fn yaml_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    Ok(files)
}
