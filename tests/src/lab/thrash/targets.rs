//! The questions, and what counts as an answer to them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::support::open_loop::{self, Request, Traffic};

/// How often each is asked, per second.
pub const RATE: u32 = 10;
/// Target has no answer by then memory_use it for dead: the usual timeout of a health check, and more.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Target is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// memsensor over HTTP.
    Readyz,
    /// memsensor as HAProxy asks it.
    AgentCheck,
    /// node_exporter, as Prometheus asks it.
    NodeExporter,
    /// A file that nginx serves.
    Nginx,
    /// What sshd says first.
    Sshd,
}

impl Target {
    /// All.
    pub const ALL: [Self; 5] =
        [Self::Readyz, Self::AgentCheck, Self::NodeExporter, Self::Nginx, Self::Sshd];

    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Readyz => "memsensor `/readyz`",
            Self::AgentCheck => "memsensor agent-check",
            Self::NodeExporter => "node_exporter `/metrics`",
            Self::Nginx => "nginx, a static file",
            Self::Sshd => "sshd, its banner",
        }
    }

    /// Where it listens on its host.
    pub const fn port(self) -> u16 {
        match self {
            Self::Readyz => 19_817,
            Self::AgentCheck => 19_818,
            Self::NodeExporter => 19_100,
            Self::Nginx => 19_080,
            Self::Sshd => 19_022,
        }
    }

    fn question(self, scope: &str) -> String {
        match self {
            Self::Readyz => format!("GET /readyz/{scope} HTTP/1.0\r\n\r\n"),
            Self::AgentCheck => format!("{scope}\n"),
            Self::NodeExporter => "GET /metrics HTTP/1.0\r\n\r\n".to_owned(),
            Self::Nginx => "GET /page HTTP/1.0\r\n\r\n".to_owned(),
            Self::Sshd => String::new(),
        }
    }

    /// What of an answer is of interest, if it is one.
    fn understand(self, text: &str) -> Result<String, &'static str> {
        let page = |wanted: &[&str]| {
            let (head, body) = text.split_once("\r\n\r\n").ok_or("no whole answer")?;
            let status = head.split(' ').nth(1).unwrap_or_default();
            if wanted.contains(&status) { Ok(body) } else { Err("another status") }
        };
        match self {
            Self::Readyz => {
                let body = page(&["200", "503"])?;
                let state =
                    body.split("\"state\":\"").nth(1).and_then(|rest| rest.split('"').next());
                state.map(str::to_owned).ok_or("no state")
            }
            Self::AgentCheck => {
                let line = text.strip_suffix('\n').ok_or("no whole line")?;
                Ok(line.to_owned())
                    .and_then(|l| if l.is_empty() { Err("nothing said") } else { Ok(l) })
            }
            Self::NodeExporter => {
                let has = page(&["200"])?.contains("node_memory_MemAvailable_bytes");
                if has { Ok(String::new()) } else { Err("no memory metrics") }
            }
            Self::Nginx => {
                let whole = page(&["200"])?.len() == super::programs::PAGE_BYTES;
                if whole { Ok(String::new()) } else { Err("no whole page") }
            }
            Self::Sshd => {
                if text.starts_with("SSH-2.0") {
                    Ok(String::new())
                } else {
                    Err("no banner")
                }
            }
        }
    }

    /// Where it is asked, at this machine.
    pub fn address(self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// One question, on a connection of its own, until `end`; to memsensor about the scope.
    pub fn ask(self, scope: &str, end: Instant) -> Result<String, &'static str> {
        // sshd waits for what we say.
        let whole = |answer: &[u8]| self == Self::Sshd && answer.contains(&b'\n');
        let question = self.question(scope);
        let answer = open_loop::exchange(self.address(), question.as_bytes(), end, whole)?;
        self.understand(&String::from_utf8_lossy(&answer))
    }
}

/// What one of them was asked, and said.
#[derive(Debug)]
pub struct TargetResults {
    /// Target.
    pub target: Target,
    /// Each question.
    pub requests: Vec<Request<String>>,
}

/// All of them being asked.
#[derive(Debug)]
pub struct Polling(Vec<(Target, Traffic<String>)>);

impl Polling {
    /// Begins at `start`.
    pub fn begin(scope: &'static str, start: Instant) -> Result<Self> {
        let begin = |target: Target| {
            let ask = move |end| target.ask(scope, end);
            Ok((target, Traffic::start(RATE, PATIENCE, start, ask)?))
        };
        Ok(Self(Target::ALL.into_iter().map(begin).collect::<Result<_>>()?))
    }

    /// Ends when all have their answers.
    pub fn finish(self) -> Vec<TargetResults> {
        let asked = |(target, polling): (Target, Traffic<_>)| TargetResults { target, requests: polling.finish() };
        self.0.into_iter().map(asked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_an_answer() {
        let page = "a".repeat(super::super::programs::PAGE_BYTES);
        for (target, text, meant) in [
            (Target::Readyz, "HTTP/1.0 503 x\r\n\r\n{\"state\":\"draining\",", Ok("draining")),
            (Target::Readyz, "HTTP/1.0 500 x\r\n\r\n{\"state\":\"draining\",", Err("another status")),
            (Target::Readyz, "HTTP/1.0 200 OK", Err("no whole answer")),
            (Target::AgentCheck, "up 35%\n", Ok("up 35%")),
            (Target::AgentCheck, "up 3", Err("no whole line")),
            (Target::AgentCheck, "\n", Err("nothing said")),
            (Target::NodeExporter, "HTTP/1.0 200 OK\r\n\r\nnode_memory_", Err("no memory metrics")),
            (Target::Nginx, &format!("HTTP/1.1 200 OK\r\n\r\n{page}"), Ok("")),
            (Target::Nginx, "HTTP/1.1 200 OK\r\n\r\naaa", Err("no whole page")),
            (Target::Sshd, "SSH-2.0-OpenSSH\r\n", Ok("")),
            (Target::Sshd, "", Err("no banner")),
        ] {
            assert_eq!(target.understand(text), meant.map(str::to_owned), "{target:?} {text}");
        }
    }
}
