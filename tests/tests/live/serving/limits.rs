//! Slow and silent clients do not affect other clients.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use sensor_tests::support::{
    daemon::{Daemon, PATIENCE, get, parse},
    open_loop::{Traffic, exchange},
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
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(agent_check(&daemon), "up 100%\n");
    }
    let took = began.elapsed() / 10;
    assert!(took < Duration::from_millis(15), "{took:?} for an answer");
    let silent = |_| connect_from([127, 0, 0, 2], daemon.listening[1]).expect("connect");
    let silent: Vec<_> = (0..100).map(silent).collect();
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
    let began = Instant::now();
    assert_eq!(half.read(&mut [0; 1]).ok(), Some(0), "it was dropped");
    let took = began.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert_eq!(daemon.get("/readyz", "").expect("a response").status, 200);
    let series = parse(&daemon.get("/metrics", "").expect("metrics").body);
    let timed_out = r#"memsensor_connections_total{listener="http",outcome="timed_out"}"#;
    assert_eq!(series.get(timed_out), Some(&1.0));
}

/// A connection from another address of this machine.
fn connect_from(source: [u8; 4], to: SocketAddr) -> rustix::io::Result<TcpStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    net::bind(&socket, &SocketAddr::from((source, 0)))?;
    net::connect(&socket, &to)?;
    Ok(socket.into())
}

/// Holds `held` silent connections to an address, and opens a hundred more each second.
pub(super) fn flood(to: SocketAddr, held: usize, stop: &AtomicBool) {
    let mut silent = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        silent.extend(connect_from([127, 0, 0, 2], to));
        if silent.len() > held {
            silent.pop_front();
        }
        // The first ones at once.
        if silent.len() >= held {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_flood_from_one_address_does_not_delay_others() {
    const HELD: usize = 300;
    let daemon = Daemon::start("").expect("daemon");
    let [http, agent] = [daemon.listening[0], daemon.listening[1]];
    let ready = |response: &[u8]| response.starts_with(b"HTTP/1.1 200 ");
    let readyz = move |end| {
        let request = b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n";
        exchange(http, request, end, |_| false).and_then(|r| ready(&r).then_some(()).ok_or("no"))
    };
    let agent_check = move |end| {
        exchange(agent, b"", end, |_| false)
            .and_then(|line| (line == b"up 100%\n").then_some(()).ok_or("another line"))
    };
    let stop = &AtomicBool::new(false);
    let results = std::thread::scope(|scope| {
        for to in [http, agent] {
            scope.spawn(move || flood(to, HELD, stop));
        }
        std::thread::sleep(Duration::from_secs(1));
        let (start, timeout) = (Instant::now(), Duration::from_secs(1));
        let readyz = Traffic::start(20, timeout, start, readyz).expect("threads");
        let agent_check = Traffic::start(20, timeout, start, agent_check).expect("threads");
        std::thread::sleep(Duration::from_secs(10));
        let results = [("readyz", readyz.finish()), ("agent-check", agent_check.finish())];
        stop.store(true, Ordering::Relaxed);
        results
    });
    for (name, requests) in results {
        let failed: Vec<_> = requests.iter().filter(|r| r.outcome.is_err()).collect();
        assert!(requests.len() >= 190 && failed.is_empty(), "{name}: {failed:?}");
        let mut took: Vec<_> = requests.iter().map(|request| request.took).collect();
        took.sort();
        let p99 = took[took.len() * 99 / 100];
        println!("{name}: {} requests, p99 {p99:?}, longest {:?}", took.len(), took.last());
        // Without shares by address it was 2 s; a few milliseconds are usual.
        assert!(p99 <= Duration::from_millis(500), "{name}: {p99:?}");
    }
    let series = parse(&daemon.get("/metrics", "").expect("metrics").body);
    let ended = |listener: &str, outcome: &str| {
        let labels = format!("{{listener=\"{listener}\",outcome=\"{outcome}\"}}");
        series.get(&format!("memsensor_connections_total{labels}")).copied().unwrap_or_default()
    };
    for listener in ["http", "agent"] {
        assert!(ended(listener, "served") >= 190.0, "{listener}: {series:#?}");
        let closed = ended(listener, "evicted") + ended(listener, "refused");
        assert!(listener == "agent" || closed > 500.0, "{listener}: {closed} were closed");
    }
}

/// Twelve clients that follow events leave places for commands.
#[test]
fn following_clients_leave_places_for_commands() {
    let daemon = Daemon::start("").expect("daemon");
    let follow = |_| {
        let mut stream = UnixStream::connect(daemon.socket()).expect("connect");
        stream.write_all(b"{\"ask\":\"events\",\"follow\":true}\n").expect("write");
        stream
    };
    let mut followers: Vec<_> = (0..16).map(follow).collect();
    let mut line = String::new();
    let last = followers.last_mut().expect("sixteen");
    last.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    BufReader::new(last).read_line(&mut line).expect("a line");
    assert!(line.contains("12 clients follow events"), "{line:?}");
    let (output, code) = daemon.ask(&["drain", "--reason", "test"]).expect("drain");
    assert_eq!(code, Some(0), "{output}");
    followers.clear();
    line.clear();
    let again = follow(0);
    again.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    BufReader::new(again).read_line(&mut line).expect("a line");
    assert!(line.contains("\"command\":\"drain\""), "a place is free again: {line:?}");
}

/// HAProxy's `option httpchk` asks with OPTIONS; a path may end with a slash.
#[test]
fn health_checks_of_every_form_have_the_same_answer() {
    let daemon = Daemon::start("").expect("daemon");
    let status = |method: &str, path: &str| {
        let mut stream = TcpStream::connect(daemon.listening[0]).expect("connect");
        write!(stream, "{method} {path} HTTP/1.0\r\n\r\n").expect("write");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("a response");
        text.split(' ').nth(1).expect("a status").to_owned()
    };
    let paths = ["/readyz", "/readyz/", "/readyz/host", "/readyz/host/"];
    for expected in ["200", "503"] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            for path in paths {
                assert_eq!(status(method, path), expected, "{method} {path}");
            }
            assert_eq!(status(method, "/livez"), "200", "{method} /livez");
        }
        let (output, code) = daemon.ask(&["drain", "--reason", "test"]).expect("drain");
        assert_eq!(code, Some(0), "{output}");
    }
    assert_eq!(status("POST", "/readyz"), "405");
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
