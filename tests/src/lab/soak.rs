//! A long run under mixed load: checks that the daemon's resources do not grow and that every
//! request is served.
//!
//! A minute of load is thrashing in one cgroup, OOM kills in another, creation and removal of
//! cgroups, a burst of requests, and calm. Meanwhile the daemon is scraped once per second and
//! checked as by HAProxy.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use procfs::process::Process;

use crate::support::{
    daemon::{self, Daemon},
    open_loop::Traffic,
    scope::{MIB, Scope, program},
    swap::Swap,
    undo::Undo,
};

/// Scrapes and agent-checks per second.
const RATES: [u32; 2] = [1, 4];
const TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of the samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// Limit and working set of the cgroup that thrashes.
const THRASH_MIB: [u64; 2] = [64, 96];
const KILLS_A_MINUTE: usize = 20;
const CGROUPS_A_MINUTE: usize = 200;
const BURST: usize = 300;

/// Allowed growth after the first quarter, in KiB: the event log fills up to its bound.
const SLACK_KIB: u64 = 512;

/// Resources of the daemon at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    at: Duration,
    resident_kib: u64,
    anonymous_kib: u64,
    locked_kib: u64,
    fds: u64,
    threads: u64,
    mappings: u64,
}

impl Sample {
    fn take(pid: u32, at: Duration) -> Result<Self> {
        let process = Process::new(i32::try_from(pid)?)?;
        let status = process.status()?;
        Ok(Self {
            at,
            resident_kib: status.vmrss.context("no VmRSS")?,
            anonymous_kib: status.rssanon.context("no RssAnon")?,
            locked_kib: status.vmlck.context("no VmLck")?,
            fds: process.fd_count()? as u64,
            threads: status.threads,
            mappings: process.maps()?.len() as u64,
        })
    }
}

/// Runs for so long; returns the table, or why the run failed.
pub fn run(duration: Duration) -> Result<String> {
    let mut undo = Undo::new()?;
    let _swap = Swap::new(256).context("make swap")?;
    let thrash = Scope::with_swap("soak", THRASH_MIB[0] * MIB)?;
    for group in thrash.groups() {
        undo.remove_group(group)?;
    }
    let config = format!("[[scope]]\nname = \"soak\"\ncgroup = \"{}\"\n", thrash.path());
    let daemon = Daemon::as_shipped(&config)?;
    let start = Instant::now();
    let clients = Clients::start(daemon.listening[0], daemon.listening[1], start)?;
    let load = Load::start(thrash, daemon.listening[1]);
    let mut samples = vec![Sample::take(daemon.pid(), Duration::ZERO)?];
    while start.elapsed() < duration {
        std::thread::sleep(SAMPLE_INTERVAL.min(duration.saturating_sub(start.elapsed())));
        samples.push(Sample::take(daemon.pid(), start.elapsed())?);
        ensure!(!load.has_failed(), "the load failed: {:?}", load.finish());
        eprintln!("{:?}", samples.last());
    }
    let minutes = load.finish()?;
    let (summary, complete) = clients.finish();
    let series = daemon.metrics()?;
    let sum = |prefix: &str| -> f64 {
        series.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, n)| n).sum()
    };
    let mut text = table(&samples);
    let _ = writeln!(
        text,
        "\n{minutes} rounds of load; {summary}; {} OOM kills counted, {} events lost; \
         {} deadlines missed",
        sum("memsensor_oom_kills_total"),
        sum("memsensor_events_lost_total"),
        sum("memsensor_deadline_misses_total"),
    );
    ensure!(complete, "some requests failed:\n{text}");
    check_growth(&samples).map_err(|reason| anyhow::anyhow!("{reason}:\n{text}"))?;
    Ok(text)
}

/// A Prometheus and a load balancer.
struct Clients {
    scrapes: Traffic<()>,
    checks: Traffic<()>,
}

impl Clients {
    fn start(http: SocketAddr, agent: SocketAddr, start: Instant) -> Result<Self> {
        let scrapes = Traffic::start(RATES[0], TIMEOUT, start, move |_| {
            let response = daemon::get(http, "/metrics", "application/openmetrics-text");
            let complete = response.is_ok_and(|r| r.status == 200 && r.body.ends_with("# EOF\n"));
            complete.then_some(()).ok_or("incomplete scrape")
        })?;
        let checks = Traffic::start(RATES[1], TIMEOUT, start, move |_| {
            let line = daemon::agent_check(agent, "soak\n");
            line.is_ok_and(|l| l.starts_with("up ")).then_some(()).ok_or("no response")
        })?;
        Ok(Self { scrapes, checks })
    }

    /// How many requests succeeded, as text, and whether all did.
    fn finish(self) -> (String, bool) {
        let [scrapes, checks] = [self.scrapes.finish(), self.checks.finish()].map(|requests| {
            (requests.iter().filter(|r| r.outcome.is_ok()).count(), requests.len())
        });
        let summary = format!(
            "{} of {} scrapes and {} of {} checks succeeded",
            scrapes.0, scrapes.1, checks.0, checks.1
        );
        (summary, scrapes.0 == scrapes.1 && checks.0 == checks.1)
    }
}

