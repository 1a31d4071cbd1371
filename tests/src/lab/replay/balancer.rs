//! A running balancer: HAProxy, or Envoy (with [`super::envoy`]).

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    envoy,
    policy::{Policy, Proxy},
};

/// A running balancer.
#[derive(Debug)]
pub struct Balancer {
    child: Child,
    source: Source,
}

/// A server as the balancer reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Server {
    /// `UP`, `DRAIN`, `DOWN` and others; Envoy's health flags.
    pub status: String,
    /// Weight, of 100.
    pub weight: u32,
}

impl Server {
    /// Whether it gets new requests.
    pub fn serves(&self) -> bool {
        let serves = ["UP", "no check", "healthy", "/degraded_active_hc"];
        serves.iter().any(|status| self.status.starts_with(status)) && self.weight > 0
    }
}

/// Where the state of the servers is read.
#[derive(Debug, Clone)]
pub enum Source {
    /// HAProxy's stats socket.
    HaProxy(PathBuf),
    /// Envoy's admin interface.
    Envoy,
}

impl Source {
    /// Both servers as they are now.
    pub fn servers(&self) -> Result<[Server; 2]> {
        match self {
            Self::HaProxy(socket) => read_haproxy(socket),
            Self::Envoy => envoy::servers(),
        }
    }
}

impl Balancer {
    /// Starts it in this thread's network namespace, with its files in `dir`.
    pub fn start(policy: Policy, dir: &Path) -> Result<Self> {
        let log_file = dir.join("balancer.log");
        let log = fs::File::create(&log_file).context("create balancer.log")?;
        let text = policy.configuration()?;
        let (source, mut command) = match policy.spec().proxy {
            Proxy::HaProxy => haproxy(&text, dir)?,
            Proxy::Envoy => (Source::Envoy, envoy::command(&text, dir)?),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start setpriv (install util-linux)")?;
        let mut balancer = Self { child, source };
        let end = Instant::now() + Duration::from_secs(10);
        while !balancer.source.servers().is_ok_and(|s| s.iter().all(Server::serves)) {
            let ended = balancer.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(&log_file).unwrap_or_default();
                let name = policy.name();
                bail!("{name}: no usable server (cargo xtask setup --tests installs it): {log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(balancer)
    }

    /// Where the state of its servers is read.
    pub fn source(&self) -> Source {
        self.source.clone()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that the kernel kills when this process ends.
pub(super) fn with_this_process(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

fn haproxy(text: &str, dir: &Path) -> Result<(Source, Command)> {
    let socket = dir.join("haproxy.sock");
    let global = format!("global\n    stats socket {} level admin\n\n", socket.display());
    let file = dir.join("haproxy.cfg");
    fs::write(&file, global + text).with_context(|| format!("write {}", file.display()))?;
    let mut command = with_this_process("haproxy");
    command.args(["-db", "-f"]).arg(&file);
    Ok((Source::HaProxy(socket), command))
}

/// Reads both servers from HAProxy's stats socket.
fn read_haproxy(socket: &Path) -> Result<[Server; 2]> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("connect to haproxy at {}", socket.display()))?;
    stream.write_all(b"show stat\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse(&text)
}

fn parse(text: &str) -> Result<[Server; 2]> {
    let mut lines = text.trim_start_matches("# ").lines().map(|l| l.split(',').collect::<Vec<_>>());
    let names = lines.next().context("haproxy returned no header")?;
    let at = |name: &str| {
        let at = names.iter().position(|n| *n == name);
        at.with_context(|| format!("haproxy's statistics have no {name}"))
    };
    let (status, weight) = (at("status")?, at("weight")?);
    let mut found = [Server::default(), Server::default()];
    for (server, name) in found.iter_mut().zip(["web-01", "web-02"]) {
        let line = lines.by_ref().find(|l| l[0] == "web" && l.get(1) == Some(&name));
        let line = line.with_context(|| format!("haproxy has no server web/{name}"))?;
        let column = |at: usize| line.get(at).copied().unwrap_or_default();
        column(status).clone_into(&mut server.status);
        server.weight = column(weight).parse().unwrap_or(0);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_parsed_by_column_name() {
        let text = "# pxname,svname,status,weight,\nwww,FRONTEND,OPEN,,\n\
                    web,web-01,DRAIN (agent),0,\nweb,web-02,UP,100,\nweb,BACKEND,UP,100,\n";
        let [one, two] = parse(text).expect("both");
        assert_eq!((one.status.as_str(), one.weight, one.serves()), ("DRAIN (agent)", 0, false));
        assert_eq!((two.status.as_str(), two.weight, two.serves()), ("UP", 100, true));
        assert!(parse("# pxname,svname,status,weight,\n").is_err());
    }
}
