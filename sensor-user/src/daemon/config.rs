//! Configuration: every setting, its default and the reason for it, in one place.
//!
//! All of it is optional: memsensor runs without a file. An unknown key, a wrong type or a value
//! out of range is an error that names file, line and key.

mod address_or_nothing;

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use sensor_ebpf::{event::COMM, probes, spec::MAX_SENDERS};
use serde::{Deserialize, Serialize};

use crate::{
    cgroups::{self, table::Selection},
    scopes::HOST,
    serve::histogram::Buckets,
    verdict::{
        pace::Settings,
        policy::{Changes, Policy},
    },
};

/// Scopes beside the host: each is read at every sample.
const MAX_SCOPES: usize = 32;
/// What fits in an agent-check's line and a label.
pub const MAX_SCOPE_NAME: usize = 64;

/// Cgroups with metrics of their own: some six files of each are read every few seconds.
const MAX_CGROUPS: usize = 1000;
/// Patterns of their paths: each path is compared with each.
const MAX_CGROUP_PATHS: usize = 64;
/// Processes that grow and have a metric.
const MAX_GROWING: usize = 100;

/// What the kernel half writes to our log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum BpfLog {
    /// Nothing; the default, for a message costs more than what it tells of.
    Off = 0,
    /// Errors.
    Error = 1,
    /// And warnings.
    Warn = 2,
    /// And information.
    Info = 3,
    /// And each rare event.
    Debug = 4,
}

/// What readiness says where nothing can be told of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// Fit: to install a sensor that cannot sense must not take a host out of service.
    Pass,
    /// Not fit.
    Fail,
}

/// A cgroup with a verdict of its own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeConfig {
    /// Its name, in `/readyz/NAME`, `agent-send` and metrics.
    pub name: String,
    /// Its path in the cgroup hierarchy, e.g. `/system.slice/nginx.service`.
    pub cgroup: String,
}

/// All settings.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where HTTP is served: `/metrics`, `/readyz`, `/livez`.
    pub listen: Vec<SocketAddr>,
    /// Where HAProxy's agent-check is answered; `""` is nowhere.
    #[serde(with = "address_or_nothing")]
    pub agent_listen: Option<SocketAddr>,
    /// Root-only Unix socket of `memsensor events`.
    pub socket: String,
    /// How often the counters are read. One second: a stall of seconds is seen at the next, and
    /// reading costs well under a millisecond.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// The same while there is pressure, if that is more often. The kernel wakes us when it begins, and a request must not
    /// wait for the next second.
    #[serde(with = "humantime_serde")]
    pub pressed_interval: Duration,
    /// A sample older than this is no answer: `/readyz` fails. Five missed samples.
    #[serde(with = "humantime_serde")]
    pub stale_after: Duration,
    /// Over which time `_min` and `_max` gauges look back: two scrapes at the usual 15 s.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// What `/readyz` and the agent-check say where neither PSI nor a probe tells who stalls.
    pub on_unknown: OnUnknown,
    /// Serve what can be had even if a required probe cannot be attached.
    pub allow_degraded: bool,
    /// Let the kernel measure our programs. It costs each run two clock reads, so it is off.
    pub bpf_stats: bool,
    /// Debug output of the kernel half.
    pub bpf_log: BpfLog,
    /// Probes.
    pub probes: Probes,
    /// Limits of what is served over HTTP.
    pub http: Http,
    /// Who is told apart as a sender of SIGKILL.
    pub kill_senders: KillSenders,
    /// How fast the verdict follows the evidence.
    pub verdict: Settings,
    /// Changed thresholds: `[rules.stalled]` `full_share_10s = 0.3`, or `enabled = false`.
    /// `memsensor explain` shows the rules, `memsensor config rules` their thresholds.
    pub rules: Changes,
    /// `coarse` or `fine`: every bound is a series, of each histogram on each host.
    pub buckets: Buckets,
    /// So many processes that grow fastest have a metric: each is a series, and they change.
    pub growing_processes: usize,
    /// Which cgroups have metrics of their own.
    pub cgroups: cgroups::Settings,
    /// Cgroups with a verdict of their own, beside the host's.
    pub scope: Vec<ScopeConfig>,
}

