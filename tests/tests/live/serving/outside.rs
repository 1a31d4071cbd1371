//! The world around the daemon: what is in its place already, and readers that went away.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::UdpSocket,
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sensor_tests::support::{
    daemon::{Daemon, get},
    scope::program,
};

use crate::{Running, config, run_memsensor, wait_until};

/// Any free port.
const LOCAL: &str = "127.0.0.1:0";

/// How to run with a configuration, at these addresses.
fn run<'a>(config: &'a Path, listen: &'a str, agent_listen: &'a str) -> [&'a str; 7] {
    let config = config.to_str().expect("UTF-8");
    ["run", "--config", config, "--listen", listen, "--agent-listen", agent_listen]
}

#[test]
fn what_goes_wrong_is_one_line_with_a_remedy_and_a_code() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = taken.local_addr().expect("addr").to_string();
    let socket = config("socket", "");
    let free = config("free.toml", &format!("socket = \"{}\"", socket.display()));
    for (addrs, option) in [([&*addr, LOCAL], " --listen)"), ([LOCAL, &addr], " --agent-listen)")] {
        let (code, said) = run_memsensor(&run(&free, addrs[0], addrs[1]));
        assert_eq!(code, Some(4), "{said}");
        let named = said.contains(&addr) && said.contains(option);
        assert!(named && said.lines().count() == 1, "{said}");
    }
    let (code, said) = run_memsensor(&run(&free, &addr, &addr));
    assert!(code == Some(2) && said.contains("is in listen as well"), "{said}");

    let bad = config("bad.toml", "listen = [\"0.0.0.0:9817\"]\nintervall = \"1s\"\n");
    for args in [
        ["run", "--config", bad.to_str().expect("UTF-8")],
        ["config", "check", bad.to_str().expect("UTF-8")],
    ] {
        let (code, said) = run_memsensor(&args);
        assert_eq!(code, Some(2), "{said}");
        for part in [bad.to_str().expect("UTF-8"), "line 2", "intervall", "interval"] {
            assert!(said.contains(part), "{said:?} does not say {part:?}");
        }
        assert_eq!(said.lines().count(), 1, "{said:?}");
    }

    let daemon = Daemon::start("").expect("daemon");
    let same = config("same.toml", &format!("socket = \"{}\"", daemon.socket().display()));
    let (code, said) = run_memsensor(&run(&same, LOCAL, LOCAL));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("another memsensor answers there"), "{said}");

    let (code, said) = run_memsensor(&["events", "--socket", "/nonexistent/socket"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is memsensor running"), "{said}");
    for path in [free, bad, same, socket] {
        std::fs::remove_file(path).expect("remove");
    }
}

/// Names are looked up by a thread, which waits for as long as it likes.
#[test]
fn check_does_not_wait_for_a_name_server_that_is_silent() {
    let _silent = UdpSocket::bind("127.2.0.53:53").expect("bind");
    let servers = config("resolv.conf", "nameserver 127.2.0.53\n");
    let order = config("nsswitch.conf", "hosts: dns\n");
    let bind = "mount -o bind \"$1\" /etc/resolv.conf && mount -o bind \"$2\" /etc/nsswitch.conf";
    let began = Instant::now();
    let out = Command::new("unshare")
        .args(["-m", "sh", "-c", &format!("{bind} && shift 2 && exec \"$@\""), "sh"])
        .args([&servers, &order, &program("memsensor").expect("memsensor")])
        .args(["check", "--url", "http://web-01.example:9817", "--timeout", "500ms"])
        .output()
        .expect("run");
    let took = began.elapsed();
    let said = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(said.contains("no answer from web-01.example:9817 within 500ms"), "{said}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    for path in [servers, order] {
        std::fs::remove_file(path).expect("remove");
    }
}

#[test]
fn the_daemon_outlives_the_reader_of_its_log() {
    let addr = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        free.local_addr().expect("addr")
    };
    let socket = std::env::temp_dir().join(format!("memsensor-test-{}-log", std::process::id()));
    let file = config("log.toml", &format!("socket = \"{}\"", socket.display()));
    let daemon = Command::new(program("memsensor").expect("memsensor"))
        .args(run(&file, &addr.to_string(), LOCAL))
        .stderr(Stdio::piped())
        .spawn();
    let mut daemon = Running(daemon.expect("run"));
    drop(daemon.0.stderr.take());
    wait_until("ready", || get(addr, "/readyz", "").is_ok_and(|answer| answer.status == 200));
    let status = daemon.stop();
    assert!(status.success(), "{status}");
    // With what it keeps for the next start.
    for path in [file, socket.with_extension("verdict.json")] {
        std::fs::remove_file(path).expect("remove");
    }
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    let memsensor = program("memsensor").expect("memsensor");
    for command in ["probes", "config defaults"] {
        let mut child = Command::new(&memsensor)
            .args(command.split(' '))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run");
        drop(child.stdout.take());
        let out = child.wait_with_output().expect("wait");
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!((out.status.code(), said.as_ref()), (Some(0), ""), "{command}");
    }
}

/// A daemon that gives these answers, one to each that asks, and hangs up.
fn answering(socket: &Path, answers: &'static [&str]) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("bind");
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("accept");
            BufReader::new(&stream).read_line(&mut String::new()).expect("a question");
            stream.write_all(answer.as_bytes()).expect("write");
        }
    })
}

/// What was not answered is not done.
#[test]
fn no_answer_is_no_success() {
    const DONE: &str = "{\"done\":\"drained\"}\n";
    const NOT_NOW: &str = "{\"error\":\"not now\"}\n";
    let socket = config("fake", "");
    let asked = ["drain", "--reason", "r", "--socket", socket.to_str().expect("UTF-8"), "--wait"];
    for (answers, says) in [
        (&[""][..], "hung up without an answer"),
        (&[NOT_NOW], "says: not now"),
        (&[DONE, ""], "hung up without an answer"),
        (&[DONE, NOT_NOW], "says: not now"),
        (&[DONE, DONE], "did not answer"),
    ] {
        std::fs::remove_file(&socket).expect("remove");
        let daemon = answering(&socket, answers);
        let (code, said) = run_memsensor(&asked);
        assert!(code == Some(1) && said.contains(says), "{answers:?}: {code:?} {said}");
        daemon.join().expect("it was asked as often");
    }
    std::fs::remove_file(socket).expect("remove");
}

#[test]
fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let precious = config("precious", "do not delete");
    let file = config("precious.toml", &format!("socket = \"{}\"", precious.display()));
    let (code, said) = run_memsensor(&run(&file, LOCAL, LOCAL));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is no socket"), "{said}");
    assert_eq!(std::fs::read_to_string(&precious).expect("still there"), "do not delete");
    for path in [precious, file] {
        std::fs::remove_file(path).expect("remove");
    }
}
