//! A running balancer: [`super::haproxy`] or [`super::envoy`].

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    envoy, haproxy,
    policy::{Policy, Proxy},
    server::Server,
};

/// A running balancer.
#[derive(Debug)]
pub struct Balancer {
    child: Child,
    source: Source,
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
            Self::HaProxy(socket) => haproxy::servers(socket),
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
        let (source, program) = match policy.spec().proxy {
            Proxy::HaProxy => {
                let socket = dir.join("haproxy.sock");
                let program = haproxy::command(&text, dir, &socket)?;
                (Source::HaProxy(socket), program)
            }
            Proxy::Envoy => (Source::Envoy, envoy::command(&text, dir)?),
        };
        // The kernel kills it when this process ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(program)
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