/// Seven samples over the run, and the maxima.
fn table(samples: &[Sample]) -> String {
    let mut text = String::from(
        "| minute | resident MiB | anonymous | locked address space | descriptors | threads \
         | mappings |\n\
         |---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let mib = |kib: u64| kib as f64 / 1024.0;
    let mut row = |name: &str, l: &Sample| {
        let [resident, own, locked] = [l.resident_kib, l.anonymous_kib, l.locked_kib].map(mib);
        let _ = writeln!(
            text,
            "| {name} | {resident:.2} | {own:.2} | {locked:.1} | {} | {} | {} |",
            l.fds, l.threads, l.mappings
        );
    };
    for part in 0..=6 {
        let sample = &samples[(samples.len() - 1) * part / 6];
        row(&format!("{:.0}", sample.at.as_secs_f64() / 60.0), sample);
    }
    let most = samples.iter().copied().reduce(|a, b| Sample {
        at: b.at,
        resident_kib: a.resident_kib.max(b.resident_kib),
        anonymous_kib: a.anonymous_kib.max(b.anonymous_kib),
        locked_kib: a.locked_kib.max(b.locked_kib),
        fds: a.fds.max(b.fds),
        threads: a.threads.max(b.threads),
        mappings: a.mappings.max(b.mappings),
    });
    if let Some(most) = most {
        row("maximum", &most);
    }
    text
}

/// Compares the last quarter with the first one; connections that are open for a moment are
/// allowed.
fn check_growth(samples: &[Sample]) -> Result<(), String> {
    let (first, rest) = samples.split_at(samples.len().div_ceil(4));
    let most =
        |samples: &[Sample], of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or(0);
    let fewest = |samples: &[Sample]| samples.iter().map(|l| l.fds).min().unwrap_or(0);
    let last = &rest[rest.len() * 2 / 3..];
    for (name, of, slack) in [
        ("memory", (|l| l.resident_kib) as fn(&Sample) -> u64, SLACK_KIB),
        ("locked memory", |l| l.locked_kib, SLACK_KIB),
        ("mappings", |l| l.mappings, 2),
        ("threads", |l| l.threads, 0),
    ] {
        let (before, after) = (most(first, of), most(last, of));
        if after > before + slack {
            return Err(format!("{name} grew from {before} to {after}"));
        }
    }
    // Connections are short-lived: their minimum must not grow.
    let (before, after) = (fewest(first), fewest(last));
    if after > before { Err(format!("descriptors stay open: {before}, {after}")) } else { Ok(()) }
}

/// The mixed load.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<usize>>,
}

impl Load {
    fn start(thrash: Scope, agent: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut minutes = 0;
            while !stopped.load(Ordering::Relaxed) {
                minute(&thrash, agent, &stopped)?;
                minutes += 1;
            }
            Ok(minutes)
        });
        Self { stop, thread }
    }

    fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    fn finish(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the load thread panicked"))?
    }
}

fn minute(thrash: &Scope, agent: SocketAddr, stop: &AtomicBool) -> Result<()> {
    let begun = Instant::now();
    let hog = program("hog")?;
    let run = |mut command: std::process::Command| -> Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Its exit status does not matter: most are killed.
        command.status().context("start hog").map(drop)
    };
    let mut command = thrash.command(&hog);
    command.args(["anon", &THRASH_MIB[1].to_string(), "loop", "15"]);
    run(command)?;
    let killed = Scope::new("soak-kills", 16 * MIB)?;
    for _ in 0..KILLS_A_MINUTE {
        let mut command = killed.command(&hog);
        command.args(["anon", "32"]);
        run(command)?;
    }
    drop(killed);
    for n in 0..CGROUPS_A_MINUTE {
        let group = thrash.unified().join(format!("child-{n}"));
        fs::create_dir(&group).with_context(|| format!("mkdir {}", group.display()))?;
        fs::remove_dir(&group).with_context(|| format!("rmdir {}", group.display()))?;
    }
    for _ in 0..BURST {
        let _ = daemon::agent_check(agent, "unknown-scope\n");
    }
    while begun.elapsed() < Duration::from_mins(1) && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(resident_kib: u64, fds: u64) -> Sample {
        let at = Duration::ZERO;
        let (anonymous_kib, locked_kib) = (1, 1);
        Sample { at, resident_kib, anonymous_kib, locked_kib, fds, threads: 4, mappings: 50 }
    }

    #[test]
    fn growth_is_detected() {
        let constant: Vec<_> = (0..40).map(|n| sample(10_000 + n % 3, 20 + n % 5)).collect();
        assert_eq!(check_growth(&constant), Ok(()));
        let leak: Vec<_> = (0..40).map(|n| sample(10_000 + n * 30, 20)).collect();
        assert!(check_growth(&leak).is_err_and(|reason| reason.contains("memory grew")));
        let open: Vec<_> = (0..40).map(|n| sample(10_000, 20 + n / 4)).collect();
        assert!(check_growth(&open).is_err_and(|reason| reason.contains("descriptors")));
    }
}
