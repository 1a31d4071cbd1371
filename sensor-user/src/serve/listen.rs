//! Settings of a listener: its address, what it serves there, and to which clients. Not here: how
//! an address is bound (`daemon/listeners`), and how it is served (`http`, `agent_check`).

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::networks::Network;

/// Highest number of listeners.
const MAX_LISTENERS: usize = 16;
/// Highest number of networks of a listener: all are compared at each connection.
const MAX_NETWORKS: usize = 64;

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// `/readyz` and `/livez`, for load balancers.
    Readiness,
    /// `/metrics`; it has names of cgroups, and of the processes that grow fastest.
    Metrics,
    /// `/api/v1/events`; it has names of processes and cgroups, and memory of processes.
    Events,
    /// HAProxy's agent-check, a protocol of its own: alone on its listener.
    Agent,
}

impl Route {
    /// The word in the configuration.
    pub fn label(self) -> &'static str {
        match self {
            Self::Readiness => "readiness",
            Self::Metrics => "metrics",
            Self::Events => "events",
            Self::Agent => "agent",
        }
    }
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, expecting = "a table [[listen]] with `address` and `routes`")]
pub struct Listener {
    /// Address and port. An IPv6 address is in brackets. `[::]` has the IPv4 addresses too, unless
    /// another listener has an IPv4 address with the same port.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "String", extend("format" = "address"), example = &"10.0.0.5:9817")
    )]
    pub address: SocketAddr,
    /// What it serves: `readiness` is `/readyz` and `/livez`, `metrics` is `/metrics`, `events` is
    /// `/api/v1/events`, and `agent` is HAProxy's agent-check, which must be alone. Other paths
    /// return 404.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Vec<String>", example = &["readiness", "metrics"])
    )]
    pub routes: Vec<Route>,
    /// Networks whose clients are served, at most 64: in CIDR notation, or single addresses. The
    /// connection of any other client is closed at once, and counted as `refused`. A client that
    /// connects to `[::]` by IPv4 has its IPv4 address.
    #[serde(default = "every_network")]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Vec<String>", extend("items" = {"type": "string", "format": "network"}))
    )]
    pub allow: Vec<Network>,
    /// File with TLS and basic auth of this listener, in the format of Prometheus's
    /// exporter-toolkit (`tls_server_config`, `basic_auth_users`). A key that memsensor does not
    /// support is an error. It is read again within seconds when it changes, and so are the files
    /// that it names; if the new content is not valid, the old stays, and the log has the reason.
    #[serde(default)]
    #[cfg_attr(
        feature = "schema",
        schemars(
            with = "String",
            extend("format" = "path", "default" = null),
            example = &"/etc/memsensor/web.yml"
        )
    )]
    pub web_config: Option<PathBuf>,
    /// File with a token of 16 to 1024 characters: clients must send it as `Authorization: Bearer
    /// TOKEN`, or a user of `web_config` with its password. It is read again when it changes.
    #[serde(default)]
    #[cfg_attr(
        feature = "schema",
        schemars(
            with = "String",
            extend("format" = "path", "default" = null),
            example = &"/etc/memsensor/token"
        )
    )]
    pub bearer_token_file: Option<PathBuf>,
    /// A default of ours: where IPv6 is not available it may listen on IPv4 instead.
    #[serde(skip)]
    pub may_fall_back: bool,
}

fn every_network() -> Vec<Network> {
    vec![Network::ALL_V4, Network::ALL_V6]
}

impl Listener {
    /// An exact address, for all clients.
    pub fn new(address: SocketAddr, routes: &[Route]) -> Self {
        let routes = routes.to_vec();
        Self {
            address,
            routes,
            allow: every_network(),
            web_config: None,
            bearer_token_file: None,
            may_fall_back: false,
        }
    }

    /// The listeners without a configuration. Events have names of processes: they stay on this
    /// host.
    pub fn defaults() -> Vec<Self> {
        let all = |port, routes: &[Route]| {
            let address = SocketAddr::from(([0; 8], port));
            Self { may_fall_back: true, ..Self::new(address, routes) }
        };
        let events = SocketAddr::from(([127, 0, 0, 1], 9819));
        vec![
            all(9817, &[Route::Readiness, Route::Metrics]),
            Self::new(events, &[Route::Events]),
            all(9818, &[Route::Agent]),
        ]
    }

