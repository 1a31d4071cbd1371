//! Where a scenario runs: cgroups, files and swap, and the processes of its loads. Removes all that it
//! makes, also if this process is killed.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal};

use super::{
    catalogue::{self, Judged, Layout, Scenario},
    services::{PORT, Place, Service},
};
use crate::support::{
    load_words,
    scope::{MIB, Scope},
    swap::{Swap, cold},
    undo::Undo,
};

/// Reads per second of slow swap.
const SLOW_SWAP: u32 = 300;
/// Reads per second of the disk during the setup.
const UNTHROTTLED: u32 = u32::MAX;
/// The smallest limit during the setup, in MiB.
const ROOMY: u64 = 1024;
/// MiB of the file of the service outside the cgroup.
const CONTROL_FILES: u64 = 8;

/// A process, killed with its children when dropped.
pub(super) struct Running {
    /// Until it is killed. Not waited for before: its number is also that of its group.
    child: Option<Child>,
    /// Its output, if it is piped.
    pub(super) out: Option<BufReader<ChildStdout>>,
    name: String,
}

impl Running {
    fn start(mut command: Command, name: String, out: Stdio) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(out).process_group(0);
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let out = child.stdout.take().map(BufReader::new);
        Ok(Self { child: Some(child), out, name })
    }

    /// Waits until it reports that it is set up.
    pub(super) fn ready(&mut self) -> Result<()> {
        let mut line = String::new();
        self.out.as_mut().context("its output is not piped")?.read_line(&mut line)?;
        ensure!(line == "ready\n", "{} ended before it was ready", self.name);
        Ok(())
    }

    /// Kills it and its children.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Cgroups, files and swap, removed in this order.
pub(super) struct Testbed {
    /// The cgroups of the service and of the load, where they have separate ones.
    own: Option<[Scope; 2]>,
    scope: Scope,
    scenario: Scenario,
    disk: Swap,
    tmpfs: PathBuf,
    _undo: Undo,
}

impl Testbed {
    pub(super) fn new(scenario: &Scenario) -> Result<Self> {
        // Always made, if only 16 MiB: it also owns the directory on disk.
        let mut disk = match scenario.swap {
            catalogue::Swap::Zram(mib) => Swap::zram(mib)?,
            swap => Swap::new(swap.mib().max(16))?,
        };
        let mut undo = Undo::new()?;
        let tmpfs = PathBuf::from(format!("/dev/shm/memsensor-{}", std::process::id()));
        undo.later(r#"rm -rf "$1""#, &[&tmpfs])?;
        fs::create_dir(&tmpfs).with_context(|| format!("mkdir {}", tmpfs.display()))?;
        fs::create_dir(disk.dir().join("service.d"))?;
        let mut files = scenario.files.to_vec();
        files.push(("control", CONTROL_FILES));
        if scenario.service == Service::Probe {
            files.push(("service", scenario.data));
        }
        for (name, mib) in files {
            cold(&disk.dir().join(name), mib)?;
        }
        let name = format!("scenario-{}", scenario.name);
        let roomy = ROOMY.max(scenario.limit * 2 + scenario.data * 2) * MIB;
        let mut scope = match scenario.swap {
            catalogue::Swap::None => Scope::new(&name, roomy)?,
            _ => Scope::with_swap(&name, roomy)?,
        };
        for group in scope.groups() {
            undo.remove_group(group)?;
        }
        if let catalogue::Swap::Slow(_) = scenario.swap {
            disk.slow(&mut scope, SLOW_SWAP)?;
        }
        if scenario.disk.is_some() {
            // On v1 only processes that enter the cgroup later are throttled.
            disk.slow_disk(&mut scope, UNTHROTTLED)?;
        }
        let own = match scenario.layout {
            Layout::One => None,
            _ => Some([scope.child("service")?, scope.child("neighbour")?]),
        };
        for group in own.iter().flatten().flat_map(Scope::groups) {
            undo.remove_group(group)?;
        }
        Ok(Self { own, scope, scenario: *scenario, disk, tmpfs, _undo: undo })
    }

    /// Sets the limit and the speed of the disk, from outside: reclaim must not stall the processes
    /// inside.
    pub(super) fn set_limits(&mut self) -> Result<()> {
        let Scenario { limit, swap, layout, disk, .. } = self.scenario;
        let limited = match layout {
            Layout::NeighbourLimited(limit) => Some((self.load_scope(), limit)),
            Layout::Unlimited => None,
            _ => Some((&self.scope, limit)),
        };
        if let Some((scope, limit)) = limited {
            scope.set_limit(limit * MIB)?;
            // The machine may have other swap.
            scope.set_swap_limit(limit * MIB, swap.mib() * MIB)?;
        }
        if let Some(reads) = disk {
            self.disk.slow_disk(&mut self.scope, reads)?;
        }
        Ok(())
    }

    fn service_scope(&self) -> &Scope {
        self.own.as_ref().map_or(&self.scope, |[service, _]| service)
    }

    fn load_scope(&self) -> &Scope {
        self.own.as_ref().map_or(&self.scope, |[_, load]| load)
    }

    /// The cgroup whose readings are taken.
    pub(super) fn watched(&self) -> &Scope {
        let above = self.scenario.layout == Layout::NeighbourWatchAbove;
        if above { &self.scope } else { self.service_scope() }
    }

    /// The PSI file of what is judged.
    pub(super) fn pressure(&self) -> PathBuf {
        match self.scenario.judged() {
            Judged::Host => PathBuf::from("/proc/pressure/memory"),
            Judged::Scope => self.watched().unified().join("memory.pressure"),
        }
    }

    /// Where a real service runs.
    pub(super) fn place(&self) -> Place<'_> {
        Place {
            scope: self.service_scope(),
            dir: self.service_dir(),
            data: self.scenario.data,
            limit: self.scenario.limit,
        }
    }

