//! A run: the fleet and the programs that scrape it, side by side. Measures the resources of each
//! program and checks that no scrape and no rule evaluation was missed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};

use super::{
    checks,
    compare::{self, Compared},
    disk,
    engine::Engine,
    engines::{Engines, INTERVAL},
    serve::Fleet,
};
use crate::support::daemon::Daemon;

/// Time until all targets are discovered and scraped; not measured.
const SETTLE: Duration = Duration::from_secs(45);
/// Interval between samples of the programs' resources.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(15);
/// Results are compared at a time so many seconds ago, when all samples are searchable.
const DELAY: f64 = 60.0;

/// The resources that a program uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResourceUse {
    /// The largest resident memory.
    pub bytes: u64,
    /// CPUs in use, on average.
    pub cpus: f64,
    /// Disk bytes per sample, without indexes.
    pub sample_bytes: f64,
    /// Disk bytes of all indexes.
    pub index_bytes: f64,
}

/// Evaluation times of a rule group.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The longest evaluation that was sampled, in seconds.
    pub longest: f64,
    /// The median, in seconds.
    pub median: f64,
}

/// The result of a run.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Number of hosts.
    pub hosts: u32,
    /// Minimum, mean and maximum of the series of a host.
    pub series: [f64; 3],
    /// Bytes of a scrape.
    pub scrape_bytes: f64,
    /// Series in Prometheus' head.
    pub head_series: f64,
    /// Samples per second that Prometheus stored.
    pub samples: f64,
    /// By program.
    pub resource_use: BTreeMap<&'static str, ResourceUse>,
    /// Prometheus' write-ahead log at the end.
    pub wal_bytes: u64,
    /// Bytes per second of the remote write.
    pub sent: f64,
    /// The rule groups of Prometheus.
    pub groups: Vec<Group>,
    /// The rules' results in Prometheus and in VictoriaMetrics.
    pub compared: Vec<Compared>,
}

/// A directory, removed when dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What was sampled during the run.
struct Observed {
    largest_bytes: BTreeMap<&'static str, u64>,
    cpus: BTreeMap<&'static str, f64>,
    groups: BTreeMap<String, Vec<f64>>,
    samples: f64,
    sent: f64,
}

/// Runs a fleet of so many hosts.
pub fn run(hosts: u32, duration: Duration, rules: &Path) -> Result<Measured> {
    let dir = Scratch(std::env::temp_dir().join(format!("memsensor-fleet-{}", std::process::id())));
    let daemon = Daemon::as_shipped("").context("start the sensor that the fleet copies")?;
    let fleet = Fleet::like(&daemon, hosts, 1.0)?;
    drop(daemon);
    let engines = Engines::start(&dir.0, rules, &fleet.targets())?;
    std::thread::sleep(SETTLE);
    let before = checks::failures(&engines)?;
    let observed = observe(&engines, duration)?;
    let at = unix() - DELAY;
    let window = (duration.as_secs_f64() - DELAY).max(2.0 * INTERVAL);
    let own = engines.prometheus.own_metrics()?;
    let (responses, bytes) = fleet.responses();
    let measured = Measured {
        hosts,
        series: checks::series(&engines.prometheus, at, window)?,
        scrape_bytes: bytes as f64 / responses as f64,
        head_series: *own.get("prometheus_tsdb_head_series").context("no head series")?,
        samples: observed.samples,
        sent: observed.sent,
        wal_bytes: disk::size(&engines.prometheus.dir().join("data"), "wal")?,
        compared: compare::compare(&engines.prometheus, &engines.victoria, at)?,
        groups: observed.group_times(),
        resource_use: observed.resource_use(&engines)?,
    };
    // Printed also if the checks below reject it.
    eprintln!("{measured:#?}");
    checks::every_host_was_scraped(&engines.prometheus, &fleet.silent(), hosts, at, window)?;
    checks::no_rule_failed(&engines, &before)?;
    checks::same_series(&engines, at)?;
    Ok(measured)
}

impl Observed {
    fn group_times(&self) -> Vec<Group> {
        let group = |(name, times): (&String, &Vec<f64>)| {
            let mut times = times.clone();
            times.sort_by(f64::total_cmp);
            let (longest, median) = (times[times.len() - 1], times[times.len() / 2]);
            Group { name: name.clone(), longest, median }
        };
        self.groups.iter().map(group).collect()
    }

    fn resource_use(&self, engines: &Engines) -> Result<BTreeMap<&'static str, ResourceUse>> {
        let mut all = BTreeMap::new();
        for name in engines.all().map(|engine| engine.name) {
            let (bytes, cpus) = (self.largest_bytes[name], self.cpus[name]);
            all.insert(name, ResourceUse { bytes, cpus, ..ResourceUse::default() });
        }
        for (engine, disk) in [
            (&engines.prometheus, disk::of_prometheus(&engines.prometheus)?),
            (&engines.victoria, disk::of_victoria(&engines.victoria)?),
            (&engines.written, disk::of_victoria(&engines.written)?),
        ] {
            let resource_use = all.entry(engine.name).or_default();
            [resource_use.sample_bytes, resource_use.index_bytes] = disk;
        }
        Ok(all)
    }
}

fn unix() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn observe(engines: &Engines, duration: Duration) -> Result<Observed> {
    let count = |engine: &Engine, start: &str| -> Result<f64> {
        let own = engine.own_metrics()?;
        Ok(own.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, value)| value).sum())
    };
    let counts = || -> Result<[f64; 2]> {
        Ok([
            count(&engines.prometheus, "prometheus_tsdb_head_samples_appended_total")?,
            count(&engines.agent, "prometheus_remote_storage_bytes_total")?,
        ])
    };
    let (start, before) = (Instant::now(), counts()?);
    let mut largest_bytes = BTreeMap::new();
    let mut groups = BTreeMap::<String, Vec<f64>>::new();
    let busy: Vec<f64> =
        engines.all().iter().map(|e| e.resource_use().map(|t| t.0)).collect::<Result<_>>()?;
    while start.elapsed() < duration {
        std::thread::sleep(SAMPLE_INTERVAL.min(duration.saturating_sub(start.elapsed())));
        for engine in engines.all() {
            let (_, bytes) = engine.resource_use().with_context(|| engine.name)?;
            let so_far = largest_bytes.entry(engine.name).or_insert(bytes);
            *so_far = bytes.max(*so_far);
        }
        for (series, took) in engines.prometheus.own_metrics()? {
            let name = series.strip_prefix("prometheus_rule_group_last_duration_seconds{");
            let Some(name) = name.and_then(|n| n.rsplit([';', '"']).nth(1)) else { continue };
            groups.entry(name.to_owned()).or_default().push(took);
        }
        eprintln!("{:.0} s: bytes {largest_bytes:?}", start.elapsed().as_secs_f64());
    }
    let (seconds, after) = (start.elapsed().as_secs_f64(), counts()?);
    let mut cpus = BTreeMap::new();
    for (engine, before) in engines.all().iter().zip(busy) {
        cpus.insert(engine.name, (engine.resource_use()?.0 - before) / seconds);
    }
    let [samples, sent] = [0, 1].map(|i| (after[i] - before[i]) / seconds);
    Ok(Observed { largest_bytes, cpus, groups, samples, sent })
}
