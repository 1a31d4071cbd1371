//! A fleet of hosts that are not there, for the programs that scrape them: what does Prometheus need for a
//! thousand hosts, and what does VictoriaMetrics?
//!
//! * [`template`]: what one real memsensor exports, read so that other hosts can say the like.
//! * [`timeline`]: what happens to each host, and when (pure).
//! * [`cgroups`]: the series that depend on what runs on a host.
//! * [`serve`]: an HTTP server with an address for each host.
//! * [`engine`]: the programs that scrape it; [`run`] measures them, [`disk`] what they write, and [`compare`]
//!   their answers; [`table`] shows it. `checks` has what must hold in each run.
//!
//! Only the kernel's numbers are made up. Series, labels and formats are those of a daemon that runs on this
//! machine, and who scrapes is the real program with the shipped configuration.

pub mod cgroups;
mod checks;
pub mod compare;
pub mod disk;
pub mod engine;
pub mod run;
pub mod serve;
pub mod timeline;
pub mod table;
pub mod template;
