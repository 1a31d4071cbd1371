//! Measures clients of another address, and the daemon, with and without the flood.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use procfs::process::Process;

use super::attack::{Attack, Size};
use crate::support::{
    daemon::{Daemon, parse},
    open_loop::{Request, Traffic, exchange},
};

/// Requests per second of each kind.
const RATE: u32 = 20;
/// Timeout of a request, as of a health check.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Time for the flood to begin.
const LEAD: Duration = Duration::from_secs(2);

/// Results of one phase.
#[derive(Debug)]
pub struct Phase {
    /// Results of `/readyz`.
    pub readyz: Vec<Request<()>>,
    /// Results of the agent-check.
    pub agent: Vec<Request<()>>,
    /// CPU time of the daemon, as a part of one CPU.
    pub cpu: f64,
    /// Memory that the daemon holds locked at the end, in KiB.
    pub locked_kib: u64,
    /// Connections per second that the flood opened.
    pub connects: f64,
}

/// A phase without and one with the flood, and what the daemon did with the connections.
#[derive(Debug)]
pub struct Results {
    /// Without the flood.
    pub calm: Phase,
    /// With it.
    pub flooded: Phase,
    /// Values of `memsensor_connections_total` by series.
    pub connections: Vec<(String, f64)>,
}

/// Runs both phases, each of this length.
pub fn run(size: Size, length: Duration) -> Result<Results> {
    // The requests must be on time although the flood uses the CPUs.
    let _ = rustix::process::setpriority_process(None, -19);
    let daemon = Daemon::as_shipped("")?;
    let calm = phase(&daemon, None, length)?;
    let addresses = addresses(&daemon)?;
    let attack = Attack::start(addresses, size)?;
    std::thread::sleep(LEAD);
    let flooded = phase(&daemon, Some(&attack), length)?;
    drop(attack);
    std::thread::sleep(Duration::from_secs(1));
    let series = parse(&daemon.get("/metrics", "")?.body);
    let connections = series
        .into_iter()
        .filter(|(name, value)| name.starts_with("memsensor_connections_total") && *value > 0.0);
    Ok(Results { calm, flooded, connections: connections.collect() })
}

fn addresses(daemon: &Daemon) -> Result<[SocketAddr; 2]> {
    daemon.listening.clone().try_into().ok().context("two addresses")
}

fn phase(daemon: &Daemon, attack: Option<&Attack>, length: Duration) -> Result<Phase> {
    let [http, agent] = addresses(daemon)?;
    let readyz = move |end| {
        let request = b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n";
        let answer = exchange(http, request, end, |_| false)?;
        answer.starts_with(b"HTTP/1.1 200 ").then_some(()).ok_or("unexpected response")
    };
    let agent_check = move |end| {
        let line = exchange(agent, b"", end, |_| false)?;
        (line == b"up 100%\n").then_some(()).ok_or("unexpected line")
    };
    let process = Process::new(daemon.pid().cast_signed())?;
    let connects = || attack.map_or(0, Attack::connects);
    let (before, opened, start) = (cpu_seconds(&process)?, connects(), Instant::now());
    let readyz = Traffic::start(RATE, TIMEOUT, start, readyz)?;
    let agent = Traffic::start(RATE, TIMEOUT, start, agent_check)?;
    std::thread::sleep(length);
    let seconds = start.elapsed().as_secs_f64();
    let cpu = (cpu_seconds(&process)? - before) / seconds;
    let connects = (connects() - opened) as f64 / seconds;
    let locked_kib = process.status()?.vmlck.context("no VmLck")?;
    Ok(Phase { readyz: readyz.finish(), agent: agent.finish(), cpu, locked_kib, connects })
}

fn cpu_seconds(process: &Process) -> Result<f64> {
    let stat = process.stat()?;
    Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}