    fn service_dir(&self) -> PathBuf {
        self.disk.dir().join("service.d")
    }

    /// Starts the probe in the cgroup of the service, or outside of it as a control.
    pub(super) fn probe(&self, as_control: bool) -> Result<Running> {
        let exe = std::env::current_exe().context("find our own path")?;
        let (mut command, file) = if as_control {
            (Command::new(exe), "control")
        } else {
            (self.service_scope().command(exe), "service")
        };
        command.arg("probe").arg(self.disk.dir().join(file));
        Running::start(command, format!("the {file}"), Stdio::piped())
    }

    /// Starts the loads that must be ready before the limit is set.
    pub(super) fn start_before(&self) -> Result<Vec<Running>> {
        self.start(self.scenario.before, &self.scope, Stdio::piped)
    }

    /// Starts the loads of the load phase.
    pub(super) fn start_load(&self) -> Result<Vec<Running>> {
        self.start(self.scenario.load, self.load_scope(), Stdio::null)
    }

    fn start(&self, loads: &[&[&str]], scope: &Scope, out: fn() -> Stdio) -> Result<Vec<Running>> {
        let start = |words: &&[&str]| {
            let command = match **words {
                ["sh", script] => self.script(script, scope)?,
                _ => self.program(words, scope)?,
            };
            Running::start(command, format!("the load {words:?}"), out())
        };
        loads.iter().map(start).collect()
    }

    fn program(&self, words: &[&str], scope: &Scope) -> Result<Command> {
        let mut command = scope.command(std::env::current_exe()?);
        command.args(load_words::arguments(words, self.disk.dir(), &self.tmpfs));
        Ok(command)
    }

    fn script(&self, script: &str, scope: &Scope) -> Result<Command> {
        let limit = if self.scope.is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
        let mut command = scope.command("sh");
        // The first choice of the OOM killer, as other loads.
        command.args(["-c", &format!("echo 1000 >/proc/self/oom_score_adj; {script}")]);
        command.env("DIR", self.disk.dir()).env("SERVICE", self.service_dir());
        command.env("SELF", std::env::current_exe()?).env("PORT", PORT.to_string());
        command.env("LIMIT", self.scope.memory().join(limit));
        command.env("PGHOST", self.service_dir()).env("PGPORT", PORT.to_string());
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command.stderr(Stdio::null());
        Ok(command)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        // Its pages are charged to the cgroup, so it is removed first.
        let _ = fs::remove_dir_all(&self.tmpfs);
    }
}
