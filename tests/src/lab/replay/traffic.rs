//! UserStats of the sample_app, on time (see [`crate::support::open_loop`]).

use std::{net::SocketAddr, time::Instant};

use anyhow::Result;

use super::scale::{PATIENCE, RATE};
use crate::support::open_loop;

/// What became of a request: which host answered (0 is web-01), or what went wrong.
pub type Request = open_loop::Request<u8>;

/// Begins now, at `start`, from this thread's network.
pub fn begin(address: SocketAddr, start: Instant) -> Result<open_loop::Traffic<u8>> {
    open_loop::Traffic::start(RATE, PATIENCE, start, move |end| ask(address, end))
}

/// One request; who has no whole answer at `end` gives up.
fn ask(address: SocketAddr, end: Instant) -> Result<u8, &'static str> {
    let question = b"GET / HTTP/1.1\r\nHost: sample_app\r\nConnection: close\r\n\r\n";
    understand(&open_loop::exchange(address, question, end, |_| false)?)
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
