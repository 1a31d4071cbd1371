//! A run in one cgroup of this machine that thrashes: memory that a program has not locked is
//! reclaimed, and the latencies are real.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    programs::{Programs, SCOPE},
    result::Run,
    targets::Polling,
};
use crate::support::{
    scope::{MIB, Scope, program},
    swap::{self, Swap},
    undo::Undo,
};

/// The cgroup's limit.
const LIMIT: u64 = 128 * MIB;
/// The working set of the load: anonymous memory, and a file.
const LOAD_MIB: [u64; 2] = [160, 64];
const SWAP_MIB: u64 = 1024;

/// Speed of the swap device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapSpeed {
    /// As fast as memory.
    Fast,
    /// As slow as an overloaded disk.
    Slow,
}

impl SwapSpeed {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Fast, Self::Slow];
    const READS_PER_SECOND: u32 = 300;

    /// Its name on the command line and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Slow => "slow",
        }
    }
}

/// Runs a calm phase, then a load that thrashes.
pub fn run(swap_speed: SwapSpeed, calm: Duration, load: Duration) -> Result<Run> {
    // The queries must be on time although the load uses all CPUs.
    let _ = rustix::process::setpriority_process(None, -19);
    let mut undo = Undo::new()?;
    let mut swap = Swap::new(SWAP_MIB).context("make swap to thrash on")?;
    let mut scope = Scope::with_swap("thrash", LIMIT)?;
    for group in scope.groups() {
        undo.remove_group(group)?;
    }
    match swap_speed {
        SwapSpeed::Fast => {}
        SwapSpeed::Slow => swap.slow(&mut scope, SwapSpeed::READS_PER_SECOND)?,
    }
    let dir = swap.dir().join("programs");
    fs::create_dir(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
    let file = dir.join("file");
    swap::cold(&file, LOAD_MIB[1])?;
    let mut programs = Programs::start(&scope, &dir)?;
    let start = Instant::now();
    let polling = Polling::begin(SCOPE, start)?;
    let place = format!("In one cgroup of {} MiB, swap {}", LIMIT / MIB, swap_speed.name());
    let mut run = Run { place, ..Run::default() };
    std::thread::sleep(calm);
    run.calm = programs.memory_use();

    run.load_start = start.elapsed();
    let some = some_us(&scope)?;
    let loads = Loads::start(&scope, &file, load)?;
    std::thread::sleep(load / 2);
    let half = Instant::now();
    run.late_start = Programs::start_late(&scope, &dir, load / 2)?;
    std::thread::sleep((load / 2).saturating_sub(half.elapsed()));
    run.thrash = programs.memory_use();
    run.load_end = start.elapsed();
    // Nothing is starved of CPU here.
    run.starve_start = run.load_end;
    let some = some_us(&scope)?.saturating_sub(some);
    drop(loads);
    run.targets = polling.finish();
    run.ended = programs.ended().map(str::to_owned).collect();
    run.some_share = some as f64 / 1e6 / run.load_duration().as_secs_f64();
    let percent = run.some_share * 100.0;
    ensure!(
        percent > 20.0,
        "it did not thrash: tasks waited for memory {percent:.0} % of the time"
    );
    Ok(run)
}

fn some_us(scope: &Scope) -> Result<u64> {
    let mut us = 0;
    // PSI counts waits for a slow swap device as I/O.
    for name in ["memory.pressure", "io.pressure"] {
        let file = scope.unified().join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let total = text.lines().next().and_then(|l| l.split("total=").nth(1)?.parse::<u64>().ok());
        us = us.max(total.with_context(|| format!("no total in {}", file.display()))?);
    }
    Ok(us)
}

/// The load; the OOM killer selects it first.
struct Loads(Vec<Child>);

impl Loads {
    fn start(scope: &Scope, file: &std::path::Path, time: Duration) -> Result<Self> {
        let hog = program("hog")?;
        let seconds = (time.as_secs() + 5).to_string();
        let [memory, of_file] = LOAD_MIB.map(|mib| mib.to_string());
        let file = file.to_str().context("a path that is not UTF-8")?;
        let mut loads = Self(Vec::new());
        for words in [
            &["--adj", "1000", "anon", &memory, "loop", &seconds][..],
            &["--adj", "1000", "file", file, &of_file, "1000000"],
        ] {
            let mut command: Command = scope.command(&hog);
            command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
            loads.0.push(command.spawn().context("start hog")?);
        }
        Ok(loads)
    }
}

impl Drop for Loads {
    fn drop(&mut self) {
        for load in &mut self.0 {
            let _ = load.kill();
            let _ = load.wait();
        }
    }
}
