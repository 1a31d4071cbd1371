//! Users: so many requests a second, each on time whether or not the others have been answered, so
//! that a slow answer delays nobody and hides nothing (no coordinated omission).

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::scale::{PATIENCE, RATE};

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// When it was due, since the beginning.
    pub at: Duration,
    /// From when it was due until its answer, or until the user gave up.
    pub took: Duration,
    /// Which host answered (0 is web-01), or what went wrong.
    pub outcome: Result<u8, &'static str>,
}

/// Users who keep asking.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    users: Vec<JoinHandle<()>>,
    done: Arc<Mutex<Vec<Request>>>,
}

impl Traffic {
    /// Begins now, at `start`, from this thread's network.
    pub fn start(address: SocketAddr, start: Instant) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(Mutex::new(Vec::new()));
        let next = Arc::new(AtomicU64::new(0));
        // Each user who is free takes the next moment that a request is due. There are enough for all
        // that can be waiting at once, and so one is always free.
        let enough = RATE * u32::try_from(PATIENCE.as_secs() + 1)?;
        let user = |_| {
            let (stop, done, next) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&next));
            let builder = std::thread::Builder::new().stack_size(128 << 10);
            let ask_on_time = move || {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    let at =
                        Duration::from_secs(1) * u32::try_from(turn).unwrap_or(u32::MAX) / RATE;
                    while let Some(wait) = (start + at).checked_duration_since(Instant::now()) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        std::thread::park_timeout(wait);
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = ask(address, start + at + PATIENCE);
                    let request = Request { at, took: (start + at).elapsed(), outcome };
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                }
            };
            builder.spawn(ask_on_time).context("start a user's thread")
        };
        let users = (0..enough).map(user).collect::<Result<_>>()?;
        Ok(Self { stop, users, done })
    }

    /// Ends it when all have their answers; the requests in the order they were due.
    pub fn finish(self) -> Vec<Request> {
        self.stop.store(true, Ordering::Relaxed);
        for user in &self.users {
            user.thread().unpark();
        }
        for user in self.users {
            let _ = user.join();
        }
        let mut done =
            std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        done.sort_by_key(|r| r.at);
        done
    }
}

/// One request, with a connection of its own; who has no whole answer at `end` gives up.
fn ask(address: SocketAddr, end: Instant) -> Result<u8, &'static str> {
    let left = || {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err("no answer in time") } else { Ok(left) }
    };
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => "no answer in time",
        _ => "connection lost",
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?).map_err(failed)?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
        .map_err(failed)?;
    let mut answer = Vec::with_capacity(4096);
    let mut chunk = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left()?)).map_err(failed)?;
        match stream.read(&mut chunk).map_err(failed)? {
            0 => break,
            n => answer.extend_from_slice(&chunk[..n]),
        }
    }
    understand(&answer)
}

fn understand(answer: &[u8]) -> Result<u8, &'static str> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no whole answer")?;
    let mut lines = head.lines();
    match lines.next().and_then(|l| l.split(' ').nth(1)) {
        Some("200") => {}
        Some("502") => return Err("502 of a proxy"),
        Some("503") => return Err("503 of a proxy"),
        Some("504") => return Err("504 of a proxy"),
        _ => return Err("another status"),
    }
    let field = |name: &str| {
        head.lines().find_map(|l| {
            let (field, value) = l.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let length = field("content-length").and_then(|n| n.parse().ok());
    if length != Some(body.len()) {
        return Err("no whole answer");
    }
    let number = field("x-host").and_then(|name| name.strip_prefix("web-0")?.parse::<u8>().ok());
    number.and_then(|n| n.checked_sub(1)).ok_or("nobody's answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_page_of_a_known_host_is_an_answer() {
        let page = |status, length, host| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nx-host: {host}\r\n\r\ngoods")
        };
        for (answer, meant) in [
            (page("200 OK", 5, "web-01"), Ok(0)),
            (page("200 OK", 5, "web-02"), Ok(1)),
            (page("200 OK", 6, "web-02"), Err("no whole answer")),
            (page("200 OK", 5, "else"), Err("nobody's answer")),
            (page("503 Service Unavailable", 5, "web-01"), Err("503 of a proxy")),
            (page("404 Not Found", 5, "web-01"), Err("another status")),
            (String::new(), Err("no whole answer")),
        ] {
            assert_eq!(understand(answer.as_bytes()), meant, "{answer}");
        }
    }
}
