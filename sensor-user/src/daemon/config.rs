//! The configuration: composes the settings of all modules.
//!
//! Every setting is optional. An unknown key, a wrong type or a value out of range is an error that names
//! file, line and key.
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

use super::optional_address;
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
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses of the HTTP server: `/metrics`, `/readyz`, `/livez`, `/api/v1/events`.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub listen: Vec<SocketAddr>,
    /// Address that answers HAProxy's agent-check; `""` is none.
    #[serde(with = "optional_address")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub agent_listen: Option<SocketAddr>,
    /// Root-only Unix socket of `memsensor events`, `explain`, `top` and `drain`. State files are in
    /// the same directory.
    pub socket: String,
    /// Time between two samples, 50ms to 1m. A sample costs well under a millisecond.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub interval: Duration,
    /// Time between two samples under pressure, 20ms to 1m, if that is shorter than `interval`. The
    /// kernel wakes the daemon when pressure begins.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub pressed_interval: Duration,
    /// Readiness fails if the last sample is older than this; at least two intervals.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub stale_after: Duration,
    /// How far `_min` and `_max` gauges look back, up to 1h: two scrapes at the usual 15 s.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub window: Duration,
    /// What readiness returns for a scope whose stalls cannot be measured, because there is neither
    /// PSI nor a probe: `pass` is full weight, `fail` is none.
    pub on_unknown: OnUnknown,
    /// Start even if a required probe cannot be attached.
    pub allow_degraded: bool,
    /// Let the kernel measure the cost of memsensor's programs. Each run then reads the clock twice.
    pub bpf_stats: bool,
    /// Level of the kernel half's debug log: `off`, `error`, `warn`, `info` or `debug`. Messages are
    /// rate limited; `memsensor_events_lost_total` counts all losses.
    pub bpf_log: BpfLog,
    /// Which probes are required, and which are disabled.
    pub probes: Probes,
    /// Limits of what is served over HTTP.
    pub http: Http,
    /// Senders of SIGKILL that get a label of their own.
    pub kill_senders: KillSenders,
    /// How fast state and weight follow the rules.
    pub verdict: weight::Settings,
    /// Changed thresholds of rules: `[rules.stalled]` `full_share_10s = 0.3`, or `enabled = false`.
    /// `memsensor config rules` prints all rules with their thresholds.
    #[cfg_attr(
        feature = "schema",
        schemars(
            with = "std::collections::BTreeMap<String, std::collections::BTreeMap<String, f64>>"
        )
    )]
    pub rules: Changes,
    /// Resolution of histograms: `coarse` has bounds at powers of four from 15 us (15 series each),
    /// `fine` at powers of two from 1 us (30 series each).
    pub buckets: Buckets,
    /// Processes that grow fastest and have a metric, 0 to 100. Each is a series, and they change.
    pub growing_processes: usize,
    /// Which cgroups have metrics of their own.
    pub cgroups: cgroups::settings::Settings,
    /// Cgroups with a verdict of their own, beside the host's; up to 32.
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
