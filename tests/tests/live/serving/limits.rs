//! Slow and silent clients do not affect other clients.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use sensor_tests::support::{
    daemon::{Daemon, get},
    scope::program,
};

use super::agent_check;
use crate::{Running, config, wait_until};

#[test]
fn slow_and_silent_clients_do_not_block_others() {
    let daemon =
        Daemon::start("[http]\nmax_connections = 4\nhead_timeout = \"1s\"").expect("daemon");
    let addr = daemon.listening[0];
    // The maximum of connections, none of which sends a complete head.
    let mut slow: Vec<_> = (0..4).map(|_| TcpStream::connect(addr).expect("connect")).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").expect("write");
    }
    let response = daemon.get("/readyz", "").expect("a response after the slow ones are dropped");
    assert_eq!(response.status, 200);
    // The agent-check has its own connections and does not wait for a request.
    let silent: Vec<_> =
        (0..32).map(|_| TcpStream::connect(daemon.listening[1]).expect("connect")).collect();
    assert_eq!(agent_check(&daemon), "up 100%\n");
    drop((slow, silent));
    let head = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let mut large = TcpStream::connect(addr).expect("connect");
    // It may close the connection before all is written.
    let _ = large.write_all(head.as_bytes());
    assert_eq!(daemon.get("/livez", "").expect("still alive").status, 200);
}

/// A connection ends at its deadline, also one whose head could take a minute.
#[test]
fn a_connection_ends_at_its_deadline() {
    let limits = "[http]\nmax_connections = 1\nhead_timeout = \"1m\"\ndeadline = \"1s\"";
    let daemon = Daemon::start(limits).expect("daemon");
    let mut half = TcpStream::connect(daemon.listening[0]).expect("connect");
    half.write_all(b"GET /metrics HTTP/1.1\r\nHost:").expect("write");
    let response = daemon.get("/readyz", "").expect("a response after the other is dropped");
    assert_eq!(response.status, 200);
    assert_eq!(half.read(&mut [0; 1]).ok(), Some(0), "it was dropped");
}

#[test]
fn an_idle_listener_holds_no_connection() {
    // Two listeners share one connection.
    let (a, b) = {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let (a, b) = (free(), free());
        (a.local_addr().expect("addr"), b.local_addr().expect("addr"))
    };
    let socket = std::env::temp_dir().join(format!("memsensor-test-{}-two", std::process::id()));
    let file = config(
        "two.toml",
        &format!("socket = \"{}\"\n[http]\nmax_connections = 1", socket.display()),
    );
    let two = Command::new(program("memsensor").expect("memsensor"))
        .args(["run", "--config", file.to_str().expect("UTF-8")])
        .args(["--listen", &a.to_string(), "--listen", &b.to_string()])
        .args(["--agent-listen", "127.0.0.1:0"])
        .env("RUST_LOG", "off")
        .spawn();
    let two = Running(two.expect("run"));
    wait_until("ready", || get(a, "/readyz", "").is_ok_and(|response| response.status == 200));
    for _ in 0..3 {
        assert_eq!(get(a, "/readyz", "").expect("first").status, 200);
    }
    assert_eq!(get(b, "/readyz", "").expect("second").status, 200);
    assert!(two.stop().success());
    // With the state saved for the next start.
    for path in [file, socket.with_extension("verdict.json")] {
        std::fs::remove_file(path).expect("remove");
    }
}
