//! A run: the fleet, and beside each other Prometheus with the shipped rules, a Prometheus that only sends
//! on, VictoriaMetrics that scrapes, one that is written to, and vmalert. What each resource_use, and whether
//! nobody missed anything.

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
    serve::Fleet,
};
use crate::support::{
    daemon::Daemon,
    repository::{repository, yaml_files},
};

/// As in the shipped configuration.
pub(super) const INTERVAL: f64 = 15.0;
/// Until all targets are known and scraped, which is not measured.
const SETTLE: Duration = Duration::from_secs(45);
/// How often we look at what the programs take.
const LOOK: Duration = Duration::from_secs(15);
/// Seconds before now at which answers are compared: by then all of it is searchable.
const PAST: f64 = 60.0;

/// What a program resource_use.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResourceUse {
    /// The most that it had in memory.
    pub bytes: u64,
    /// Processors in use, on average.
    pub cpus: f64,
    /// On disk for each sample, indexes not among it, and for all of the indexes.
    pub sample_bytes: f64,
    /// Indexes of these series.
    pub index_bytes: f64,
}

/// How long a group of rules took.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The longest of the evaluations that were seen.
    pub longest: f64,
    /// Their median.
    pub median: f64,
}

/// What a run found.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// How many hosts.
    pub hosts: u32,
    /// Fewest, mean and most series of a host.
    pub series: [f64; 3],
    /// A scrape in bytes, as it is sent.
    pub scrape_bytes: f64,
    /// Series in Prometheus' head.
    pub head_series: f64,
    /// Samples a second that Prometheus stored.
    pub samples: f64,
    /// Prometheus, the one that sends on, VictoriaMetrics that scrapes, that is written to, vmalert.
    pub resource_use: BTreeMap<&'static str, ResourceUse>,
    /// Prometheus' log of what is not in blocks yet, at the end.
    pub wal_bytes: u64,
    /// Bytes a second that remote write sent.
    pub sent: f64,
    /// The groups of rules in Prometheus.
    pub groups: Vec<Group>,
    /// The rules' expressions in both.
    pub compared: Vec<Compared>,
}

/// A directory that goes.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) struct Engines {
    pub(super) prometheus: Engine,
    agent: Engine,
    pub(super) victoria: Engine,
    pub(super) written: Engine,
    pub(super) vmalert: Engine,
}

impl Engines {
    fn all(&self) -> [&Engine; 5] {
        [&self.prometheus, &self.agent, &self.victoria, &self.written, &self.vmalert]
    }

    fn start(dir: &Path, rules: &Path, targets: &str) -> Result<Self> {
        let home = |name: &str,
                    config: &str,
                    change: &dyn Fn(String) -> String|
         -> Result<PathBuf> {
            let home = dir.join(name);
            fs::create_dir_all(home.join("rules"))?;
            fs::create_dir_all(home.join("targets"))?;
            fs::write(home.join("targets/fleet.yaml"), targets)?;
            for file in yaml_files(rules).with_context(|| format!("list {}", rules.display()))? {
                let name = file.file_name().context("no name")?;
                fs::copy(&file, home.join("rules").join(name))?;
            }
            let text = fs::read_to_string(repository().join("dashboards/scale").join(config))?;
            fs::write(home.join(config), change(text))?;
            Ok(home)
        };
        let as_shipped = |text: String| text;
        let victoria = |name, dir: &Path, scrapes: bool| {
            Engine::start(name, "victoria-metrics", dir, "/health", |addr| {
                let mut args = vec![
                    format!("-httpListenAddr={addr}"),
                    "-storageDataPath=data".into(),
                    "-retentionPeriod=30d".into(),
                ];
                args.extend(scrapes.then(|| "-promscrape.config=victoriametrics.yaml".into()));
                args
            })
        };
        let direct = victoria(
            "VictoriaMetrics",
            &home("victoria", "victoriametrics.yaml", &as_shipped)?,
            true,
        )?;
        let written = victoria(
            "VictoriaMetrics, written to",
            &home("written", "victoriametrics.yaml", &as_shipped)?,
            false,
        )?;
        let to = written.addr.to_string();
        let all_shards = |text: String| {
            text.replace("127.0.0.1:8428", &to).replace("regex: \"0\"", "regex: \"[0-3]\"")
        };
        let agent = home("agent", "remote-write.yaml", &all_shards)?;
        let agent = Engine::start("Prometheus agent", "prometheus", &agent, "/-/ready", |addr| {
            vec![
                "--config.file=remote-write.yaml".into(),
                format!("--web.listen-address={addr}"),
                "--enable-feature=agent".into(),
                "--storage.agent.path=data".into(),
            ]
        })?;
        let prometheus = home("prometheus", "prometheus.yaml", &as_shipped)?;
        let prometheus =
            Engine::start("Prometheus", "prometheus", &prometheus, "/-/ready", |addr| {
                vec![
                    "--config.file=prometheus.yaml".into(),
                    format!("--web.listen-address={addr}"),
                    "--storage.tsdb.path=data".into(),
                    "--web.enable-admin-api".into(),
                ]
            })?;
        let url = format!("http://{}", direct.addr);
        let vmalert = home("vmalert", "victoriametrics.yaml", &as_shipped)?;
        fs::write(vmalert.join("nobody.yaml"), "static_configs: []\n")?;
        for file in yaml_files(&vmalert.join("rules"))? {
            fs::write(&file, known_to_vmalert(&fs::read_to_string(&file)?))?;
        }
        let vmalert = Engine::start("vmalert", "vmalert", &vmalert, "/health", |addr| {
            vec![
                "-rule=rules/*.yaml".into(),
                format!("-httpListenAddr={addr}"),
                format!("-datasource.url={url}"),
                format!("-remoteWrite.url={url}"),
                format!("-remoteRead.url={url}"),
                "-evaluationInterval=15s".into(),
                // Nobody is told: that is another's test.
                "-notifier.config=nobody.yaml".into(),
            ]
        })?;
        Ok(Self { prometheus, agent, victoria: direct, written, vmalert })
    }
}

