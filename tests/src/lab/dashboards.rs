//! A scenario run for the dashboards in tests and pictures: a real Prometheus scrapes three real
//! sensors while the cgroups that they judge come under pressure.
//!
//! `web-01` serves and reads files; an agent beside it leaks until it is killed, and is restarted.
//! `web-02` stays calm. `web-03` has OOM kills, then its sensor is stopped, as on a frozen host.
//! All three are on this machine, so the series of the host are the same for each. The machine
//! itself is not put under pressure: no direct reclaim, no swapping.

use std::{
    fmt::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    daemon::Daemon,
    dashboards::Query,
    prometheus::Prometheus,
    scope::{MIB, Scope, program},
};

/// The limit of a host's cgroup.
const LIMIT_MIB: u64 = 128;
/// The limit of the agent: it evicts the page cache of the others, then reaches its own limit.
const AGENT_MIB: u64 = 80;
/// The working set in memory, and the file that is read repeatedly.
const MEMORY_MIB: u64 = 32;
const FILE_MIB: u64 = 64;
/// Thread names: nginx, new-agent, batch, and earlyoom, whose kills are counted by its name.
const NGINX: &str = "6e67696e78";
const AGENT: &str = "6e65772d6167656e74";
const BATCH: &str = "6261746368";
const EARLYOOM: &str = "6561726c796f6f6d";

/// Durations of the phases.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The calm phase.
    pub calm: Duration,
    /// The agent leaks, is killed and restarted.
    pub pressure: Duration,
    /// Time in which the agent fills the cgroup.
    pub leak: Duration,
    /// The phase after it.
    pub recovery: Duration,
    /// Seconds between two scrapes.
    pub scrape_seconds: u64,
}

/// A run after its end; sensors and Prometheus still run, for queries.
#[derive(Debug)]
pub struct ScenarioRun {
    /// For the queries of the dashboards.
    pub prometheus: Prometheus,
    /// The sensor of `web-01`.
    pub daemon: Daemon,
    /// Begin, Unix time.
    pub begun: f64,
    /// End of the pressure, Unix time.
    pub calm_again: f64,
    /// End, Unix time.
    pub ended: f64,
    /// Value of `$__rate_interval`.
    pub rate_interval: String,
    _others: [Host; 2],
    _host: Scopes,
}

/// The cgroups of a host; children are removed before their parent.
#[derive(Debug)]
struct Scopes {
    web: Scope,
    agent: Scope,
    all: Scope,
}

#[derive(Debug)]
struct Host {
    daemon: Daemon,
    scopes: Scopes,
}

impl ScenarioRun {
    /// The expression as Grafana would send it, for a range in seconds: all sensors where several
    /// can be selected, else `web-01`.
    pub fn expression(&self, query: &Query, scope: &str, seconds: f64) -> Result<String> {
        let multi = query.expression.contains("=~\"$instance\"");
        query.with(&[
            ("__rate_interval", self.rate_interval.as_str()),
            ("__range", &format!("{}s", seconds.ceil())),
            ("job", "memsensor"),
            ("instance", if multi { ".*" } else { "web-01" }),
            ("scope", scope),
            ("cgroup", ".*"),
        ])
    }
}

/// Processes, killed on drop.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A file, removed on drop.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Host {
    fn new(name: &str) -> Result<Self> {
        let all = Scope::new(name, LIMIT_MIB * MIB)?;
        let (web, agent) = (all.child("web.service")?, all.child("agent.service")?);
        agent.set_limit(AGENT_MIB * MIB)?;
        let scopes = Scopes { web, agent, all };
        let path = scopes.all.path();
        let config = format!(
            "record.directory = \"$DIR/record\"\nrecord.max_mib = 4\nbpf_stats = true\n[verdict]\nrecover_after = \"3s\"\n\
             [cgroups]\nhistograms = [\"{path}/*\"]\n\
             [[scope]]\nname = \"web\"\ncgroup = \"{path}\"\n"
        );
        Ok(Self { daemon: Daemon::as_shipped(&config)?, scopes })
    }

    fn start_service(&self, seconds: u64) -> Result<Child> {
        let (mib, seconds) = (MEMORY_MIB.to_string(), seconds.to_string());
        hog(&self.scopes.web, &["--comm-hex", NGINX, "anon", &mib, "loop", &seconds])
    }
}

