//! All of them in one cgroup of this machine that thrashes: what a program has not locked is reclaimed
//! from under it, and the latencies are real.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Run,
    targets::Polling,
    programs::{Programs, SCOPE},
};
use crate::support::{
    scope::{MIB, Scope, program},
    swap::{self, Swap},
    undo::Undo,
};

/// What the cgroup may have.
const LIMIT: u64 = 128 * MIB;
/// What the load uses again and again, of memory and of a file.
const LOAD_MIB: [u64; 2] = [160, 64];
const SWAP_MIB: u64 = 1024;
/// How fast swap is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapSpeed {
    /// As memory.
    Fast,
    /// As a tired disk does it: so many reads a second.
    Slow,
}

impl SwapSpeed {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Fast, Self::Slow];
    const READS_PER_SECOND: u32 = 300;

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Slow => "slow",
        }
    }
}

/// Leaves it calm, then lets it thrash, for so long each.
pub fn run(swap_speed: SwapSpeed, calm: Duration, load: Duration) -> Result<Run> {
    // Target asks must not be late because the load memory_use the processors.
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
    std::thread::sleep(calm);
    let calm = programs.memory_use();

    let (load_start, some) = (start.elapsed(), some_us(&scope)?);
    let loads = Loads::start(&scope, &file, load)?;
    std::thread::sleep(load / 2);
    let half = Instant::now();
    let late = Programs::start_late(&scope, &dir, load / 2)?;
    std::thread::sleep((load / 2).saturating_sub(half.elapsed()));
    let thrash = programs.memory_use();
    let (load_end, some) = (start.elapsed(), some_us(&scope)?.saturating_sub(some));
    drop(loads);
    let asked = polling.finish();
    let dead = programs.dead().map(str::to_owned).collect();
    let some = some as f64 / 1e6 / load_end.saturating_sub(load_start).as_secs_f64();
    ensure!(
        some > 0.2,
        "it did not thrash: tasks waited for memory {:.0} % of the time",
        some * 100.0
    );
    let place = format!("In one cgroup of {} MiB, swap {}", LIMIT / MIB, swap_speed.name());
    let (end, starve_end) = (load_end, Duration::ZERO);
    Ok(Run { place, asked, load_start, load_end, end, starve_end, calm, thrash, some, late, dead })
}

fn some_us(scope: &Scope) -> Result<u64> {
    let mut us = 0;
    // Waits for a slow swap count as I/O.
    for name in ["memory.pressure", "io.pressure"] {
        let file = scope.unified().join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let total = text.lines().next().and_then(|l| l.split("total=").nth(1)?.parse::<u64>().ok());
        us = us.max(total.with_context(|| format!("no total in {}", file.display()))?);
    }
    Ok(us)
}

/// What makes it thrash; killed first if the kernel must kill.
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
