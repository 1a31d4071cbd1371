//! A long run under mixed load: whether what the daemon takes stays what it is, and every question is
//! answered.
//!
//! A minute of load is thrashing in one cgroup, OOM kills in another, cgroups that come and go, a burst of
//! questions, and calm. Meanwhile it is scraped once a second and asked as HAProxy asks.

use std::{
    fmt::Write as _,
    fs,
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

/// Scrapes and questions of one balancer, per second.
const RATES: [u32; 2] = [1, 4];
const PATIENCE: Duration = Duration::from_secs(5);
/// How often we look at what it takes.
const LOOK: Duration = Duration::from_secs(10);
/// Of the cgroup that thrashes, and what is used there.
const THRASH_MIB: [u64; 2] = [64, 96];
const KILLS_A_MINUTE: usize = 20;
const CGROUPS_A_MINUTE: usize = 200;
const BURST: usize = 300;

/// What may grow after the first quarter: KiB. The log of events fills up, and then no more.
const SLACK_KIB: u64 = 512;

/// What it takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    at: Duration,
    resident_kib: u64,
    anonymous_kib: u64,
    locked_kib: u64,
    fds: u64,
    threads: u64,
    mappings: u64,
}

impl Look {
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

/// Runs for so long; the table, or why it did not hold.
pub fn run(lasts: Duration) -> Result<String> {
    let mut undo = Undo::new()?;
    let _swap = Swap::new(256).context("make swap")?;
    let thrash = Scope::with_swap("soak", THRASH_MIB[0] * MIB)?;
    for group in thrash.groups() {
        undo.remove_group(group)?;
    }
    let config = format!("[[scope]]\nname = \"soak\"\ncgroup = \"{}\"\n", thrash.path());
    let daemon = Daemon::as_shipped(&config)?;
    let [http, agent] = [daemon.listening[0], daemon.listening[1]];
    let start = Instant::now();
    let metrics = Traffic::start(RATES[0], PATIENCE, start, move |_| {
        let answer = daemon::get(http, "/metrics", "application/openmetrics-text");
        let whole = answer.is_ok_and(|a| a.status == 200 && a.body.ends_with("# EOF\n"));
        whole.then_some(()).ok_or("no whole scrape")
    })?;
    let verdicts = Traffic::start(RATES[1], PATIENCE, start, move |_| {
        let line = daemon::ask_agent(agent, "soak\n");
        line.is_ok_and(|l| l.starts_with("up ")).then_some(()).ok_or("no answer")
    })?;
    let load = Load::start(thrash, agent);
    let mut looks = vec![Look::take(daemon.pid(), Duration::ZERO)?];
    while start.elapsed() < lasts {
        std::thread::sleep(LOOK.min(lasts.saturating_sub(start.elapsed())));
        looks.push(Look::take(daemon.pid(), start.elapsed())?);
        ensure!(!load.has_failed(), "the load could not be made: {:?}", load.finish());
        eprintln!("{:?}", looks.last());
    }
    let minutes = load.finish()?;
    let [scraped, answered] = [metrics.finish(), verdicts.finish()].map(|requests| {
        let good = requests.iter().filter(|r| r.outcome.is_ok()).count();
        (good, requests.len())
    });
    let series = daemon.metrics()?;
    let sum = |prefix: &str| -> f64 {
        series.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, n)| n).sum()
    };
    let mut text = table(&looks);
    let _ = writeln!(
        text,
        "\n{minutes} rounds of load; {} of {} scrapes and {} of {} questions answered; {} OOM kills \
         counted, {} events lost; deadlines missed: {}",
        scraped.0,
        scraped.1,
        answered.0,
        answered.1,
        sum("memsensor_oom_kills_total"),
        sum("memsensor_events_lost_total"),
        sum("memsensor_deadline_misses_total"),
    );
    ensure!(scraped.0 == scraped.1 && answered.0 == answered.1, "not all was answered:\n{text}");
    flat(&looks).map_err(|why| anyhow::anyhow!("{why}:\n{text}"))?;
    Ok(text)
}

