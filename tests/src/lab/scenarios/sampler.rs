//! What is measured during a run: readings of the judged cgroup and of the host, and the weight that
//! the daemon reports.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use procfs::{FromBufRead as _, MemoryPressure};
use sensor_core::{
    common::clock::monotonic_ns,
    model::{coverage::Coverage, snapshot::Snapshot},
    verdict::weight,
};
use sensor_user::collect::{
    scopes::{self, Scopes},
    settings::ScopeSettings,
};

use super::record::{Sample, WeightChange};
use crate::support::daemon::Daemon;

/// Interval of samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Interval of queries to the daemon.
const QUERY_INTERVAL: Duration = Duration::from_millis(20);

/// The cgroup's name in the daemon.
pub(super) const WATCHED: &str = "web";

/// Samples until `stop`. The readings are those of a daemon without probes: the probes' own would need
/// a second loader.
pub(super) fn sample(stop: &AtomicBool, path: &str, pressure: PathBuf) -> Result<Vec<Sample>> {
    let mut pressure = Psi::open(pressure)?;
    let settings = scopes::Settings {
        policy: Arc::default(),
        weight: weight::Settings::default(),
        max_gap: Duration::from_secs(5),
        scopes: vec![ScopeSettings { name: WATCHED.to_owned(), cgroup: path.to_owned() }],
    };
    let mut scopes = Scopes::open(&settings, Path::new("/"), Arc::default())?;
    let mut openers = scopes.take_openers().context("the openers are taken")?;
    let coverage = Coverage::none("not loaded");
    let mut samples = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let taken_ns = monotonic_ns();
        openers.serve(taken_ns);
        let snapshot = Snapshot { taken_ns, ..Snapshot::default() };
        let (verdicts, _) = scopes.evaluate(&snapshot, &BTreeMap::new(), &coverage);
        let [host, scope] = &verdicts[..] else { bail!("{} scopes", verdicts.len()) };
        let psi = pressure.read()?;
        samples.push(Sample {
            scope: scope.reading,
            host: host.reading,
            some_avg10: f64::from(psi.some.avg10),
            full_avg10: f64::from(psi.full.avg10),
            ..Sample::default()
        });
        std::thread::sleep(SAMPLE_INTERVAL);
    }
    Ok(samples)
}

/// An open pressure file.
struct Psi(File, PathBuf);

impl Psi {
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path)
            .with_context(|| format!("open {} (CONFIG_PSI, psi=1)", path.display()))?;
        Ok(Self(file, path))
    }

    fn read(&mut self) -> Result<MemoryPressure> {
        let mut text = String::new();
        let read = self.0.rewind().and_then(|()| self.0.read_to_string(&mut text));
        read.with_context(|| format!("read {}", self.1.display()))?;
        Ok(MemoryPressure::from_buf_read(text.as_bytes())?)
    }
}

/// Asks for the weight of a scope, or with an empty name of the host, until `stop`. The last weight is
/// in `now`.
pub(super) fn poll_weight(
    stop: &AtomicBool,
    daemon: &Daemon,
    scope: &str,
    now: &AtomicU8,
) -> Result<Vec<WeightChange>> {
    let mut changes: Vec<WeightChange> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let line = daemon.agent_check(&format!("{scope}\n"))?;
        let at_ns = monotonic_ns();
        let weight = weight(&line)?;
        now.store(weight, Ordering::Relaxed);
        let last = changes.last().map(|change| change.weight);
        if last != Some(weight) {
            // Reasons: at the first reduction, and when the weight becomes 0.
            let query_reasons = weight == 0 || last == Some(100);
            let reasons = if query_reasons { reasons(daemon, scope)? } else { String::new() };
            changes.push(WeightChange { at_ns, weight, reasons });
        }
        std::thread::sleep(QUERY_INTERVAL);
    }
    Ok(changes)
}

fn weight(line: &str) -> Result<u8> {
    let line = line.trim();
    let words: Vec<_> = line.split_whitespace().collect();
    let percent = words.iter().find_map(|word| word.strip_suffix('%'));
    match percent {
        Some(percent) if words.contains(&"up") => Ok(percent.parse()?),
        _ if words.contains(&"drain") => Ok(0),
        _ => Err(anyhow!("memsensor cannot judge the cgroup: {line:?}")),
    }
}

fn reasons(daemon: &Daemon, scope: &str) -> Result<String> {
    let response = daemon.get(&format!("/readyz/{scope}"), "")?;
    let value: serde_json::Value = serde_json::from_str(&response.body)?;
    let reasons = value["reasons"].as_array().context("no reasons in /readyz")?;
    let names: Vec<_> = reasons.iter().filter_map(|r| r.as_str()).collect();
    Ok(names.join(" "))
}
