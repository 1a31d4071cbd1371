//! A pass over the processes: by our iterator, and by reading /proc as everybody does.

use std::{
    fmt::Write as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use sensor_user::{
    config::Config,
    kernel::load,
    who::{Memory, Pass},
};

use super::medians::median;

/// What is looked at.
const PROCESSES: [usize; 2] = [1_000, 20_000];

/// Processes that sleep, until this is dropped.
struct Crowd(Vec<Child>);

impl Crowd {
    fn grow(&mut self, to: usize) -> Result<()> {
        while self.0.len() < to {
            let mut sleep = Command::new("sleep");
            sleep.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.0.push(sleep.spawn().context("start one process more")?);
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

/// The table, as Markdown: medians of so many rounds.
pub fn run(rounds: u32) -> Result<String> {
    let mut reader = load::load(&Config::default())?.reader;
    let mut crowd = Crowd(Vec::new());
    let mut memory = Memory::new(procfs::page_size());
    let mut text = String::from(
        "| processes | a pass, ms of CPU | with who grew, ms | /proc/PID/stat and statm, ms | ratio |\n\
         |---:|---:|---:|---:|---:|\n",
    );
    let mut second = 0;
    for processes in PROCESSES {
        crowd.grow(processes)?;
        let (mut passes, mut whole, mut walks) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let mut seen = 0;
            passes.push(run_stats(|| reader.processes(|_| seen += 1))?);
            ensure!(seen >= processes, "of {processes} processes {seen} were told");
            second += 1;
            whole.push(run_stats(|| {
                let mut pass = Pass::default();
                reader.processes(|process| pass.add(process))?;
                memory.update(pass, second);
                Ok(())
            })?);
            walks.push(run_stats(|| walk(processes))?);
        }
        let [pass, whole, walk] = [&passes, &whole, &walks].map(|all| median(all));
        let ratio = walk / pass;
        let _ = writeln!(text, "| {processes} | {pass:.2} | {whole:.2} | {walk:.1} | {ratio:.0} |");
    }
    Ok(text)
}

/// Milliseconds of our CPU time.
fn run_stats(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let now = || -> Result<Duration> { Ok(clock_gettime(ClockId::ProcessCPUTime).try_into()?) };
    let before = now()?;
    work()?;
    Ok(now()?.saturating_sub(before).as_secs_f64() * 1000.0)
}

/// What top and its like read of each process.
fn walk(least: usize) -> Result<()> {
    let mut seen = 0;
    for process in procfs::process::all_processes()?.flatten() {
        // One that has just ended is none.
        if let (Ok(stat), Ok(statm)) = (process.stat(), process.statm()) {
            std::hint::black_box((stat, statm));
            seen += 1;
        }
    }
    ensure!(seen >= least, "of {least} processes {seen} are in /proc");
    Ok(())
}
