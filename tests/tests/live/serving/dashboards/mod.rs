//! The Grafana dashboards, checked against their sources, Grafana's published types, and a
//! Prometheus after a scenario run. Not here: a Grafana server.

mod files;
mod queries;
