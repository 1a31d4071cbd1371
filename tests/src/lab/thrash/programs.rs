//! Starts the programs that are queried, all in one cgroup, and reads their memory usage.

use std::{
    fs::{self, File, Permissions},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use procfs::process::Process;

use super::targets::{PAGE_BYTES, Target};
use crate::support::{
    daemon::{self, listeners},
    scope::{Scope, program},
};

/// The cgroup's name in memsensor.
pub const SCOPE: &str = "web";

/// Ports of the memsensor that is started halfway.
const LATE_PORTS: [u16; 2] = [19_827, 19_828];

/// Timeout of the start.
const PATIENCE: Duration = Duration::from_secs(20);

/// The running programs, by name.
#[derive(Debug)]
pub struct Programs(Vec<(&'static str, Child)>);

/// Memory usage of a program, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Resident.
    pub resident: u64,
    /// The anonymous part of it.
    pub anonymous: u64,
    /// Swapped out.
    pub swapped: u64,
    /// Major page faults so far.
    pub major_faults: u64,
}

impl Programs {
    /// Starts all of them in the scope, with files in `dir`.
    pub fn start(scope: &Scope, dir: &Path) -> Result<Self> {
        let mut programs = Self(Vec::new());
        let addresses = [Target::Readyz.address(), Target::AgentCheck.address()];
        programs.spawn("memsensor", memsensor(scope, dir, "memsensor", addresses)?, dir)?;
        programs.spawn("node_exporter", node_exporter(scope), dir)?;
        programs.spawn("nginx", nginx(scope, dir)?, dir)?;
        programs.spawn("sshd", sshd(scope, dir)?, dir)?;
        // Not queried: only its memory is measured.
        programs.spawn("earlyoom", earlyoom(scope), dir)?;
        for target in Target::ALL {
            programs.wait_for(target, dir)?;
        }
        Ok(programs)
    }

    fn spawn(&mut self, name: &'static str, mut command: Command, dir: &Path) -> Result<()> {
        let log = File::create(dir.join(name).with_extension("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.0.push((name, command.spawn().with_context(|| format!("start {name}"))?));
        Ok(())
    }

    fn wait_for(&mut self, target: Target, dir: &Path) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while let Err(reason) = target.query(SCOPE, Instant::now() + Duration::from_secs(1)) {
            let ended: Vec<_> = self.ended().collect();
            ensure!(
                ended.is_empty() && Instant::now() < end,
                "{} does not respond: {reason}; ended: {ended:?}; see the logs:{}",
                target.name(),
                logs(dir)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Starts another memsensor; returns the time until it responds, if that is within `patience`.
    pub fn start_late(scope: &Scope, dir: &Path, patience: Duration) -> Result<Option<Duration>> {
        let mut late = Self(Vec::new());
        let begun = Instant::now();
        let [http, agent] = LATE_PORTS.map(|port| (Ipv4Addr::LOCALHOST, port).into());
        late.spawn("late", memsensor(scope, dir, "late", [http, agent])?, dir)?;
        while begun.elapsed() < patience {
            let ready = daemon::get(http, "/readyz", "");
            // Its state is `starting` until the first sample.
            if ready.is_ok_and(|response| !response.body.contains("\"starting\"")) {
                return Ok(Some(begun.elapsed()));
            }
            ensure!(late.ended().next().is_none(), "memsensor does not start: {}", logs(dir));
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }

    /// Programs that have ended.
    pub fn ended(&mut self) -> impl Iterator<Item = &'static str> {
        self.0
            .iter_mut()
            .filter_map(|(name, child)| matches!(child.try_wait(), Ok(Some(_))).then_some(*name))
    }

    /// Memory usage of each program with its children (nginx serves from a child).
    pub fn memory_use(&self) -> Vec<(String, MemoryUse)> {
        self.0.iter().map(|(name, child)| ((*name).to_owned(), memory_use(child.id()))).collect()
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The last lines of all logs.
fn logs(dir: &Path) -> String {
    let logs = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all = String::new();
    for path in logs.filter(|path| path.extension().is_some_and(|e| e == "log")) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(3)..].join(" | ");
        all = format!("{all}\n{}: {last}", path.display());
    }
    all
}

fn memory_use(pid: u32) -> MemoryUse {
    let Ok(pid) = i32::try_from(pid) else { return MemoryUse::default() };
    let of = |pid: i32| -> Option<MemoryUse> {
        let process = Process::new(pid).ok()?;
        let status = process.status().ok()?;
        let major_faults = process.stat().ok()?.majflt;
        Some(MemoryUse {
            resident: status.vmrss?,
            anonymous: status.rssanon?,
            swapped: status.vmswap?,
            major_faults,
        })
    };
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|word| word.parse().ok());
    std::iter::once(pid).chain(children).filter_map(of).fold(MemoryUse::default(), |a, b| {
        MemoryUse {
            resident: a.resident + b.resident,
            anonymous: a.anonymous + b.anonymous,
            swapped: a.swapped + b.swapped,
            major_faults: a.major_faults + b.major_faults,
        }
    })
}

/// memsensor with its defaults, and the cgroup as a scope.
fn memsensor(scope: &Scope, dir: &Path, name: &str, addrs: [SocketAddr; 2]) -> Result<Command> {
    let addrs = addrs.map(|addr| addr.to_string());
    let config = dir.join(name).with_extension("toml");
    let text = format!(
        "socket = \"{}\"\n[[scope]]\nname = \"{SCOPE}\"\ncgroup = \"{}\"\n{}",
        dir.join(name).with_extension("sock").display(),
        scope.path(),
        listeners(addrs.each_ref().map(|addr| &**addr))
    );
    write(&config, &text)?;
    let mut command = scope.command(program("memsensor")?);
    command.args(["run", "--config"]).arg(config);
    Ok(command)
}

fn node_exporter(scope: &Scope) -> Command {
    let mut command = scope.command("prometheus-node-exporter");
    command.arg(format!("--web.listen-address={}", Target::NodeExporter.address()));
    command
}

fn nginx(scope: &Scope, dir: &Path) -> Result<Command> {
    write(&dir.join("page"), &"m".repeat(PAGE_BYTES))?;
    let (listen, at) = (Target::Nginx.address(), dir.display());
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {at}/{name};"));
    let text = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {at}/nginx.pid;\n\
         error_log stderr warn;\nevents {{ worker_connections 256; }}\n\
         http {{ access_log off; {} server {{ listen {listen}; root {at}; }} }}\n",
        temp.concat()
    );
    let config = dir.join("nginx.conf");
    write(&config, &text)?;
    let mut command = scope.command("nginx");
    command.arg("-p").arg(dir).arg("-c").arg(config);
    Ok(command)
}

fn sshd(scope: &Scope, dir: &Path) -> Result<Command> {
    let key = dir.join("host_key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .stdout(Stdio::null())
        .status()
        .context("start ssh-keygen (cargo xtask setup --tests installs openssh)")?;
    ensure!(made.success(), "ssh-keygen: {made}");
    fs::set_permissions(&key, Permissions::from_mode(0o600))?;
    // The directory of its privilege separation.
    fs::create_dir_all("/run/sshd").context("mkdir /run/sshd")?;
    let config = dir.join("sshd_config");
    let text = format!(
        "ListenAddress {}\nHostKey {}\nPidFile none\nUsePAM no\nMaxStartups 1000\n\
         LoginGraceTime 5\n",
        Target::Sshd.address(),
        key.display()
    );
    write(&config, &text)?;
    let mut command = scope.command("/usr/sbin/sshd");
    command.args(["-D", "-e", "-f"]).arg(config);
    Ok(command)
}

/// earlyoom without kills.
fn earlyoom(scope: &Scope) -> Command {
    let mut command = scope.command("earlyoom");
    command.args(["--dryrun", "-r", "3600"]);
    command
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
