//! Consumers of memsensor: formats and names, the command line, load balancers, misbehaving
//! clients, and a frozen sensor.

mod alerting;
mod balancers;
mod dashboards;
mod datadog;
mod fleet;
mod formats;
mod frozen;
mod limits;
mod listen;
mod outside;
mod own_limits;
mod recorder;
mod reload;
mod replay;
mod restarts;
mod scrape;
mod screen;
mod secure;
mod survive;
mod syscalls;
mod verdict;

use sensor_tests::support::daemon::Daemon;

fn agent_check(daemon: &Daemon) -> String {
    daemon.agent_check("").expect("agent-check")
}
