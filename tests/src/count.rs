//! Independent counts of what memsensor counts: vmstat, and bpftrace on the same tracepoints.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

/// /proc/vmstat, by name.
pub fn vmstat() -> Result<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string("/proc/vmstat").context("read /proc/vmstat")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect())
}

/// tracefs, which bpftrace reads; mounted if it is not, and then unmounted again.
#[derive(Debug)]
struct Tracefs {
    ours: bool,
}

const TRACEFS: &str = "/sys/kernel/tracing";

impl Tracefs {
    fn mount() -> Result<Self> {
        if std::path::Path::new(TRACEFS).join("events").exists() {
            return Ok(Self { ours: false });
        }
        let mounted = Command::new("mount").args(["-t", "tracefs", "nodev", TRACEFS]).status();
        ensure!(mounted.context("start mount")?.success(), "mount tracefs at {TRACEFS}: see above");
        Ok(Self { ours: true })
    }
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        if self.ours {
            let _ = Command::new("umount").args(["--lazy", TRACEFS]).status();
        }
    }
}

/// bpftrace, counting until it is asked.
#[derive(Debug)]
pub struct Bpftrace {
    /// Unmounted after bpftrace has ended.
    _tracefs: Tracefs,
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Bpftrace {
    /// Starts a script whose maps are `@name = count()` and the like, and waits until it counts.
    pub fn start(script: &str) -> Result<Self> {
        let tracefs = Tracefs::mount()?;
        let script = format!("BEGIN {{ printf(\"counting\\n\"); }} {script}");
        let mut child = Command::new("bpftrace")
            .args(["-B", "line", "-e", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start bpftrace (apt-get install bpftrace)")?;
        let mut out = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut line = String::new();
        while !line.contains("counting") {
            line.clear();
            if out.read_line(&mut line)? == 0 {
                let mut said = String::new();
                child.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
                let _ = child.wait();
                bail!("bpftrace: {}", said.trim());
            }
        }
        Ok(Self { _tracefs: tracefs, child, out })
    }

    /// Stops it: its counts by map name.
    pub fn stop(mut self) -> Result<BTreeMap<String, i64>> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let mut said = String::new();
        self.out.read_to_string(&mut said)?;
        self.child.wait()?;
        Ok(said
            .lines()
            .filter_map(|line| line.strip_prefix('@')?.split_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
            .collect())
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