/// Which probes are wanted, and which are needed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probes {
    /// Without one of these memsensor refuses to start (see `allow_degraded`).
    pub required: Vec<String>,
    /// Not attached.
    pub disabled: Vec<String>,
}

/// Limits of what is served over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Connections at a time, over all listeners; more wait in the kernel's backlog.
    pub max_connections: usize,
    /// From the first byte of a request, or the end of the one before, to the end of its head.
    #[serde(with = "humantime_serde")]
    pub head_timeout: Duration,
    /// A connection is closed after this, answered or not.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
}

/// Senders of SIGKILL that get a label of their own, by thread name (at most 15 bytes count).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct KillSenders {
    /// User-space OOM killers: each kill is an event as well.
    pub oom_daemons: Vec<String>,
    /// Only counted.
    pub others: Vec<String>,
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 9817))],
            agent_listen: Some(SocketAddr::from(([0, 0, 0, 0], 9818))),
            socket: "/run/memsensor/memsensor.sock".to_owned(),
            interval: Duration::from_secs(1),
            pressed_interval: Duration::from_millis(100),
            stale_after: Duration::from_secs(5),
            window: Duration::from_secs(30),
            on_unknown: OnUnknown::Pass,
            allow_degraded: false,
            bpf_stats: false,
            bpf_log: BpfLog::Off,
            probes: Probes::default(),
            http: Http::default(),
            kill_senders: KillSenders::default(),
            verdict: Settings::default(),
            rules: Changes::new(),
            buckets: Buckets::default(),
            growing_processes: 5,
            cgroups: cgroups::Settings::default(),
            scope: Vec::new(),
        }
    }
}

