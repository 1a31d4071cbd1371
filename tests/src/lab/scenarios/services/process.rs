//! A running service: its processes, which end with it.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::{Pid, Signal};

/// How long a service may take until it answers.
const START: Duration = Duration::from_secs(40);
/// How long it may take to end after its signal.
const STOP: Duration = Duration::from_secs(5);

/// The processes of a service.
#[derive(Debug, Default)]
pub struct Running(Vec<(Child, Signal)>);

impl Running {
    /// Starts another process, in a process group of its own. `stop` makes it end at once and release
    /// what outlives a kill.
    pub fn add(&mut self, mut command: Command, name: &str, stop: Signal) -> Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.process_group(0).spawn().with_context(|| format!("start {name}"))?;
        self.0.push((child, stop));
        Ok(())
    }

    /// Waits until `answers` succeeds; fails if a process has ended.
    pub fn wait<T>(&mut self, name: &str, mut answers: impl FnMut() -> Result<T>) -> Result<T> {
        let end = Instant::now() + START;
        loop {
            match answers() {
                Ok(answer) => return Ok(answer),
                Err(e) if Instant::now() > end => {
                    return Err(e.context(format!("{name} does not answer after {START:?}")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
            for (child, _) in &mut self.0 {
                if let Some(status) = child.try_wait()? {
                    return Err(anyhow!("{name} has ended: {status}"));
                }
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for (child, signal) in self.0.iter_mut().rev() {
            let pid = Pid::from_child(child);
            let _ = rustix::process::kill_process(pid, *signal);
            let end = Instant::now() + STOP;
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            let _ = child.wait();
        }
    }
}

/// Runs a command to its end.
pub fn succeed(command: &mut Command) -> Result<String> {
    let name = command.get_args().next().map_or_else(String::new, |a| a.display().to_string());
    let name = format!("{} {name}", command.get_program().display());
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("start {name}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{name}: {}: {}", out.status, said.trim());
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
