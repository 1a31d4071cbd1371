//! The balancers' policies as data: a shipped configuration and its edits.
//!
//! Not here: how a balancer is started ([`super::balancer`]).

use anyhow::{Result, ensure};

/// How the balancer decides where requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// HAProxy without a check, round robin.
    Unchecked,
    /// HAProxy's plain HTTP check of the web server, round robin.
    Check,
    /// The shipped configuration without memsensor: the HTTP check, and fewest open requests.
    NoSensor,
    /// HAProxy: the emptier of two random servers, and the HTTP check.
    Random2,
    /// HAProxy: the server with the fewest open requests, and the HTTP check.
    LeastConn,
    /// HAProxy: as `Random2`, and errors of user requests mark a server down.
    Passive,
    /// Envoy without memsensor: fewest requests, outlier detection, and an HTTP check.
    Outlier,
    /// The shipped HAProxy: memsensor, requests in flight, and the HTTP check.
    Memsensor,
    /// The shipped HAProxy, and errors of user requests mark a server down.
    MemsensorPassive,
    /// The shipped Envoy: memsensor, fewest requests, and its outlier detection.
    EnvoyMemsensor,
}

/// The program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// HAProxy with `haproxy.cfg`.
    HaProxy,
    /// Envoy with `envoy.yaml`.
    Envoy,
}

/// A text of the configuration and its replacement.
pub type Edit = (&'static str, &'static str);

/// A policy's data.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Its name on the command line and in tables.
    pub name: &'static str,
    /// A description.
    pub about: &'static str,
    /// The program.
    pub proxy: Proxy,
    /// Whether memsensor runs on the hosts.
    pub sensor: bool,
    /// Differences from the shipped configuration.
    pub edits: &'static [&'static [Edit]],
}

const HAPROXY: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/haproxy.cfg"));
const ENVOY: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/envoy.yaml"));

const CHECK_LINE: &str = "    default-server check inter 1s fastinter 500ms fall 2 rise 2";
const AGENT: &str = " agent-check agent-port 9818 agent-inter 250ms";

/// Several hosts share this machine, so each is a scope; a real host would be the scope `host`.
const SCOPE: &[Edit] = &[
    ("agent-inter 250ms", "agent-inter 250ms agent-send \"web\\n\""),
    ("agent-send \"host?", "agent-send \"web?"),
];
const NO_AGENT: &[Edit] = &[
    (AGENT, ""),
    (
        "    default-server agent-check agent-port 9818 agent-inter 1s agent-send \
         \"host?fail_on=drained\\n\"\n",
        "",
    ),
];
const NO_CHECK: &[Edit] = &[(CHECK_LINE, ""), ("    option httpchk GET /\n", "")];
const ROUND_ROBIN: &[Edit] = &[("balance random(10)", "balance roundrobin")];
const RANDOM2: &[Edit] = &[("balance random(10)", "balance random(2)")];
const LEASTCONN: &[Edit] = &[("balance random(10)", "balance leastconn")];
/// Five failed requests in a row mark a server down until two checks succeed. A response that
/// takes 2 s, less than users wait, is a failure, and such a request is tried on another server.
const PASSIVE: &[Edit] = &[
    ("fall 2 rise 2", "fall 2 rise 2 observe layer7 error-limit 5 on-error mark-down"),
    ("timeout server 30s", "timeout server 2s"),
    ("option redispatch\n", "option redispatch 1\n"),
    (
        "    option httpchk GET /\n",
        "    option httpchk GET /\n    retry-on all-retryable-errors\n    \
         http-request disable-l7-retry unless METH_GET\n",
    ),
];

const READYZ: &[Edit] = &[("path: /readyz}", "path: /readyz/web}")];
const NO_READYZ: &[Edit] = &[
    ("path: /readyz}", "path: /}"),
    ("                  health_check_config: {port_value: 9817}\n", ""),
];
/// With two hosts a success rate is never 1.9 deviations below the mean, so the share of failures
/// ejects instead.
const OUTLIER: &[Edit] = &[
    (
        "        consecutive_5xx: 5\n",
        "        consecutive_5xx: 5\n        consecutive_gateway_failure: 5\n        \
         enforcing_consecutive_gateway_failure: 100\n        \
         failure_percentage_minimum_hosts: 2\n        \
         failure_percentage_request_volume: 20\n        failure_percentage_threshold: 20\n        \
         enforcing_failure_percentage: 100\n        interval: 1s\n",
    ),
    (
        "retry_on: connect-failure,refused-stream\n",
        "retry_on: connect-failure,refused-stream,reset,gateway-error\n                              \
         per_try_timeout: 2s\n",
    ),
];

impl Policy {
    /// All policies.
    pub const ALL: &[Self] = &[
        Self::Unchecked,
        Self::Check,
        Self::NoSensor,
        Self::Random2,
        Self::LeastConn,
        Self::Passive,
        Self::Outlier,
        Self::Memsensor,
        Self::MemsensorPassive,
        Self::EnvoyMemsensor,
    ];

    /// The shipped configuration, and what is left of it without its parts.
    pub const PARTS: &[Self] = &[Self::Unchecked, Self::Check, Self::NoSensor, Self::Memsensor];