/// The first, the last and what is between, and the most of each.
fn table(looks: &[Look]) -> String {
    let mut text = String::from(
        "| minute | MiB in memory | own | locked address space | descriptors | threads | mappings |\n\
         |---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let mib = |kib: u64| kib as f64 / 1024.0;
    let mut row = |name: &str, l: &Look| {
        let [resident, own, locked] = [l.resident_kib, l.anonymous_kib, l.locked_kib].map(mib);
        let _ = writeln!(
            text,
            "| {name} | {resident:.2} | {own:.2} | {locked:.1} | {} | {} | {} |",
            l.fds, l.threads, l.mappings
        );
    };
    for part in 0..=6 {
        let look = &looks[(looks.len() - 1) * part / 6];
        row(&format!("{:.0}", look.at.as_secs_f64() / 60.0), look);
    }
    let most = looks.iter().copied().reduce(|a, b| Look {
        at: b.at,
        resident_kib: a.resident_kib.max(b.resident_kib),
        anonymous_kib: a.anonymous_kib.max(b.anonymous_kib),
        locked_kib: a.locked_kib.max(b.locked_kib),
        fds: a.fds.max(b.fds),
        threads: a.threads.max(b.threads),
        mappings: a.mappings.max(b.mappings),
    });
    if let Some(most) = most {
        row("most", &most);
    }
    text
}

/// Whether nothing grew after the first quarter, but what is open for a moment.
fn flat(looks: &[Look]) -> Result<(), String> {
    let (first, rest) = looks.split_at(looks.len().div_ceil(4));
    let most = |looks: &[Look], of: fn(&Look) -> u64| looks.iter().map(of).max().unwrap_or(0);
    let fewest = |looks: &[Look]| looks.iter().map(|l| l.fds).min().unwrap_or(0);
    let last = &rest[rest.len() * 2 / 3..];
    for (name, of, slack) in [
        ("memory", (|l| l.resident_kib) as fn(&Look) -> u64, SLACK_KIB),
        ("locked memory", |l| l.locked_kib, SLACK_KIB),
        ("mappings", |l| l.mappings, 2),
        ("threads", |l| l.threads, 0),
    ] {
        let (before, after) = (most(first, of), most(last, of));
        if after > before + slack {
            return Err(format!("{name} grew from {before} to {after}"));
        }
    }
    // Connections come and go: none may stay.
    let (before, after) = (fewest(first), fewest(last));
    if after > before { Err(format!("descriptors stay open: {before}, {after}")) } else { Ok(()) }
}

/// The mixed load, until it is finished.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<usize>>,
}

impl Load {
    fn start(thrash: Scope, agent: std::net::SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut minutes = 0;
            while !told.load(Ordering::Relaxed) {
                minute(&thrash, agent, &told)?;
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
        self.thread.join().map_err(|_| anyhow::anyhow!("the load panicked"))?
    }
}

fn minute(thrash: &Scope, agent: std::net::SocketAddr, stop: &AtomicBool) -> Result<()> {
    let begun = Instant::now();
    let hog = program("hog")?;
    let quiet = |mut command: std::process::Command| -> Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // One that is killed has done its work.
        command.status().context("start hog").map(drop)
    };
    let mut command = thrash.command(&hog);
    command.args(["anon", &THRASH_MIB[1].to_string(), "loop", "15"]);
    quiet(command)?;
    let killed = Scope::new("soak-kills", 16 * MIB)?;
    for _ in 0..KILLS_A_MINUTE {
        let mut command = killed.command(&hog);
        command.args(["anon", "32"]);
        quiet(command)?;
    }
    drop(killed);
    for n in 0..CGROUPS_A_MINUTE {
        let group = thrash.unified().join(format!("child-{n}"));
        fs::create_dir(&group).with_context(|| format!("mkdir {}", group.display()))?;
        fs::remove_dir(&group).with_context(|| format!("rmdir {}", group.display()))?;
    }
    for _ in 0..BURST {
        let _ = daemon::ask_agent(agent, "nobody\n");
    }
    while begun.elapsed() < Duration::from_mins(1) && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(resident_kib: u64, fds: u64) -> Look {
        let at = Duration::ZERO;
        let (anonymous_kib, locked_kib) = (1, 1);
        Look { at, resident_kib, anonymous_kib, locked_kib, fds, threads: 4, mappings: 50 }
    }

    #[test]
    fn what_grows_is_not_flat() {
        let flat_one: Vec<_> = (0..40).map(|n| look(10_000 + n % 3, 20 + n % 5)).collect();
        assert_eq!(flat(&flat_one), Ok(()));
        let leak: Vec<_> = (0..40).map(|n| look(10_000 + n * 30, 20)).collect();
        assert!(flat(&leak).is_err_and(|why| why.contains("memory grew")));
        let open: Vec<_> = (0..40).map(|n| look(10_000, 20 + n / 4)).collect();
        assert!(flat(&open).is_err_and(|why| why.contains("descriptors")));
    }
}