impl Default for Probes {
    fn default() -> Self {
        // What tells that memory ran out, and that tasks stall before it does.
        Self {
            required: strings(&["oom_kill", "direct_reclaim", "memcg_reclaim"]),
            disabled: Vec::new(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            // A few scrapers and balancers; each costs some 20 KiB while it is open.
            max_connections: 64,
            head_timeout: Duration::from_secs(5),
            // The usual scrape timeout.
            deadline: Duration::from_secs(10),
        }
    }
}

impl Default for KillSenders {
    fn default() -> Self {
        Self {
            oom_daemons: strings(&["systemd-oomd", "oomd", "earlyoom", "nohang"]),
            others: strings(&["kubelet", "systemd", "containerd-shim", "runc", "crun", "conmon"]),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read the configuration {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in the configuration {}", path.display()))
    }

    /// Parses and checks.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    /// Checks what types cannot.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.listen.is_empty(), "listen: at least one address is needed");
        let millis = |d: Duration| d.as_millis();
        ensure!(
            (50..=60_000).contains(&millis(self.interval)),
            "interval: {} is not between 50ms and 1m",
            humantime::format_duration(self.interval)
        );
        ensure!(
            (20..=60_000).contains(&millis(self.pressed_interval)),
            "pressed_interval: {} is not between 20ms and 1m",
            humantime::format_duration(self.pressed_interval)
        );
        ensure!(
            self.stale_after >= self.interval * 2,
            "stale_after: {} is less than two intervals: every late sample would look stale",
            humantime::format_duration(self.stale_after)
        );
        ensure!(
            self.window >= self.interval && millis(self.window) <= 3_600_000,
            "window: {} is not between interval and 1h",
            humantime::format_duration(self.window)
        );
        // Each sample of the window is kept, at 13 KiB.
        ensure!(
            self.window <= self.interval * 600,
            "window: {} is more than 600 intervals",
            humantime::format_duration(self.window)
        );
        self.check_http()?;
        self.check_cgroups()?;
        self.check_verdict()?;
        let known: BTreeSet<_> = probes::ALL.iter().map(|p| p.name).collect();
        for (key, list) in
            [("required", &self.probes.required), ("disabled", &self.probes.disabled)]
        {
            if let Some(unknown) = list.iter().find(|name| !known.contains(name.as_str())) {
                let known: Vec<_> = known.iter().copied().collect();
                bail!("probes.{key}: no probe {unknown:?}; there are: {}", known.join(", "));
            }
        }
        if let Some(both) = self.probes.required.iter().find(|p| self.probes.disabled.contains(p)) {
            bail!("probes: {both} is both required and disabled");
        }
        let senders = || self.kill_senders.oom_daemons.iter().chain(&self.kill_senders.others);
        ensure!(
            senders().count() < MAX_SENDERS,
            "kill_senders: {} names, at most {} can be told apart",
            senders().count(),
            MAX_SENDERS - 1
        );
        let mut seen = BTreeSet::new();
        for name in senders() {
            ensure!(!name.is_empty(), "kill_senders: an empty name");
            ensure!(name != "other", "kill_senders: \"other\" is the label of all the rest");
            ensure!(
                name.len() < COMM,
                "kill_senders: {name:?} is longer than the {} bytes of a thread name",
                COMM - 1
            );
            ensure!(seen.insert(name), "kill_senders: {name:?} twice");
        }
        Ok(())
    }

    fn check_http(&self) -> Result<()> {
        let Http { max_connections, head_timeout, deadline } = self.http;
        ensure!(
            (1..=512).contains(&max_connections),
            "http.max_connections: {max_connections} is not between 1 and 512"
        );
        for (key, value) in [("head_timeout", head_timeout), ("deadline", deadline)] {
            ensure!(
                (100..=600_000).contains(&value.as_millis()),
                "http.{key}: {} is not between 100ms and 10m: nobody would be answered, or somebody \
                 would never be dropped",
                humantime::format_duration(value)
            );
        }
        // Each of them may take any port that is free.
        let taken = self.agent_listen.filter(|addr| addr.port() != 0 && self.listen.contains(addr));
        if let Some(addr) = taken {
            bail!("agent_listen: {addr} is in listen as well; HAProxy's agent-check needs its own");
        }
        Ok(())
    }

    fn check_cgroups(&self) -> Result<()> {
        let cgroups::Settings { paths, most, histograms } = &self.cgroups;
        ensure!(*most <= MAX_CGROUPS, "cgroups.most: {most} is more than {MAX_CGROUPS}");
        for (key, paths) in [("paths", paths), ("histograms", histograms)] {
            ensure!(
                paths.len() <= MAX_CGROUP_PATHS,
                "cgroups.{key}: {} paths, at most {MAX_CGROUP_PATHS}",
                paths.len()
            );
            if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
                bail!("cgroups.{key}: {path:?} does not begin with / as /system.slice/* does");
            }
        }
        Selection::new(&self.cgroups)?;
        ensure!(
            self.growing_processes <= MAX_GROWING,
            "growing_processes: {} is more than {MAX_GROWING}",
            self.growing_processes
        );
        Ok(())
    }

    fn check_verdict(&self) -> Result<()> {
        let Settings { degraded_weight, fall_per_second, rise_per_second, .. } = self.verdict;
        for (key, value) in [
            ("degraded_weight", degraded_weight),
            ("fall_per_second", fall_per_second),
            ("rise_per_second", rise_per_second),
        ] {
            let right = value > 0.0 && value <= 1.0;
            ensure!(right, "verdict.{key}: {value} is not above 0 and at most 1");
        }
        ensure!(
            self.verdict.recover_after_max >= self.verdict.recover_after,
            "verdict.recover_after_max is less than recover_after"
        );
        Policy::new(&self.rules).map_err(|why| anyhow::anyhow!("rules: {why}"))?;
        ensure!(
            self.scope.len() <= MAX_SCOPES,
            "scope: {} scopes, at most {MAX_SCOPES}",
            self.scope.len()
        );
        let mut names = BTreeSet::from([HOST]);
        for ScopeConfig { name, cgroup } in &self.scope {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            ensure!(
                (1..=MAX_SCOPE_NAME).contains(&name.len()) && name.chars().all(plain),
                "scope: {name:?} is no name: letters, digits, `-`, `_`, `.`, at most {MAX_SCOPE_NAME}"
            );
            ensure!(names.insert(name), "scope: {name:?} twice (\"{HOST}\" is the machine)");
            let inside = cgroup.starts_with('/') && !cgroup.split('/').any(|part| part == "..");
            ensure!(
                inside && cgroup.len() > 1,
                "scope {name}: cgroup {cgroup:?} is no path such as /system.slice/nginx.service"
            );
        }
        Ok(())
    }

