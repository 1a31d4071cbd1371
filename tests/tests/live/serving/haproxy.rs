//! A real HAProxy with the configuration that we ship, two web servers and a daemon for each.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sensor_tests::{
    daemon::{Daemon, get},
    scope::{MIB, Scope},
};

use super::verdict::judging;
use crate::{killed, wait_until};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/haproxy.cfg");

/// A web server that says its name, until it hangs: then it accepts and says nothing.
struct Web {
    addr: SocketAddr,
    hangs: Arc<AtomicBool>,
}

impl Web {
    fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let addr = listener.local_addr().expect("address");
        let hangs = Arc::new(AtomicBool::new(false));
        let hung = Arc::clone(&hangs);
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                if hung.load(Ordering::Relaxed) {
                    kept.push(stream);
                } else {
                    answer(stream, name);
                }
            }
        });
        Self { addr, hangs }
    }
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut head = [0; 1024];
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let _ = stream.read(&mut head);
    let length = name.len();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}"
    );
}

struct HaProxy {
    child: Child,
    dir: PathBuf,
    addr: SocketAddr,
}

impl HaProxy {
    /// Starts it with the shipped configuration, in which only addresses are changed.
    fn start(webs: [&Web; 2], agents: [(&Daemon, &str); 2]) -> Self {
        let dir = std::env::temp_dir().join(format!("memsensor-haproxy-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("mkdir");
        let addr = {
            let free = TcpListener::bind("127.0.0.1:0").expect("bind");
            free.local_addr().expect("address")
        };
        let mut text = std::fs::read_to_string(CONFIG).expect("the shipped configuration");
        let put = |text: &mut String, from: &str, to: &str| {
            assert!(text.contains(from), "the shipped configuration has no {from}");
            *text = text.replace(from, to);
        };
        put(&mut text, "bind :80", &format!("bind {addr}"));
        for (i, (web, (daemon, scope))) in webs.iter().zip(agents).enumerate() {
            let n = i + 1;
            put(&mut text, &format!("192.0.2.1{n}:8080"), &web.addr.to_string());
            // Here both hosts are this one, so each has its own agent's port.
            let server = format!("server web-0{n} {} weight 100", web.addr);
            let agent = daemon.listening[1].port();
            let ask =
                |how: &str| format!("{server} agent-port {agent} agent-send \"{scope}{how}\\n\"\n");
            let mut at = text.find(&format!("{server}\n")).expect("a server in the first backend");
            text.replace_range(at..=at + server.len(), &ask(""));
            at += ask("").len();
            at += text[at..].find(&format!("{server}\n")).expect("a server in the last resort");
            text.replace_range(at..=at + server.len(), &ask("?fail_on=maintenance"));
        }
        let socket = dir.join("stats");
        let global = format!("global\n    stats socket {} level admin\n\n", socket.display());
        let file = dir.join("haproxy.cfg");
        std::fs::write(&file, global + &text).expect("write");
        let child = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("log")).expect("create"))
            .spawn()
            .expect("start haproxy (cargo xtask setup --tests)");
        let haproxy = Self { child, dir, addr };
        wait_until("up", || get(haproxy.addr, "/", "").is_ok_and(|a| a.status == 200));
        haproxy
    }

    /// A command on its socket.
    fn say(&self, command: &str) -> String {
        let mut socket = UnixStream::connect(self.dir.join("stats")).expect("the stats socket");
        writeln!(socket, "{command}").expect("ask");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("an answer");
        text
    }

    /// Status and effective weight of a server.
    fn server(&self, backend: &str, name: &str) -> (String, String) {
        let text = self.say("show stat");
        let mut lines = text.lines().map(|l| l.split(',').collect::<Vec<_>>());
        let names = lines.next().expect("a head");
        let at = |name: &str| names.iter().position(|n| *n == name).expect("a column");
        let line = lines
            .find(|l| l[0] == backend && l.get(1) == Some(&name))
            .unwrap_or_else(|| panic!("no {backend}/{name}: {text}"));
        (line[at("status")].to_owned(), line[at("weight")].to_owned())
    }