fn hog(scope: &Scope, words: &[&str]) -> Result<Child> {
    let mut command = scope.command(program("hog")?);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("start hog")
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Runs the scenario.
pub fn run(pace: Pace) -> Result<ScenarioRun> {
    let hosts = ["web-01", "web-02", "web-03"].map(Host::new);
    let [first, second, third] = hosts;
    let (first, second, third) = (first?, second?, third?);
    let prometheus = Prometheus::start(&config(&[&first, &second, &third], pace.scrape_seconds)?)?;
    let begun = now();
    let all = (pace.calm + pace.pressure + pace.recovery).as_secs() + 5;
    let serving = Running(vec![first.start_service(all)?, second.start_service(all)?]);
    std::thread::sleep(pace.calm);
    pressure(&first, &third, pace)?;
    let calm_again = now();
    recovery(&first, pace.recovery)?;
    let ended = now();
    drop(serving);
    let rate_interval = format!("{}s", pace.scrape_seconds * 5);
    let Host { daemon, scopes } = first;
    let run = ScenarioRun {
        prometheus,
        daemon,
        begun,
        calm_again,
        ended,
        rate_interval,
        _others: [second, third],
        _host: scopes,
    };
    Ok(run)
}

/// Drops the series of cgroups that do not belong to this run.
fn config(hosts: &[&Host], seconds: u64) -> Result<String> {
    let mut text = format!(
        "scrape_configs:\n- job_name: memsensor\n  scrape_interval: {seconds}s\n  \
         scrape_timeout: {seconds}s\n  metric_relabel_configs:\n  \
         - {{source_labels: [cgroup], regex: '(/memsensor-test-.*|other)?', action: keep}}\n  \
         - {{source_labels: [__name__, cgroup], regex: 'memsensor_process_growth_.*;', \
         action: drop}}\n  \
         static_configs:\n"
    );
    for (n, host) in hosts.iter().enumerate() {
        let addr = host.daemon.listening.first().context("not listening")?;
        let name = n + 1;
        writeln!(text, "  - {{targets: ['{addr}'], labels: {{instance: web-0{name}}}}}")?;
    }
    Ok(text)
}

/// The agent leaks and is restarted as often as it is killed; the third host freezes.
fn pressure(first: &Host, third: &Host, pace: Pace) -> Result<()> {
    let end = Instant::now() + pace.pressure;
    let file =
        File(std::env::temp_dir().join(format!("memsensor-dashboards-{}", std::process::id())));
    let path = file.0.to_str().context("a path that is not UTF-8")?;
    let reads = ["--comm-hex", NGINX, "file", path, &FILE_MIB.to_string(), "1000000"];
    let reading = Running(vec![hog(&first.scopes.web, &reads)?]);
    let rate = (AGENT_MIB / pace.leak.as_secs().max(1)).max(1).to_string();
    let leaks = ["--adj", "500", "--comm-hex", AGENT, "leak", "512", &rate];
    let mut kills = 0;
    let mut frozen = false;
    while Instant::now() < end {
        let mut agent = Running(vec![hog(&first.scopes.agent, &leaks)?]);
        if !frozen {
            frozen = true;
            freeze(third)?;
        }
        while Instant::now() < end && agent.0[0].try_wait()?.is_none() {
            std::thread::sleep(Duration::from_millis(50));
        }
        kills += u32::from(Instant::now() < end);
    }
    drop(reading);
    ensure!(kills > 0, "the agent was never killed");
    Ok(())
}

/// Two OOM kills, which make it overloaded, then its sensor is stopped.
fn freeze(host: &Host) -> Result<()> {
    for _ in 0..2 {
        hog(&host.scopes.web, &["--comm-hex", BATCH, "anon", "512"])?.wait()?;
        // Kills within a second count as one.
        std::thread::sleep(Duration::from_millis(2500));
    }
    let pid = Pid::from_raw(host.daemon.pid().cast_signed()).context("its id")?;
    Ok(kill_process(pid, Signal::STOP)?)
}

/// A user-space OOM daemon kills the rest, and an operator drains the host for a while.
fn recovery(host: &Host, duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    let rest = Running(vec![hog(&host.scopes.agent, &["anon", "1", "hold"])?]);
    let pid = rest.0[0].id().to_string();
    std::thread::sleep(duration / 4);
    let status = Command::new(program("hog")?)
        .args(["--comm-hex", EARLYOOM, "kill", &pid])
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "hog kill ended with {status}");
    std::thread::sleep(duration / 4);
    let seconds = format!("{}s", (duration / 4).as_secs().max(2));
    let (output, code) =
        host.daemon.ask(&["drain", "--reason", "kernel update", "--for", &seconds])?;
    ensure!(code == Some(0), "drain: {output}");
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    Ok(())
}