    /// As TOML, every key with its value.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_checks_and_round_trip() {
        let config = Config::default();
        config.check().expect("defaults are valid");
        let text = config.to_toml().expect("serialises");
        assert_eq!(Config::parse(&text).expect("parses"), config);
        assert_eq!(Config::parse("").expect("an empty file is all defaults"), config);
    }

    #[test]
    fn mistakes_name_the_key_and_what_is_allowed() {
        for (text, says) in [
            ("lisen = []", "unknown field `lisen`"),
            ("listen = []", "at least one address"),
            ("listen = [\"localhost\"]", "invalid socket address"),
            ("interval = \"1ms\"", "between 50ms and 1m"),
            ("stale_after = \"1s\"", "less than two intervals"),
            ("pressed_interval = \"1ms\"", "between 20ms and 1m"),
            ("agent_listen = \"nowhere\"", "invalid socket address"),
            ("[verdict]\ndegraded_weight = 1.5", "degraded_weight: 1.5 is not above 0"),
            ("[rules.stale]\nenabled = false", "no rule \"stale\"; there are: stalled"),
            ("[[scope]]\nname = \"host\"\ncgroup = \"/a\"", "\"host\" twice"),
            ("[[scope]]\nname = \"a b\"\ncgroup = \"/a\"", "\"a b\" is no name"),
            ("[[scope]]\nname = \"a\"\ncgroup = \"/../a\"", "no path such as"),
            ("bpf_log = \"loud\"", "unknown variant `loud`"),
            (
                "[probes]\nrequired = [\"oom\"]",
                "no probe \"oom\"; there are: alloc_failure, alloc_retry",
            ),
            ("[probes]\ndisabled = [\"oom_kill\"]", "both required and disabled"),
            ("[http]\nmax_connections = 0", "between 1 and 512"),
            ("[http]\nhead_timeout = \"0s\"", "http.head_timeout: 0s is not between 100ms and 10m"),
            ("[http]\ndeadline = \"0s\"", "http.deadline: 0s is not between 100ms and 10m"),
            ("[http]\ndeadline = \"1year\"", "http.deadline: 1year is not between"),
            ("listen = [\"0.0.0.0:9818\"]", "agent_listen: 0.0.0.0:9818 is in listen as well"),
            ("interval = \"50ms\"\nwindow = \"1h\"", "more than 600 intervals"),
            ("[kill_senders]\nothers = [\"a-name-far-too-long\"]", "longer than the 15 bytes"),
            ("[kill_senders]\nothers = [\"earlyoom\"]", "twice"),
        ] {
            let error = format!("{:#}", Config::parse(text).expect_err(text));
            assert!(error.contains(says), "{text:?} says {error:?}");
        }
    }

    #[test]
    fn what_is_free_may_be_taken_twice() {
        let any = "listen = [\"127.0.0.1:0\"]\nagent_listen = \"127.0.0.1:0\"";
        Config::parse(any).expect("two ports");
        let nowhere = "listen = [\"0.0.0.0:9818\"]\nagent_listen = \"\"";
        Config::parse(nowhere).expect("one listener");
    }

    #[test]
    fn an_error_tells_the_line() {
        let error = Config::parse("interval = \"1s\"\nwindow = 3").expect_err("a number");
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
