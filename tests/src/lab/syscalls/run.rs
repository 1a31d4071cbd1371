//! A daemon in a cgroup that thrashes, whose scopes come and go, with a kill every few seconds and
//! clients of all kinds; its system calls are traced.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    allowed::{self, Verdict},
    trace::{Trace, libc_data},
};
use crate::support::{
    daemon::Daemon,
    scope::{MIB, Scope, program},
};

/// The cgroup's limit, and the size of the file that is read in it.
const LIMIT: u64 = 64 * MIB;
const FILE_MIB: u64 = 96;
/// Time between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(100);
/// Rounds between the removal and the creation of a scope's cgroup, and the time for samples of it.
const ROUNDS: u32 = 10;

/// Traces a daemon for this time.
pub fn run(time: Duration) -> Result<Verdict> {
    let scope = Scope::new("syscalls", LIMIT)?;
    let config = format!(
        "[[scope]]\nname = \"thrashes\"\ncgroup = \"{path}\"\n\
         [[scope]]\nname = \"comes\"\ncgroup = \"{path}/comes\"\n",
        path = scope.path()
    );
    let daemon = Daemon::judging(&config)?;
    for group in scope.groups() {
        fs::write(group.join("cgroup.procs"), daemon.pid().to_string())
            .with_context(|| format!("enter {}", group.display()))?;
    }
    let malloc_lock = libc_data(daemon.pid())?;
    let load = Load::start(&scope)?;
    let trace = Trace::start(daemon.pid())?;
    let end = Instant::now() + time;
    let mut comes = None;
    let mut round = 0;
    while Instant::now() < end || round <= 2 * ROUNDS {
        ask(&daemon)?;
        round += 1;
        if round % ROUNDS == 0 {
            comes = match comes.take() {
                Some(scope) => {
                    drop::<Scope>(scope);
                    None
                }
                None => Some(kill_in(scope.child("comes")?)?),
            };
        }
        std::thread::sleep(PAUSE);
    }
    let calls = trace.finish()?;
    drop((load, comes));
    Ok(allowed::check(&calls, &malloc_lock))
}

/// A question of each kind.
fn ask(daemon: &Daemon) -> Result<()> {
    for path in [
        "/readyz",
        "/readyz/thrashes",
        "/readyz/comes",
        "/livez",
        "/metrics",
        "/api/v1/events",
        "/",
    ] {
        let response = daemon.get(path, "")?;
        ensure!(matches!(response.status, 200 | 503), "{path}: {}", response.status);
    }
    for question in ["thrashes\n", "comes\n", ""] {
        daemon.agent_check(question)?;
    }
    for words in [
        &["events"][..],
        &["explain"],
        &["top", "--once"],
        &["drain", "--reason", "test"],
        &["undrain"],
    ] {
        let (output, code) = daemon.ask(words)?;
        ensure!(code == Some(0), "{words:?}: {output}");
    }
    Ok(())
}

/// Kills a process in a new cgroup.
fn kill_in(scope: Scope) -> Result<Scope> {
    let more = (2 * LIMIT / MIB).to_string();
    let mut hog = scope.command(program("hog")?);
    hog.args(["--adj", "1000", "anon", &more]).stdout(Stdio::null()).stderr(Stdio::null());
    let status = hog.status().context("start hog")?;
    ensure!(!status.success(), "it was not killed: {status}");
    Ok(scope)
}

/// A process that reads a file larger than the cgroup's limit.
struct Load(Child, std::path::PathBuf);

impl Load {
    fn start(scope: &Scope) -> Result<Self> {
        // Not /tmp, which may be a tmpfs.
        let file = format!("/var/tmp/memsensor-syscalls-{}", std::process::id());
        let mut command: Command = scope.command(program("hog")?);
        command.args(["file", &file, &FILE_MIB.to_string(), "1000000"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Ok(Self(child.context("start hog")?, file.into()))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_file(&self.1);
    }
}
