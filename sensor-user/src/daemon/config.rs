//! The configuration: composes the settings of all modules.
//!
//! Every setting is optional. An unknown key, a wrong type or a value out of range is an error that
//! names file, line and key.
//!
//! Not here: what a setting does; each module has its own settings and checks them.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use sensor_core::{
    model::readiness::OnUnknown,
    verdict::{
        policy::{Changes, Policy},
        weight,
    },
};
use serde::{Deserialize, Serialize};

use super::{config_escapes, own_user};
use crate::{
    cgroups::{self, served::ServedPatterns},
    collect::{
        scopes,
        settings::{self as sampling, ScopeSettings},
    },
    kernel::settings::{self as kernel, BpfLog, KillSenders, Probes},
    recorder,
    serve::{
        listen::{self, Listener},
        state::settings::{self as serving, Buckets, Http},
    },
};

/// All settings.
///
/// The doc comments of the settings are the reference for operators: `docs/configuration.md` and
/// `memsensor config defaults` are generated from them. A sentence "Range: A to B." is the range.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Path of the Unix socket that `memsensor events`, `event`, `explain`, `top`, `drain` and
    /// `undrain` use; only root can connect. State files (the drain, the last verdict) are in the
    /// same directory. If you change it, pass `--socket` to these commands.
    #[cfg_attr(feature = "schema", schemars(extend("format" = "path")))]
    pub socket: String,
    /// User that memsensor changes to after it has attached its programs: a name or a number. If
    /// root starts memsensor and this user does not exist, memsensor logs a warning and keeps uid
    /// 0. The directory of `socket` is handed over to the user, unless it contains other files.
    /// `""` keeps the user that starts memsensor.
    pub user: String,
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
    /// Cgroups that the host serves its users from, such as `/system.slice/nginx.service` or
    /// `/kubepods.slice/**/cri-containerd-*.scope`: the host's verdict is the worst of its own and
    /// theirs. A `*` in a path is any name or a part of one, and does not match `/`; `**` is any
    /// number of names. At most 64 paths and 32 cgroups. Use it where users meet a service with a
    /// memory limit and load balancers ask for the host; a cgroup that is not listed takes no weight
    /// from the host when it reaches its own limit. `/` is the cgroup that memsensor sees as the root,
    /// if it has a limit, as in a system container (LXC).
    #[cfg_attr(
        feature = "schema",
        schemars(extend("examples" = [["/system.slice/nginx.service"]]))
    )]
    pub serves: Vec<String>,
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
    /// The record on disk: what memsensor saw, and kept before a restart, a reboot or the end of the
    /// host.
    pub record: recorder::settings::Settings,
    /// An address to listen on, and what it serves there. One `[[listen]]` per address, at most 16.
    /// They replace the default, which is: `[::]:9817` with readiness and metrics, `[::]:9818` with
    /// the agent-check, and `127.0.0.1:9819` with events, because these have names of processes.
    /// `[::]` is all addresses of IPv6 and IPv4. Where the kernel has no IPv6, the default is
    /// `0.0.0.0`; an address that you write is bound as it is.
    #[serde(deserialize_with = "listen::at_least_one")]
    pub listen: Vec<Listener>,
    /// A cgroup with a verdict of its own, beside the host's: from its own limit, PSI and OOM
    /// kills. One `[[scope]]` per cgroup, at most 32. Use it where load balancers send traffic to a
    /// service that has a memory limit.
    pub scope: Vec<ScopeSettings>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: "/run/memsensor/memsensor.sock".to_owned(),
            user: "memsensor".to_owned(),
            interval: Duration::from_secs(1),
            pressed_interval: Duration::from_millis(100),
            stale_after: Duration::from_secs(5),
            window: Duration::from_secs(30),
            serves: Vec::new(),
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
            record: recorder::settings::Settings::default(),
            listen: Vec::new(),
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
        listen::check_all(&self.listen)?;
        own_user::check(&self.user)?;
        self.sampling().check()?;
        self.http.check()?;
        self.metrics().check()?;
        self.cgroups.check()?;
        self.record.check()?;
        ServedPatterns::new(&self.serves)?;
        self.verdict.check()?;
        self.policy()?;
        sampling::check_scopes(&self.scope)?;
        self.probes.check()?;
        self.kill_senders.check()
    }

    /// The listeners: those of the file, or the default.
    pub fn listeners(&self) -> Vec<Listener> {
        if self.listen.is_empty() { Listener::defaults() } else { self.listen.clone() }
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

    /// What the servers use, with the rules of [`Self::policy`].
    pub fn served(&self, policy: Arc<Policy>) -> serving::Served {
        let (readiness, metrics) = (self.readiness(), self.metrics());
        serving::Served { policy, readiness, metrics, http: self.http.clone() }
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
            ("interval = \"1ms\"", "between 50ms and 1m"),
            ("stale_after = \"1s\"", "less than two intervals"),
            ("pressed_interval = \"1ms\"", "between 20ms and 1m"),
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
            ("user = \"a b\"", "\"a b\" is not a name or a number"),
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
            ("interval = \"50ms\"\nwindow = \"1h\"", "more than 600 intervals"),
            ("[kill_senders]\nothers = [\"a-name-far-too-long\"]", "longer than the 15 bytes"),
            ("[kill_senders]\nothers = [\"earlyoom\"]", "twice"),
        ] {
            let error = format!("{:#}", Config::parse(text).expect_err(text));
            assert!(error.contains(message), "{text:?}: {error:?}");
        }
    }

    /// A listener with this line in place of its routes.
    fn listener(line: &str) -> String {
        format!("[[listen]]\naddress = \"127.0.0.1:1\"\n{line}\n")
    }

    #[test]
    fn mistakes_of_a_listener_name_it() {
        const ROUTES: &str = "routes = [\"metrics\"]";
        let allow = |networks: &str| listener(&format!("{ROUTES}\nallow = [{networks}]"));
        let one = |n| format!("[[listen]]\naddress = \"127.0.0.1:{n}\"\n{ROUTES}\n");
        for (text, message) in [
            ("listen = []".to_owned(), "listen: at least one is needed"),
            ("listen = [\"0.0.0.0:9817\"]".to_owned(), "expected a table [[listen]] with"),
            ("agent_listen = \"0.0.0.0:9818\"".to_owned(), "unknown field `agent_listen`"),
            ("[[listen]]\naddress = \"localhost\"".to_owned(), "invalid socket address"),
            (listener(""), "missing field `routes`"),
            (format!("[[listen]]\n{ROUTES}"), "missing field `address`"),
            (listener("routes = []"), "listen: 127.0.0.1:1: routes: at least one"),
            (listener("routes = [\"readyz\"]"), "unknown variant `readyz`, expected one of"),
            (listener("routes = [\"metrics\", \"metrics\"]"), "routes: a word is there twice"),
            (listener("routes = [\"agent\", \"metrics\"]"), "a [[listen]] of its own"),
            (listener(&format!("{ROUTES}\nport = 1")), "unknown field `port`"),
            (listener(&format!("{ROUTES}\nmay_fall_back = true")), "unknown field"),
            (allow(""), "listen: 127.0.0.1:1: allow: no client could connect"),
            (allow("\"web-01\""), "\"web-01\" is not a network such as"),
            (allow("\"10.1.0.0/8\""), "write \"10.0.0.0/8\""),
            (allow(&"\"::1\",".repeat(65)), "allow: 65 networks, at most 64"),
            (one(1) + &one(1), "listen: 127.0.0.1:1 twice"),
            ((1..=17).map(one).collect(), "listen: 17 listeners, at most 16"),
        ] {
            let error = format!("{:#}", Config::parse(&text).expect_err(&text));
            assert!(error.contains(message), "{text:?}: {error:?}");
        }
    }

    #[test]
    fn two_listeners_may_take_any_free_port() {
        let any = "[[listen]]\naddress = \"127.0.0.1:0\"\nroutes = [\"readiness\"]\n";
        Config::parse(&any.repeat(2)).expect("two ports");
    }

    #[test]
    fn an_error_names_the_line() {
        let error = Config::parse("interval = \"1s\"\nwindow = 3").expect_err("a number");
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