    /// Whether it is HAProxy's agent-check, which is no HTTP.
    pub fn is_agent(&self) -> bool {
        self.routes.contains(&Route::Agent)
    }

    /// Whether it has TLS or asks for credentials.
    pub fn is_secured(&self) -> bool {
        self.web_config.is_some() || self.bearer_token_file.is_some()
    }

    fn check(&self) -> Result<()> {
        let Self { routes, allow, .. } = self;
        let words: BTreeSet<_> = routes.iter().collect();
        ensure!(!routes.is_empty(), "routes: at least one is needed");
        ensure!(words.len() == routes.len(), "routes: a word is there twice");
        if self.is_agent() && routes.len() > 1 {
            bail!("routes: \"agent\" is no HTTP and needs a [[listen]] of its own");
        }
        ensure!(
            !(self.is_agent() && self.is_secured()),
            "web_config, bearer_token_file: HAProxy's agent-check has neither TLS nor passwords; \
             restrict it with allow"
        );
        ensure!(!allow.is_empty(), "allow: no client could connect; leave it out to allow all");
        let count = allow.len();
        ensure!(count <= MAX_NETWORKS, "allow: {count} networks, at most {MAX_NETWORKS}");
        Ok(())
    }
}

/// Replaces listeners by addresses of the command line: `http` those of HTTP, each with all of its
/// routes, and `agent` those of the agent-check.
pub fn replace(listeners: &mut Vec<Listener>, http: &[SocketAddr], agent: Option<SocketAddr>) {
    let replaced = |old: &Listener| if old.is_agent() { agent.is_some() } else { !http.is_empty() };
    listeners.retain(|old| !replaced(old));
    let routes = [Route::Readiness, Route::Metrics, Route::Events];
    let http = http.iter().map(|addr| Listener::new(*addr, &routes));
    let agent = agent.map(|addr| Listener::new(addr, &[Route::Agent]));
    // HTTP first: the log is easier to read in one order.
    listeners.splice(0..0, http);
    listeners.extend(agent);
}

/// An error if two listeners have one address, or one of them has settings that do not fit.
pub fn check_all(listeners: &[Listener]) -> Result<()> {
    let count = listeners.len();
    ensure!(count <= MAX_LISTENERS, "listen: {count} listeners, at most {MAX_LISTENERS}");
    let mut addresses = BTreeSet::new();
    for listener in listeners {
        let address = listener.address;
        listener.check().with_context(|| format!("listen: {address}"))?;
        // Port 0 is any free port, so two of these do not collide.
        let is_new = address.port() == 0 || addresses.insert(address);
        ensure!(is_new, "listen: {address} twice; a [[listen]] can have several routes");
    }
    Ok(())
}

/// Reads listeners. An empty list is not the default: it would be no listener at all.
pub fn at_least_one<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Listener>, D::Error> {
    let listeners = Vec::deserialize(from)?;
    if listeners.is_empty() {
        return Err(D::Error::custom(
            "listen: at least one is needed; leave it out for the default",
        ));
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_replaces_listeners_of_its_kind() {
        let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let all = [Route::Readiness, Route::Metrics, Route::Events];
        let new = [Listener::new(addr(1), &all), Listener::new(addr(2), &all)];
        let agent = [Listener::new(addr(3), &[Route::Agent])];
        let defaults = Listener::defaults();
        for (http, agent_addr, expected) in [
            (&[][..], None, defaults.clone()),
            (&[addr(1), addr(2)], None, [&new[..], &defaults[2..]].concat()),
            (&[], Some(addr(3)), [&defaults[..2], &agent[..]].concat()),
            (&[addr(1)], Some(addr(3)), [&new[..1], &agent].concat()),
        ] {
            let mut listeners = defaults.clone();
            replace(&mut listeners, http, agent_addr);
            assert_eq!(listeners, expected);
            check_all(&listeners).expect("valid");
        }
    }

    #[test]
    fn events_are_on_loopback_only_by_default() {
        check_all(&Listener::defaults()).expect("valid");
        for listener in Listener::defaults() {
            let has_events = listener.routes.contains(&Route::Events);
            assert_eq!(has_events, listener.address.ip().is_loopback(), "{listener:?}");
        }
    }
}
