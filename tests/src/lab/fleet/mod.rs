//! A simulated fleet of hosts, to measure the programs that scrape it: what do Prometheus and
//! VictoriaMetrics need for a thousand hosts?
//!
//! * [`template`]: the exposition of one real memsensor, as a pattern for the other hosts.
//! * [`timeline`]: what happens to each host, and when (pure).
//! * [`cgroups`]: the series that depend on what runs on a host.
//! * [`format`]: OpenMetrics and the classic text format.
//! * [`serve`]: an HTTP server with an address for each host.
//! * [`engine`], `engines`: the programs that scrape it. [`run`] measures them, [`disk`] their
//!   storage, and [`compare`] their results; [`table`] prints it. `checks` holds the conditions of
//!   a valid run.
//!
//! Only the kernel's numbers are simulated. Series, labels and formats are those of a real daemon
//! on this machine, and the scrapers are the real programs with the shipped configuration.

pub mod cgroups;
mod checks;
pub mod compare;
pub mod disk;
pub mod engine;
mod engines;
pub mod format;
pub mod run;
pub mod serve;
pub mod table;
pub mod template;
pub mod timeline;
