//! The Grafana dashboards against what is real of them: the sources that they are made from, Grafana's own
//! published types, and a Prometheus that has seen a night. A Grafana server is not among it.

mod files;
mod queries;