    /// Those that are compared as rivals.
    pub const RIVALS: &[Self] = &[
        Self::Check,
        Self::Random2,
        Self::LeastConn,
        Self::Passive,
        Self::Outlier,
        Self::Memsensor,
        Self::MemsensorPassive,
        Self::EnvoyMemsensor,
    ];

    /// Its data.
    #[rustfmt::skip]
    pub const fn spec(self) -> Spec {
        use Proxy::{Envoy, HaProxy};
        const fn spec(
            name: &'static str,
            about: &'static str,
            proxy: Proxy,
            sensor: bool,
            edits: &'static [&'static [Edit]],
        ) -> Spec {
            Spec { name, about, proxy, sensor, edits }
        }
        match self {
            Self::Unchecked => spec("unchecked", "HAProxy without a check, round robin",
                HaProxy, false, &[NO_AGENT, NO_CHECK, ROUND_ROBIN]),
            Self::Check => spec("check", "HAProxy's HTTP check, round robin",
                HaProxy, false, &[NO_AGENT, ROUND_ROBIN]),
            Self::NoSensor => spec("no-sensor", "the shipped HAProxy without memsensor",
                HaProxy, false, &[NO_AGENT]),
            Self::Random2 => spec("random2", "HAProxy's HTTP check, `balance random(2)`",
                HaProxy, false, &[NO_AGENT, RANDOM2]),
            Self::LeastConn => spec("leastconn", "HAProxy's HTTP check, `balance leastconn`",
                HaProxy, false, &[NO_AGENT, LEASTCONN]),
            Self::Passive => spec("passive", "`random2` with `observe layer7`, `on-error mark-down`, \
                a server timeout of 2 s and retries on the other server",
                HaProxy, false, &[NO_AGENT, RANDOM2, PASSIVE]),
            Self::Outlier => spec("envoy-outlier", "Envoy: fewest requests, an HTTP check, outlier \
                detection, a timeout of 2 s per try and retries on the other host",
                Envoy, false, &[NO_READYZ, OUTLIER]),
            Self::Memsensor => spec("memsensor", "the shipped HAProxy: memsensor, the HTTP check, \
                `balance random(10)`",
                HaProxy, true, &[SCOPE]),
            Self::MemsensorPassive => spec("memsensor-passive", "`memsensor` with the passive checks \
                and retries of `passive`",
                HaProxy, true, &[SCOPE, PASSIVE]),
            Self::EnvoyMemsensor => spec("envoy-memsensor", "the shipped Envoy: memsensor, fewest requests",
                Envoy, true, &[READYZ]),
        }
    }

    /// Its name on the command line and in tables.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// Its configuration. Addresses and ports are those of the namespaces.
    pub fn configuration(self) -> Result<String> {
        let spec = self.spec();
        let shipped = match spec.proxy {
            Proxy::HaProxy => HAPROXY,
            Proxy::Envoy => ENVOY,
        };
        let mut text = shipped.to_owned();
        for (from, to) in spec.edits.iter().copied().flatten() {
            ensure!(text.contains(from), "{}: the configuration has no {from:?}", spec.name);
            text = text.replace(from, to);
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(policy: Policy) -> Vec<String> {
        let shipped = if policy.spec().proxy == Proxy::Envoy { ENVOY } else { HAPROXY };
        let text = policy.configuration().expect("it can be made");
        let ours = text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned);
        ours.filter(|l| !shipped.lines().any(|s| s == l)).collect()
    }

    #[test]
    fn only_the_policy_differs_from_the_shipped_file() {
        let round_robin = "    balance roundrobin";
        assert_eq!(changed(Policy::Unchecked), [round_robin]);
        assert_eq!(changed(Policy::Check), [round_robin, CHECK_LINE]);
        assert_eq!(changed(Policy::NoSensor), [CHECK_LINE]);
        assert_eq!(changed(Policy::Random2), ["    balance random(2)", CHECK_LINE]);
        let lines = changed(Policy::Memsensor);
        assert!(lines.len() == 2 && lines[0].ends_with(r#"agent-send "web\n""#), "{lines:?}");
        let fallback =
            HAPROXY.lines().find(|l| l.contains("agent-send \"host?")).expect("a fallback");
        assert_eq!(lines[1], fallback.replace("\"host?", "\"web?"));
    }

    #[test]
    fn removed_parts_are_gone() {
        let unchecked = Policy::Unchecked.configuration().expect("made");
        let used = |text: &str, word: &str| {
            text.lines().any(|l| !l.trim_start().starts_with('#') && l.contains(word))
        };
        assert!(!used(&unchecked, "httpchk") && !used(&unchecked, "default-server"));
        for policy in Policy::ALL.iter().filter(|p| !p.spec().sensor) {
            let text = policy.configuration().expect("made");
            for word in ["9817", "9818", "readyz", "agent-check"] {
                assert!(!used(&text, word), "{}: {word}", policy.name());
            }
        }
    }

    #[test]
    fn passive_checks_are_in_the_policies_that_name_them_only() {
        for policy in Policy::ALL {
            let text = policy.configuration().expect("made");
            let passive = text.contains("observe layer7") || text.contains("per_try_timeout");
            let named = matches!(policy, Policy::Passive | Policy::MemsensorPassive)
                || *policy == Policy::Outlier;
            assert_eq!(passive, named, "{}", policy.name());
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Policy::ALL.iter().map(|p| p.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Policy::ALL.len());
    }
}
