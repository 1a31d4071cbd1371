//! The queries, and what counts as a response.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::support::open_loop::{self, Request, Traffic};

/// Queries per second to each target.
pub const RATE: u32 = 10;
/// Timeout of a query, longer than the usual timeout of a health check.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Size of the file that nginx serves.
pub const PAGE_BYTES: usize = 4096;

/// A program that is queried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// memsensor's `/readyz`.
    Readyz,
    /// memsensor's agent-check, as HAProxy queries it.
    AgentCheck,
    /// node_exporter, as Prometheus scrapes it.
    NodeExporter,
    /// A static file of nginx.
    Nginx,
    /// The banner of sshd.
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

    /// Its port.
    pub const fn port(self) -> u16 {
        match self {
            Self::Readyz => 19_817,
            Self::AgentCheck => 19_818,
            Self::NodeExporter => 19_100,
            Self::Nginx => 19_080,
            Self::Sshd => 19_022,
        }
    }

    fn request(self, scope: &str) -> String {
        match self {
            Self::Readyz => format!("GET /readyz/{scope} HTTP/1.0\r\n\r\n"),
            Self::AgentCheck => format!("{scope}\n"),
            Self::NodeExporter => "GET /metrics HTTP/1.0\r\n\r\n".to_owned(),
            Self::Nginx => "GET /page HTTP/1.0\r\n\r\n".to_owned(),
            Self::Sshd => String::new(),
        }
    }

    /// The part of a response that is recorded, or why it is not valid.
    fn parse_response(self, text: &str) -> Result<String, &'static str> {
        let page = |wanted: &[&str]| {
            let (head, body) = text.split_once("\r\n\r\n").ok_or("incomplete response")?;
            let status = head.split(' ').nth(1).unwrap_or_default();
            if wanted.contains(&status) { Ok(body) } else { Err("unexpected status") }
        };
        match self {
            Self::Readyz => {
                let body = page(&["200", "503"])?;
                let state =
                    body.split("\"state\":\"").nth(1).and_then(|rest| rest.split('"').next());
                state.map(str::to_owned).ok_or("no state")
            }
            Self::AgentCheck => {
                let line = text.strip_suffix('\n').ok_or("incomplete line")?;
                Ok(line.to_owned())
                    .and_then(|l| if l.is_empty() { Err("empty line") } else { Ok(l) })
            }
            Self::NodeExporter => {
                let has = page(&["200"])?.contains("node_memory_MemAvailable_bytes");
                if has { Ok(String::new()) } else { Err("no memory metrics") }
            }
            Self::Nginx => {
                let whole = page(&["200"])?.len() == PAGE_BYTES;
                if whole { Ok(String::new()) } else { Err("incomplete page") }
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

    /// Its address on this machine.
    pub fn address(self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// Sends one query on its own connection, with a deadline; memsensor is queried for the scope.
    pub fn query(self, scope: &str, end: Instant) -> Result<String, &'static str> {
        // sshd waits for the client's banner.
        let whole = |response: &[u8]| self == Self::Sshd && response.contains(&b'\n');
        let request = self.request(scope);
        let response = open_loop::exchange(self.address(), request.as_bytes(), end, whole)?;
        self.parse_response(&String::from_utf8_lossy(&response))
    }
}

/// The queries of one target.
#[derive(Debug)]
pub struct TargetResults {
    /// The target.
    pub target: Target,
    /// Every query.
    pub requests: Vec<Request<String>>,
}

/// The queries of all targets, in progress.
#[derive(Debug)]
pub struct Polling(Vec<(Target, Traffic<String>)>);

impl Polling {
    /// Starts at `start`.
    pub fn begin(scope: &'static str, start: Instant) -> Result<Self> {
        let begin = |target: Target| {
            let query = move |end| target.query(scope, end);
            Ok((target, Traffic::start(RATE, PATIENCE, start, query)?))
        };
        Ok(Self(Target::ALL.into_iter().map(begin).collect::<Result<_>>()?))
    }

    /// Stops and waits for the last responses.
    pub fn finish(self) -> Vec<TargetResults> {
        let results = |(target, polling): (Target, Traffic<_>)| TargetResults {
            target,
            requests: polling.finish(),
        };
        self.0.into_iter().map(results).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_response_of_the_target_is_valid() {
        let page = "a".repeat(PAGE_BYTES);
        for (target, text, meant) in [
            (Target::Readyz, "HTTP/1.0 503 x\r\n\r\n{\"state\":\"overloaded\",", Ok("overloaded")),
            (
                Target::Readyz,
                "HTTP/1.0 500 x\r\n\r\n{\"state\":\"overloaded\",",
                Err("unexpected status"),
            ),
            (Target::Readyz, "HTTP/1.0 200 OK", Err("incomplete response")),
            (Target::AgentCheck, "up 35%\n", Ok("up 35%")),
            (Target::AgentCheck, "up 3", Err("incomplete line")),
            (Target::AgentCheck, "\n", Err("empty line")),
            (Target::NodeExporter, "HTTP/1.0 200 OK\r\n\r\nnode_memory_", Err("no memory metrics")),
            (Target::Nginx, &format!("HTTP/1.1 200 OK\r\n\r\n{page}"), Ok("")),
            (Target::Nginx, "HTTP/1.1 200 OK\r\n\r\naaa", Err("incomplete page")),
            (Target::Sshd, "SSH-2.0-OpenSSH\r\n", Ok("")),
            (Target::Sshd, "", Err("no banner")),
        ] {
            assert_eq!(target.parse_response(text), meant.map(str::to_owned), "{target:?} {text}");
        }
    }
}
