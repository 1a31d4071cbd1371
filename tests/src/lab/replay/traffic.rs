//! User requests at a fixed rate (see [`crate::support::open_loop`]).

use std::{net::SocketAddr, time::Instant};

use anyhow::Result;

use super::scale::PATIENCE;
use crate::support::open_loop;

/// A request with the host that served it (0 is web-01) or its error.
pub type Request = open_loop::Request<u8>;

/// Starts so many requests per second at `start`, from this thread's network namespace.
pub fn begin(address: SocketAddr, rate: u32, start: Instant) -> Result<open_loop::Traffic<u8>> {
    open_loop::Traffic::start(rate, PATIENCE, start, move |end| request(address, end))
}

/// One request, with a deadline.
fn request(address: SocketAddr, end: Instant) -> Result<u8, &'static str> {
    let request = b"GET / HTTP/1.1\r\nHost: sample-app\r\nConnection: close\r\n\r\n";
    parse_response(&open_loop::exchange(address, request, end, |_| false)?)
}

fn parse_response(response: &[u8]) -> Result<u8, &'static str> {
    let text = String::from_utf8_lossy(response);
    let (head, body) = text.split_once("\r\n\r\n").ok_or("incomplete response")?;
    let mut lines = head.lines();
    match lines.next().and_then(|l| l.split(' ').nth(1)) {
        Some("200") => {}
        Some("502") => return Err("502 from the proxy"),
        Some("503") => return Err("503 from the proxy"),
        Some("504") => return Err("504 from the proxy"),
        _ => return Err("unexpected status"),
    }
    let field = |name: &str| {
        head.lines().find_map(|l| {
            let (field, value) = l.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let length = field("content-length").and_then(|n| n.parse().ok());
    if length != Some(body.len()) {
        return Err("incomplete response");
    }
    let number = field("x-host").and_then(|name| name.strip_prefix("web-0")?.parse::<u8>().ok());
    number.and_then(|n| n.checked_sub(1)).ok_or("unknown host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_page_of_a_known_host_is_valid() {
        let page = |status, length, host| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nx-host: {host}\r\n\r\ngoods")
        };
        for (response, expected) in [
            (page("200 OK", 5, "web-01"), Ok(0)),
            (page("200 OK", 5, "web-02"), Ok(1)),
            (page("200 OK", 6, "web-02"), Err("incomplete response")),
            (page("200 OK", 5, "else"), Err("unknown host")),
            (page("503 Service Unavailable", 5, "web-01"), Err("503 from the proxy")),
            (page("404 Not Found", 5, "web-01"), Err("unexpected status")),
            (String::new(), Err("incomplete response")),
        ] {
            assert_eq!(parse_response(response.as_bytes()), expected, "{response}");
        }
    }
}