    /// Who answers so many requests: the number of the first's, and that of failures.
    fn ask(&self, n: u32) -> (u32, u32) {
        let (mut first, mut failed) = (0, 0);
        for _ in 0..n {
            match get(self.addr, "/", "") {
                Ok(answer) if answer.status == 200 => first += u32::from(answer.body == "web-01"),
                _ => failed += 1,
            }
        }
        (first, failed)
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn haproxy_follows_the_verdict_and_always_serves() {
    let webs = [Web::start("web-01"), Web::start("web-02")];
    let scope = Scope::new("haproxy", 16 * MIB).expect("scope");
    let daemons = [judging(&scope), Daemon::start("").expect("daemon")];
    let haproxy =
        HaProxy::start([&webs[0], &webs[1]], [(&daemons[0], "web"), (&daemons[1], "host")]);
    let (first, failed) = haproxy.ask(100);
    assert!((40..=60).contains(&first) && failed == 0, "{first} of 100, {failed} failed");

    // Less weight: the first has half of its own, a third of all.
    killed(&scope, &["anon", "32"]);
    wait_until("half weight", || haproxy.server("web", "web-01") == ("UP".into(), "50".into()));
    let (first, failed) = haproxy.ask(90);
    assert!((20..=45).contains(&first) && failed == 0, "{first} of 90, {failed} failed");

    // None.
    std::thread::sleep(Duration::from_secs(1));
    killed(&scope, &["anon", "32"]);
    wait_until("drained", || haproxy.server("web", "web-01").1 == "0");
    assert_eq!(haproxy.ask(50), (0, 0));
    std::thread::sleep(Duration::from_secs(3));
    let log = std::fs::read_to_string(haproxy.dir.join("log")).expect("its log");
    let about = log.lines().filter(|l| l.contains("Server web/web-01")).count();
    assert_eq!(about, 0, "a weight is no line at every check: {log}");

    // Nobody is left: the last resort serves, with who is short of memory, but not with who is to be
    // left alone.
    let (said, code) = daemons[1].ask(&["drain", "--reason", "update", "--wait"]).expect("drain");
    assert!(code == Some(0) && said.contains("told: 127.0.0.1"), "{said}");
    wait_until("drained", || haproxy.server("web", "web-02").1 == "0");
    wait_until("not even then", || haproxy.server("web_last_resort", "web-02").1 == "0");
    assert_eq!(haproxy.ask(50), (50, 0));

    // And back.
    daemons[1].ask(&["undrain"]).expect("undrain");
    wait_until("back", || haproxy.server("web", "web-02") == ("UP".into(), "100".into()));
    assert_eq!(haproxy.ask(20), (0, 0));
}

/// A spike on all hosts at once is no reason to turn everybody away.
#[test]
fn haproxy_serves_when_every_host_drains() {
    let webs = [Web::start("web-01"), Web::start("web-02")];
    let scopes = ["all-1", "all-2"].map(|name| Scope::new(name, 16 * MIB).expect("scope"));
    let daemons = [judging(&scopes[0]), judging(&scopes[1])];
    let haproxy =
        HaProxy::start([&webs[0], &webs[1]], [(&daemons[0], "web"), (&daemons[1], "web")]);
    for _ in 0..2 {
        for scope in &scopes {
            killed(scope, &["anon", "32"]);
        }
        // Kills within a second are one.
        std::thread::sleep(Duration::from_millis(1500));
    }
    wait_until("both drained", || {
        ["web-01", "web-02"].iter().all(|name| haproxy.server("web", name).1 == "0")
    });
    let (first, failed) = haproxy.ask(50);
    assert!((15..=35).contains(&first) && failed == 0, "{first} of 50, {failed} failed");
}

/// What an operator sets at HAProxy by hand is not undone by the next check.
#[test]
fn haproxy_keeps_what_its_operator_said() {
    let webs = [Web::start("web-01"), Web::start("web-02")];
    let daemons = [Daemon::start("").expect("daemon"), Daemon::start("").expect("daemon")];
    let haproxy =
        HaProxy::start([&webs[0], &webs[1]], [(&daemons[0], "host"), (&daemons[1], "host")]);
    for state in ["maint", "drain"] {
        haproxy.say(&format!("set server web/web-01 state {state}"));
        // Three agent checks later.
        std::thread::sleep(Duration::from_secs(3));
        let (status, _) = haproxy.server("web", "web-01");
        assert!(status.starts_with(&state.to_uppercase()), "{state}: {status}");
        assert_eq!(haproxy.ask(20), (0, 0), "{state}");
        haproxy.say("set server web/web-01 state ready");
        wait_until("up again", || haproxy.server("web", "web-01").0 == "UP");
    }
}

/// HAProxy keeps the last state of an agent that says nothing: the plain check takes the host out.
#[test]
fn haproxy_takes_a_frozen_host_out_by_the_plain_check() {
    let webs = [Web::start("web-01"), Web::start("web-02")];
    let daemons = [Daemon::start("").expect("daemon"), Daemon::start("").expect("daemon")];
    let haproxy =
        HaProxy::start([&webs[0], &webs[1]], [(&daemons[0], "host"), (&daemons[1], "host")]);
    let frozen = rustix::process::Pid::from_raw(daemons[0].pid().cast_signed()).expect("a pid");
    rustix::process::kill_process(frozen, rustix::process::Signal::STOP).expect("freeze");
    webs[0].hangs.store(true, Ordering::Relaxed);
    wait_until("out", || haproxy.server("web", "web-01").0.starts_with("DOWN"));
    assert_eq!(haproxy.ask(30), (0, 0));
}

/// What an agent says that does not know the scope: nothing that changes a state.
#[test]
fn haproxy_leaves_a_server_alone_whose_scope_is_unknown() {
    let webs = [Web::start("web-01"), Web::start("web-02")];
    let daemons = [Daemon::start("").expect("daemon"), Daemon::start("").expect("daemon")];
    let haproxy =
        HaProxy::start([&webs[0], &webs[1]], [(&daemons[0], "misspelt"), (&daemons[1], "host")]);
    daemons[0].ask(&["drain", "--reason", "test"]).expect("drain");
    let asked = || {
        let series = daemons[0].metrics().expect("metrics");
        series.get("memsensor_unknown_scope_requests_total").copied().unwrap_or(0.0)
    };
    wait_until("asked", || asked() >= 3.0);
    assert_eq!(haproxy.server("web", "web-01"), ("UP".into(), "100".into()));
    let (first, failed) = haproxy.ask(20);
    assert!((5..=15).contains(&first) && failed == 0, "{first} of 20, {failed} failed");
}