/// vmalert 1.79 refuses a file with this key, which only ends an alert later.
fn known_to_vmalert(rules: &str) -> String {
    let lines = rules.lines().filter(|line| !line.trim_start().starts_with("keep_firing_for:"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// What was seen while it ran.
struct Observed {
    most: BTreeMap<&'static str, u64>,
    cpus: BTreeMap<&'static str, f64>,
    groups: BTreeMap<String, Vec<f64>>,
    samples: f64,
    sent: f64,
}

/// Runs a fleet of so many hosts for so long.
pub fn run(hosts: u32, lasts: Duration, rules: &Path) -> Result<Measured> {
    let dir = Scratch(std::env::temp_dir().join(format!("memsensor-fleet-{}", std::process::id())));
    let daemon = Daemon::as_shipped("").context("start the sensor that the fleet is like")?;
    let fleet = Fleet::like(&daemon, hosts, 1.0)?;
    drop(daemon);
    let engines = Engines::start(&dir.0, rules, &fleet.targets())?;
    std::thread::sleep(SETTLE);
    let before = checks::failures(&engines)?;
    let seen = watch(&engines, lasts)?;
    let now = unix();
    let at = now - PAST;
    let window = (lasts.as_secs_f64() - PAST).max(2.0 * INTERVAL);
    let compared = compare::compare(&engines.prometheus, &engines.victoria, at)?;
    let own = engines.prometheus.own_metrics()?;
    let (answers, bytes) = fleet.answered();
    let mut found = Measured {
        hosts,
        series: checks::series(&engines.prometheus, at, window)?,
        scrape_bytes: bytes as f64 / answers as f64,
        head_series: *own.get("prometheus_tsdb_head_series").context("no head series")?,
        samples: seen.samples,
        sent: seen.sent,
        wal_bytes: disk::size(&engines.prometheus.dir().join("data"), "wal")?,
        compared,
        ..Measured::default()
    };
    for (name, mut took) in seen.groups {
        took.sort_by(f64::total_cmp);
        let (longest, median) = (took[took.len() - 1], took[took.len() / 2]);
        found.groups.push(Group { name, longest, median });
    }
    for engine in engines.all() {
        let name = engine.name;
        let resource_use = ResourceUse { bytes: seen.most[name], cpus: seen.cpus[name], ..ResourceUse::default() };
        found.resource_use.insert(name, resource_use);
    }
    for (engine, disk) in [
        (&engines.prometheus, disk::of_prometheus(&engines.prometheus)?),
        (&engines.victoria, disk::of_victoria(&engines.victoria)?),
        (&engines.written, disk::of_victoria(&engines.written)?),
    ] {
        let resource_use = found.resource_use.entry(engine.name).or_default();
        [resource_use.sample_bytes, resource_use.index_bytes] = disk;
    }
    // What was found is shown even if it does not count.
    eprintln!("{found:#?}");
    checks::every_host_was_scraped(&engines.prometheus, &fleet.silent(), hosts, at, window)?;
    checks::no_rule_failed(&engines, &before)?;
    checks::same_series(&engines, at)?;
    Ok(found)
}

fn unix() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn watch(engines: &Engines, lasts: Duration) -> Result<Observed> {
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
    let mut most = BTreeMap::new();
    let mut groups = BTreeMap::<String, Vec<f64>>::new();
    let busy: Vec<f64> =
        engines.all().iter().map(|e| e.resource_use().map(|t| t.0)).collect::<Result<_>>()?;
    while start.elapsed() < lasts {
        std::thread::sleep(LOOK.min(lasts.saturating_sub(start.elapsed())));
        for engine in engines.all() {
            let (_, bytes) = engine.resource_use().with_context(|| engine.name)?;
            let so_far = most.entry(engine.name).or_insert(bytes);
            *so_far = bytes.max(*so_far);
        }
        for (series, took) in engines.prometheus.own_metrics()? {
            let name = series.strip_prefix("prometheus_rule_group_last_duration_seconds{");
            let Some(name) = name.and_then(|n| n.rsplit([';', '"']).nth(1)) else { continue };
            groups.entry(name.to_owned()).or_default().push(took);
        }
        eprintln!("{:.0} s: bytes {most:?}", start.elapsed().as_secs_f64());
    }
    let (seconds, after) = (start.elapsed().as_secs_f64(), counts()?);
    let mut cpus = BTreeMap::new();
    for (engine, before) in engines.all().iter().zip(busy) {
        cpus.insert(engine.name, (engine.resource_use()?.0 - before) / seconds);
    }
    let [samples, sent] = [0, 1].map(|i| (after[i] - before[i]) / seconds);
    Ok(Observed { most, cpus, groups, samples, sent })
}
