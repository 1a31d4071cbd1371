//! The environment of the daemon: ports, sockets and files in use, and closed readers.

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

/// A free port.
const LOCAL: &str = "127.0.0.1:0";

/// Arguments of `run` with a configuration and these addresses.
fn run<'a>(config: &'a Path, listen: &'a str, agent_listen: &'a str) -> [&'a str; 7] {
    let config = config.to_str().expect("UTF-8");
    ["run", "--config", config, "--listen", listen, "--agent-listen", agent_listen]
}

#[test]
fn start_errors_are_one_line_with_a_remedy_and_a_code() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = taken.local_addr().expect("addr").to_string();
    let socket = config("socket", "");
    let free = config("free.toml", &format!("socket = \"{}\"", socket.display()));
    for (addrs, option) in [([&*addr, LOCAL], " --listen)"), ([LOCAL, &addr], " --agent-listen)")] {
        let (code, stderr) = run_memsensor(&run(&free, addrs[0], addrs[1]));
        assert_eq!(code, Some(4), "{stderr}");
        let named = stderr.contains(&addr) && stderr.contains(option);
        assert!(named && stderr.lines().count() == 1, "{stderr}");
    }
    let (code, stderr) = run_memsensor(&run(&free, &addr, &addr));
    assert!(code == Some(2) && stderr.contains(&format!("listen: {addr} twice")), "{stderr}");

    let bad = config("bad.toml", "socket = \"/nowhere\"\nintervall = \"1s\"\n");
    for args in [
        ["run", "--config", bad.to_str().expect("UTF-8")],
        ["config", "check", bad.to_str().expect("UTF-8")],
    ] {
        let (code, stderr) = run_memsensor(&args);
        assert_eq!(code, Some(2), "{stderr}");
        for part in [bad.to_str().expect("UTF-8"), "line 2", "intervall", "interval"] {
            assert!(stderr.contains(part), "{part:?} is missing: {stderr:?}");
        }
        assert_eq!(stderr.lines().count(), 1, "{stderr:?}");
    }

    let daemon = Daemon::start("").expect("daemon");
    let same = config("same.toml", &format!("socket = \"{}\"", daemon.socket().display()));
    let (code, stderr) = run_memsensor(&run(&same, LOCAL, LOCAL));
    assert_eq!(code, Some(4), "{stderr}");
    assert!(stderr.contains("another memsensor listens there"), "{stderr}");

    let (code, stderr) = run_memsensor(&["events", "--socket", "/nonexistent/socket"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("is memsensor running"), "{stderr}");
    for path in [free, bad, same, socket] {
        std::fs::remove_file(path).expect("remove");
    }
}

/// The name lookup runs in a thread of its own, which has no timeout.
#[test]
fn check_does_not_wait_for_a_silent_name_server() {
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
    let output = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(3), "{output}");
    assert!(output.contains("no answer from web-01.example:9817 within 500ms"), "{output}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    for path in [servers, order] {
        std::fs::remove_file(path).expect("remove");
    }
}

#[test]
fn the_daemon_survives_a_closed_log_reader() {
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
    // With the state saved for the next start.
    for path in [file, socket.with_extension("verdict.json")] {
        std::fs::remove_file(path).expect("remove");
    }
}

/// The writing end of a pipe that is full, and its reading end.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let flags = rustix::fs::fcntl_getfl(&writer).expect("flags");
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).expect("set");
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).expect("reset");
    (reader, writer)
}

fn ends_within(child: &mut Running, time: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Some(status) = child.0.try_wait().expect("wait") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

#[test]
fn the_daemon_answers_while_nothing_reads_its_log() {
    let addr = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        free.local_addr().expect("addr")
    };
    let socket = std::env::temp_dir().join(format!("memsensor-test-{}-full", std::process::id()));
    let file = config("full.toml", &format!("socket = \"{}\"", socket.display()));
    let (reader, stderr) = full_pipe();
    let memsensor = program("memsensor").expect("memsensor");
    let daemon =
        Command::new(&memsensor).args(run(&file, &addr.to_string(), LOCAL)).stderr(stderr).spawn();
    let mut daemon = Running(daemon.expect("run"));
    wait_until("ready", || get(addr, "/readyz", "").is_ok_and(|answer| answer.status == 200));
    // Each writes a line to the log.
    for words in [&["drain", "--reason", "test"][..], &["undrain"]] {
        let mut asking = Command::new(&memsensor);
        asking.args(words).arg("--socket").arg(&socket).stdout(Stdio::null());
        let mut asking = Running(asking.spawn().expect("run"));
        let status = ends_within(&mut asking, Duration::from_secs(5)).expect("an answer");
        assert!(status.success(), "{words:?}: {status}");
        assert_eq!(get(addr, "/livez", "").expect("/livez").status, 200, "{words:?}");
    }
    let pid = rustix::process::Pid::from_child(&daemon.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("stop");
    let status = ends_within(&mut daemon, Duration::from_secs(5)).expect("it ends");
    assert!(status.success(), "{status}");
    drop(reader);
    for path in [file, socket.with_extension("verdict.json")] {
        std::fs::remove_file(path).expect("remove");
    }
}

#[test]
fn a_closed_stdout_is_not_an_error() {
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
        let output = String::from_utf8_lossy(&out.stderr);
        assert_eq!((out.status.code(), output.as_ref()), (Some(0), ""), "{command}");
    }
}

/// A fake daemon that sends one of these responses per connection and closes it.
fn fake_daemon(socket: &Path, responses: &'static [&str]) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("bind");
    std::thread::spawn(move || {
        for response in responses {
            let (mut stream, _) = listener.accept().expect("accept");
            BufReader::new(&stream).read_line(&mut String::new()).expect("a request");
            stream.write_all(response.as_bytes()).expect("write");
        }
    })
}

/// `drain` must fail without a complete response.
#[test]
fn drain_fails_without_a_response() {
    const DONE: &str = "{\"done\":\"drained\"}\n";
    const NOT_NOW: &str = "{\"error\":\"not now\"}\n";
    let socket = config("fake", "");
    let args = ["drain", "--reason", "r", "--socket", socket.to_str().expect("UTF-8"), "--wait"];
    for (responses, message) in [
        (&[""][..], "closed the connection without an answer"),
        (&[NOT_NOW], "reports: not now"),
        (&[DONE, ""], "closed the connection without an answer"),
        (&[DONE, NOT_NOW], "reports: not now"),
        (&[DONE, DONE], "did not answer"),
    ] {
        std::fs::remove_file(&socket).expect("remove");
        let daemon = fake_daemon(&socket, responses);
        let (code, stderr) = run_memsensor(&args);
        assert!(code == Some(1) && stderr.contains(message), "{responses:?}: {code:?} {stderr}");
        daemon.join().expect("as many requests");
    }
    std::fs::remove_file(socket).expect("remove");
}

#[test]
fn a_file_at_the_path_of_the_socket_is_not_removed() {
    let precious = config("precious", "do not delete");
    let file = config("precious.toml", &format!("socket = \"{}\"", precious.display()));
    let (code, stderr) = run_memsensor(&run(&file, LOCAL, LOCAL));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("is not a socket"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&precious).expect("it exists"), "do not delete");
    for path in [precious, file] {
        std::fs::remove_file(path).expect("remove");
    }
}
