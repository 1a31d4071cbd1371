//! Settings of the servers. Not here: how they serve.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use sensor_core::{model::readiness::OnUnknown, verdict::policy::Policy};
use serde::{Deserialize, Serialize};

/// Highest number of processes with a metric of their growth.
const MAX_GROWING: usize = 100;

/// What the servers use; a reload replaces all of it at once.
#[derive(Debug, Clone)]
pub struct Served {
    /// The rules, for explanations.
    pub policy: Arc<Policy>,
    /// Settings of readiness.
    pub readiness: Readiness,
    /// Which series `/metrics` has.
    pub metrics: Metrics,
    /// Times of a connection.
    pub http: Http,
}

/// What readiness depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// Age of the last sample from which on readiness fails.
    pub stale_after: Duration,
    /// Readiness of a scope whose stalls cannot be measured.
    pub on_unknown: OnUnknown,
}

/// Limits of the HTTP server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Number of connections that are open at a time, over all `[[listen]]` of HTTP. Range: 1 to
    /// 512. A client's address may have an eighth of them, at least one; a /64 of IPv6 counts as
    /// one address. Further connections replace connections whose request is not complete, or are
    /// closed. An open connection takes about 20 KiB. Raise it if many load balancers and scrapers
    /// poll this host at the same moment.
    pub max_connections: usize,
    /// Time within which a client must send the head of its request, and before it the TLS handshake. Range: 100ms to 10m. Raise it
    /// for clients behind a slow network.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "duration")))]
    pub head_timeout: Duration,
    /// Time after which a connection is closed, even if the response is not complete. Range: 100ms
    /// to 10m. The default is Prometheus's default scrape timeout; set it to the timeout of your
    /// slowest client.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "duration")))]
    pub deadline: Duration,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            max_connections: 64,
            head_timeout: Duration::from_secs(1),
            deadline: Duration::from_secs(10),
        }
    }
}

impl Http {
    /// What is left of the times after a TLS handshake that took `elapsed`.
    #[must_use]
    pub fn after(&self, elapsed: Duration) -> Self {
        let left = |time: Duration| time.saturating_sub(elapsed).max(Duration::from_millis(1));
        let Self { max_connections, head_timeout, deadline } = *self;
        Self { max_connections, head_timeout: left(head_timeout), deadline: left(deadline) }
    }

    /// An error if a value is out of range.
    pub fn check(&self) -> Result<()> {
        let Self { max_connections, head_timeout, deadline } = *self;
        ensure!(
            (1..=512).contains(&max_connections),
            "http.max_connections: {max_connections} is not between 1 and 512"
        );
        for (key, value) in [("head_timeout", head_timeout), ("deadline", deadline)] {
            ensure!(
                (100..=600_000).contains(&value.as_millis()),
                "http.{key}: {} is not between 100ms and 10m: either no request could be answered, \
                 or a stuck client would stay",
                humantime::format_duration(value)
            );
        }
        Ok(())
    }
}

/// Resolution of histograms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Buckets {
    /// Bounds at powers of four, from 15 us: 15 series per histogram.
    #[default]
    Coarse,
    /// Bounds at powers of two, from 1 us: 30 series per histogram.
    Fine,
}

/// Which series `/metrics` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// Resolution of histograms.
    pub buckets: Buckets,
    /// Number of processes with a metric of their growth.
    pub growing_processes: usize,
}

impl Metrics {
    /// An error if there would be too many series.
    pub fn check(&self) -> Result<()> {
        let growing = self.growing_processes;
        ensure!(growing <= MAX_GROWING, "growing_processes: {growing} is more than {MAX_GROWING}");
        Ok(())
    }
}
