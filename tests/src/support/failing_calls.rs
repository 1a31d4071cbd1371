//! System calls of a running process that fail, by strace(1): the call is not made, and returns an
//! error.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Calls that fail until this is dropped.
#[derive(Debug)]
pub struct FailingCalls {
    strace: Child,
    trace: PathBuf,
}

impl FailingCalls {
    /// Makes calls fail with the error of this name in all threads of the process. `calls` are names
    /// with commas between; with a `path`, only calls with that file fail. The error may have a
    /// further condition of strace, such as `EIO:when=1+2`.
    pub fn begin(pid: u32, calls: &str, error: &str, path: Option<&Path>) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("memsensor-strace-{}-{n}", std::process::id());
        let trace = std::env::temp_dir().join(name);
        let mut command = Command::new("strace");
        command.args(["--follow-forks", "--attach", &pid.to_string(), "--output"]).arg(&trace);
        command.args(["--trace", calls, "--inject", &format!("{calls}:error={error}")]);
        if let Some(path) = path {
            command.arg("--trace-path").arg(path);
        }
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut strace = command.spawn().context("start strace (install it)")?;
        let stderr = strace.stderr.take().context("no stderr")?;
        let failing = Self { strace, trace };
        // strace resolves the path before it attaches, and prints that too.
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let attached = lines.find(|line| line.contains(" attached"));
        ensure!(attached.is_some(), "strace did not attach to {pid}");
        // It prints further lines until its end.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(failing)
    }

    /// Calls that have failed so far, those that strace still buffers excluded.
    pub fn count(&self) -> usize {
        let trace = fs::read_to_string(&self.trace).unwrap_or_default();
        trace.lines().filter(|line| line.ends_with("(INJECTED)")).count()
    }

    /// Lets the calls succeed again; returns how many have failed.
    pub fn end(mut self) -> Result<usize> {
        self.detach()?;
        Ok(self.count())
    }

    fn detach(&mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.strace), Signal::TERM)?;
        self.strace.wait()?;
        Ok(())
    }
}

impl Drop for FailingCalls {
    fn drop(&mut self) {
        let _ = self.detach();
        let _ = fs::remove_file(&self.trace);
    }
}
