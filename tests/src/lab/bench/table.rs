//! A scan of the processes by the BPF iterator, beside a walk through /proc.

use std::{
    fmt::Write as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use sensor_user::{
    kernel::{load, settings::Settings},
    usage::tracker::{ScanBatch, UsageTracker},
};

use super::medians::median;

/// Numbers of processes to scan.
const PROCESSES: [usize; 2] = [1_000, 20_000];

/// Sleeping processes, killed when dropped.
struct Crowd(Vec<Child>);

impl Crowd {
    fn grow(&mut self, to: usize) -> Result<()> {
        while self.0.len() < to {
            let mut sleep = Command::new("sleep");
            sleep.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.0.push(sleep.spawn().context("start another process")?);
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// The table as Markdown, with medians of so many rounds.
pub fn run(rounds: u32) -> Result<String> {
    let mut programs = load::load(&Settings::default())?.programs;
    let mut crowd = Crowd(Vec::new());
    let mut tracker = UsageTracker::new(procfs::page_size());
    let mut text = String::from(
        "| processes | scan, ms of CPU | with growth per process, ms \
         | /proc/PID/stat and statm, ms | ratio |\n\
         |---:|---:|---:|---:|---:|\n",
    );
    let mut second = 0;
    for processes in PROCESSES {
        crowd.grow(processes)?;
        let (mut passes, mut whole, mut walks) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let mut seen = 0;
            passes.push(cpu_ms(|| programs.processes(|_| seen += 1))?);
            ensure!(seen >= processes, "{seen} of {processes} processes were scanned");
            second += 1;
            whole.push(cpu_ms(|| {
                let mut pass = ScanBatch::default();
                programs.processes(|process| pass.add(process))?;
                tracker.update(pass, second);
                Ok(())
            })?);
            walks.push(cpu_ms(|| walk(processes))?);
        }
        let [pass, whole, walk] = [&passes, &whole, &walks].map(|all| median(all));
        let ratio = walk / pass;
        let _ = writeln!(text, "| {processes} | {pass:.2} | {whole:.2} | {walk:.1} | {ratio:.0} |");
    }
    Ok(text)
}

/// CPU milliseconds of this process.
fn cpu_ms(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let now = || -> Result<Duration> { Ok(clock_gettime(ClockId::ProcessCPUTime).try_into()?) };
    let before = now()?;
    work()?;
    Ok(now()?.saturating_sub(before).as_secs_f64() * 1000.0)
}

/// Reads what tools like top read for each process.
fn walk(least: usize) -> Result<()> {
    let mut seen = 0;
    for process in procfs::process::all_processes()?.flatten() {
        // A process may have ended meanwhile.
        if let (Ok(stat), Ok(statm)) = (process.stat(), process.statm()) {
            std::hint::black_box((stat, statm));
            seen += 1;
        }
    }
    ensure!(seen >= least, "{seen} of {least} processes are in /proc");
    Ok(())
}
