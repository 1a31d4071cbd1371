//! The two text formats of an exposition.

use std::fmt::Write as _;

/// The formats that memsensor exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Requested by Prometheus.
    OpenMetrics,
    /// Requested by other clients.
    Classic,
}

impl Format {
    /// The header `Accept` that requests it.
    pub fn accept(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0",
            Self::Classic => "text/plain; version=0.0.4",
        }
    }

    /// Writes help and type of a family.
    pub(super) fn head(self, text: &mut String, name: &str, kind: &str, help: &str) {
        let (name, kind) = match (self, kind) {
            (Self::Classic, "info") => (format!("{name}_info"), "gauge"),
            (Self::Classic, "counter") => (format!("{name}_total"), kind),
            _ => (name.to_owned(), kind),
        };
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
}
