//! The five programs of a run, started with the shipped configurations: Prometheus with the rules,
//! a Prometheus agent that only writes remotely, VictoriaMetrics that scrapes, VictoriaMetrics that
//! receives the remote write, and vmalert.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::engine::Engine;
use crate::support::repository::{repository, yaml_files};

/// Seconds between scrapes, as in the shipped configuration.
pub(super) const INTERVAL: f64 = 15.0;

const VICTORIA: &str = "victoriametrics.yaml";

pub(super) struct Engines {
    pub(super) prometheus: Engine,
    pub(super) agent: Engine,
    pub(super) victoria: Engine,
    pub(super) written: Engine,
    pub(super) vmalert: Engine,
}

impl Engines {
    pub(super) fn all(&self) -> [&Engine; 5] {
        [&self.prometheus, &self.agent, &self.victoria, &self.written, &self.vmalert]
    }

    /// Starts all of them in directories below `dir`; `targets` is a file for service discovery.
    pub(super) fn start(dir: &Path, rules: &Path, targets: &str) -> Result<Self> {
        let homes = Homes { dir, rules, targets };
        let victoria = homes.make("victoria", VICTORIA, |text| text)?;
        let victoria = start_victoria("VictoriaMetrics", &victoria, true)?;
        let written = homes.make("written", VICTORIA, |text| text)?;
        let written = start_victoria("VictoriaMetrics, remote write", &written, false)?;
        let receiver = written.addr.to_string();
        let agent = homes.make("agent", "remote-write.yaml", |text| {
            // One agent for all shards.
            let text = text.replace("127.0.0.1:8428", &receiver);
            text.replace("regex: \"0\"", "regex: \"[0-3]\"")
        })?;
        let agent = start_agent(&agent)?;
        let prometheus = homes.make("prometheus", "prometheus.yaml", |text| text)?;
        let prometheus = start_prometheus(&prometheus)?;
        let vmalert = homes.make("vmalert", VICTORIA, |text| text)?;
        let vmalert = start_vmalert(&vmalert, victoria.addr)?;
        Ok(Self { prometheus, agent, victoria, written, vmalert })
    }
}

/// What every program's directory is made from.
struct Homes<'a> {
    dir: &'a Path,
    rules: &'a Path,
    targets: &'a str,
}

impl Homes<'_> {
    /// Makes a directory with rules, targets and a shipped configuration, which `change` may edit.
    fn make(
        &self,
        name: &str,
        config: &str,
        change: impl FnOnce(String) -> String,
    ) -> Result<PathBuf> {
        let home = self.dir.join(name);
        fs::create_dir_all(home.join("rules"))?;
        fs::create_dir_all(home.join("targets"))?;
        fs::write(home.join("targets/fleet.yaml"), self.targets)?;
        let rules = yaml_files(self.rules);
        for file in rules.with_context(|| format!("list {}", self.rules.display()))? {
            let name = file.file_name().context("no name")?;
            fs::copy(&file, home.join("rules").join(name))?;
        }
        let text = fs::read_to_string(repository().join("dashboards/scale").join(config))?;
        fs::write(home.join(config), change(text))?;
        Ok(home)
    }
}

fn start_victoria(name: &'static str, home: &Path, scrapes: bool) -> Result<Engine> {
    Engine::start(name, "victoria-metrics", home, "/health", |addr| {
        let mut args = vec![
            format!("-httpListenAddr={addr}"),
            "-storageDataPath=data".into(),
            "-retentionPeriod=30d".into(),
        ];
        args.extend(scrapes.then(|| format!("-promscrape.config={VICTORIA}")));
        args
    })
}

fn start_agent(home: &Path) -> Result<Engine> {
    Engine::start("Prometheus agent", "prometheus", home, "/-/ready", |addr| {
        vec![
            "--config.file=remote-write.yaml".into(),
            format!("--web.listen-address={addr}"),
            "--enable-feature=agent".into(),
            "--storage.agent.path=data".into(),
        ]
    })
}

fn start_prometheus(home: &Path) -> Result<Engine> {
    Engine::start("Prometheus", "prometheus", home, "/-/ready", |addr| {
        vec![
            "--config.file=prometheus.yaml".into(),
            format!("--web.listen-address={addr}"),
            "--storage.tsdb.path=data".into(),
            "--web.enable-admin-api".into(),
        ]
    })
}

/// Starts vmalert with the same rules; it queries and writes to the VictoriaMetrics at `victoria`.
fn start_vmalert(home: &Path, victoria: SocketAddr) -> Result<Engine> {
    // No receiver: notifications are tested elsewhere.
    fs::write(home.join("no-receivers.yaml"), "static_configs: []\n")?;
    for file in yaml_files(&home.join("rules"))? {
        fs::write(&file, supported_by_vmalert(&fs::read_to_string(&file)?))?;
    }
    let url = format!("http://{victoria}");
    Engine::start("vmalert", "vmalert", home, "/health", |addr| {
        vec![
            "-rule=rules/*.yaml".into(),
            format!("-httpListenAddr={addr}"),
            format!("-datasource.url={url}"),
            format!("-remoteWrite.url={url}"),
            format!("-remoteRead.url={url}"),
            "-evaluationInterval=15s".into(),
            "-notifier.config=no-receivers.yaml".into(),
        ]
    })
}

/// vmalert 1.79 refuses a file with `keep_firing_for`, which only makes an alert end later.
fn supported_by_vmalert(rules: &str) -> String {
    let lines = rules.lines().filter(|line| !line.trim_start().starts_with("keep_firing_for:"));
    lines.flat_map(|line| [line, "\n"]).collect()
}
