//! The configuration: composes the settings of all modules.
//!
//! Every setting is optional. An unknown key, a wrong type or a value out of range is an error that
//! names file, line and key.
//!
//! Not here: what a setting does; each module has its own settings and checks them.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use sensor_core::{
    model::readiness::OnUnknown,
    verdict::{
        policy::{Changes, Policy},
        weight,
    },
};
use serde::{Deserialize, Serialize};

use super::{config_escapes, optional_address};
use crate::{
    cgroups,
    collect::{
        scopes,
        settings::{self as sampling, ScopeSettings},
    },
    kernel::settings::{self as kernel, BpfLog, KillSenders, Probes},
    serve::state::settings::{self as serving, Buckets, Http},
};

/// All settings.
///
/// The doc comments of the settings are the reference for operators: `docs/configuration.md` and
/// `memsensor config defaults` are generated from them. A sentence "Range: A to B." is the range.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses of the HTTP server, which serves `/metrics`, `/readyz`, `/livez` and
    /// `/api/v1/events`; at least one. Any client that can connect can read the names of processes
    /// and cgroups. Listen on `127.0.0.1` or a management address where a firewall does not
    /// restrict the port.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Vec<String>", extend("items" = {"type": "string", "format": "address"}))
    )]
    pub listen: Vec<SocketAddr>,
    /// Address that answers HAProxy's agent-check; `""` disables it. It must not be one of
    /// `listen`. Disable it where no HAProxy queries this host.
    #[serde(with = "optional_address")]
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "address")))]
    pub agent_listen: Option<SocketAddr>,
    /// Path of the Unix socket that `memsensor events`, `event`, `explain`, `top`, `drain` and
    /// `undrain` use; only root can connect. State files (the drain, the last verdict) are in the
    /// same directory. If you change it, pass `--socket` to these commands.
    #[cfg_attr(feature = "schema", schemars(extend("format" = "path")))]
    pub socket: String,
    /// Time between two samples. Range: 50ms to 1m. A sample costs well under a millisecond; a
    /// longer interval saves little and delays the verdict.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "duration")))]
    pub interval: Duration,
    /// Time between two samples while memory is under pressure. Range: 20ms to 1m. A value above
    /// `interval` has no effect. The kernel wakes memsensor when pressure begins, so a long
    /// `interval` does not delay the first of these samples.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "duration")))]
    pub pressed_interval: Duration,
    /// Readiness fails with the state `stale` when the last sample is older than this. Range: at
    /// least two `interval`s. With a longer time, load balancers keep a host that freezes in
    /// service for longer.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "duration")))]
    pub stale_after: Duration,
    /// Time over which the metrics that end in `_min` and `_max` hold the lowest and highest value.
    /// Range: `interval` to 1h, and at most 600 `interval`s. Set it to two scrape intervals, so
    /// that no scrape misses a peak: the default suits a scrape every 15 s. Each sample in it takes
    /// 13 KiB of memory.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "duration")))]
    pub window: Duration,
    /// Readiness of a scope whose stalls cannot be measured, because there is neither PSI nor a
    /// probe, or because its cgroup does not exist. Use `fail` only if a host without a verdict
    /// must get no traffic.
    pub on_unknown: OnUnknown,
    /// Start even if a required probe cannot be attached, no BPF program can be loaded, or `socket`
    /// cannot be created. memsensor then serves what it can still measure. For hosts whose kernel
    /// or sandbox lacks BTF or privileges.
    pub allow_degraded: bool,
    /// Let the kernel measure run time and runs of memsensor's BPF programs, for
    /// `memsensor_bpf_run_seconds_total` and `memsensor_bpf_runs_total`. Each run then reads the
    /// clock twice. Set it while you measure the overhead.
    pub bpf_stats: bool,
    /// Lowest level of the messages that memsensor's BPF programs write to its log. The messages
    /// are rate limited; `memsensor_events_lost_total` counts all losses. Set it to `warn` to see
    /// why an event was lost.
    pub bpf_log: BpfLog,
    /// Which probes memsensor attaches. `memsensor probes` prints all probes, and which of them
    /// this host supports.
    pub probes: Probes,
    /// Limits of the HTTP server.
    pub http: Http,
    /// Senders of SIGKILL that have a label value of their own in `memsensor_kill_signals_total`. A
    /// sender is the name of the thread that sends the signal, at most 15 bytes. The kills of all
    /// other senders count for `other`. Both lists together have at most 31 names.
    pub kill_senders: KillSenders,
    /// How fast state and weight follow the rules. The weight is the share of its usual traffic
    /// that a scope should get, 0 to 1.
    pub verdict: weight::Settings,
    /// Changes of the verdict's rules. A table has the name of a rule. It sets new thresholds of
    /// the rule's signals, or disables the rule with `enabled = false`. A threshold is a number, at
    /// least 0. All other thresholds keep their defaults. `memsensor config rules` prints all rules
    /// with their reasons, signals and thresholds.
    #[cfg_attr(
        feature = "schema",
        schemars(
            with = "std::collections::BTreeMap<String, std::collections::BTreeMap<String, f64>>",
            extend("examples" = [{
                "stalled": {"full_share_10s": 0.3},
                "filling": {"enabled": false}
            }])
        )
    )]
    pub rules: Changes,
    /// Resolution of histograms in `/metrics`. Use `fine` to tell apart durations that differ by
    /// less than a factor of four.
    pub buckets: Buckets,
    /// Number of processes with a metric of their growth: those that grow fastest. Range: 0 to 100.
    /// Each is a series, and the set changes over time: raise it only if your Prometheus can take
    /// the churn. It does not limit `memsensor top`.
    pub growing_processes: usize,
    /// Which cgroups have metrics of their own. A `*` in a path is any name or a part of one, and
    /// does not match `/`. Each list has at most 64 paths.
    pub cgroups: cgroups::settings::Settings,
    /// A cgroup with a verdict of its own, beside the host's: from its own limit, PSI and OOM
    /// kills. One `[[scope]]` per cgroup, at most 32. Use it where load balancers send traffic to a
    /// service that has a memory limit.
    pub scope: Vec<ScopeSettings>,
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
            verdict: weight::Settings::default(),
            rules: Changes::new(),
            buckets: Buckets::default(),
            growing_processes: 5,
            cgroups: cgroups::settings::Settings::default(),
            scope: Vec::new(),
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
        config_escapes::check(text)?;
        config.check()?;
        Ok(config)
    }

    /// Checks what types cannot: each module checks its settings.
    pub fn check(&self) -> Result<()> {
        serving::check_listeners(&self.listen, self.agent_listen)?;
        self.sampling().check()?;
        self.http.check()?;
        self.metrics().check()?;
        self.cgroups.check()?;
        self.verdict.check()?;
        self.policy()?;
        sampling::check_scopes(&self.scope)?;
        self.probes.check()?;
        self.kill_senders.check()
    }

    /// Settings of the loader.
    pub fn kernel(&self) -> kernel::Settings {
        kernel::Settings {
            probes: self.probes.clone(),
            kill_senders: self.kill_senders.clone(),
            bpf_stats: self.bpf_stats,
            bpf_log: self.bpf_log,
            cgroup_histograms: !self.cgroups.histograms.is_empty(),
        }
    }

    /// Settings of the sensing loop.
    pub fn sampling(&self) -> sampling::Settings {
        sampling::Settings {
            interval: self.interval,
            pressed_interval: self.pressed_interval,
            window: self.window,
            stale_after: self.stale_after,
        }
    }

    /// The rules with their changed thresholds.
    pub fn policy(&self) -> Result<Arc<Policy>> {
        let policy = Policy::new(&self.rules).map_err(|why| anyhow::anyhow!("rules: {why}"))?;
        Ok(Arc::new(policy))
    }

    /// Settings of the scopes' evaluation.
    pub fn scopes(&self, policy: Arc<Policy>) -> scopes::Settings {
        scopes::Settings {
            policy,
            weight: self.verdict,
            max_gap: self.stale_after,
            scopes: self.scope.clone(),
        }
    }

    /// What readiness depends on.
    pub fn readiness(&self) -> serving::Readiness {
        serving::Readiness { stale_after: self.stale_after, on_unknown: self.on_unknown }
    }

    /// Which series `/metrics` has.
    pub fn metrics(&self) -> serving::Metrics {
        serving::Metrics { buckets: self.buckets, growing_processes: self.growing_processes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = Config::parse("").expect("defaults pass their own checks");
        assert_eq!(config, Config::default());
    }

    #[test]
    fn mistakes_name_the_key_and_what_is_allowed() {
        for (text, message) in [
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
            ("[[scope]]\nname = \"a b\"\ncgroup = \"/a\"", "\"a b\" is not a valid name"),
            ("[[scope]]\nname = \"a\"\ncgroup = \"/../a\"", "not a path such as"),
            ("[[scope]]\nname = \"a\"\ncgroup = \"/a/*\"", "a scope is one cgroup"),
            ("[[scope]]\nname = \"a\"\ncgroup = \"/a//b\"", "write \"/a/b\""),
            ("[[scope]]\nname = \"a\"\ncgroup = \"/a/\"", "scope a: cgroup: \"/a/\""),
            ("[[scope]]\nname = \"a\"\ncgroup = \"/sys/fs/cgroup/b\"", "below it, \"/b\""),
            ("[[scope]]\nname = \"a\"\ncgroup = \"/a\\x2d.slice\"", "Write single quotes"),
            ("[cgroups]\npaths = [\"/sys/fs/cgroup/*\"]", "cgroups.paths: \"/sys/fs/cgroup/*\""),
            ("[cgroups]\nhistograms = [\"/a/\"]", "cgroups.histograms: \"/a/\""),
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
            assert!(error.contains(message), "{text:?}: {error:?}");
        }
    }

    #[test]
    fn two_listeners_may_take_any_free_port() {
        let any = "listen = [\"127.0.0.1:0\"]\nagent_listen = \"127.0.0.1:0\"";
        Config::parse(any).expect("two ports");
        let nowhere = "listen = [\"0.0.0.0:9818\"]\nagent_listen = \"\"";
        Config::parse(nowhere).expect("one listener");
    }

    #[test]
    fn an_error_names_the_line() {
        let error = Config::parse("interval = \"1s\"\nwindow = 3").expect_err("a number");
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
