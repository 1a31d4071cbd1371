//! Real load balancers with the shipped configurations, changed only in addresses and in the scope.
//! Behind each are two hosts: a web server, a cgroup and a daemon.

mod envoy;
mod faults;
mod haproxy;
mod keepalived;
mod kubernetes;
mod nginx;
mod traefik;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use sensor_tests::support::{
    daemon::{Daemon, get},
    scope::{MIB, Scope},
};

use super::verdict::{judging_at, killed_apart};
use crate::wait_until;

/// Duration of a request: long enough that several are open at any time, for "least connections".
const WORK: Duration = Duration::from_millis(5);
/// Concurrent requests.
const CLIENTS: usize = 8;

/// Hosts behind a load balancer.
const HOSTS: usize = 2;

/// A web server that returns its name; when it hangs, it accepts connections and sends nothing;
/// when it fails, it returns 503.
struct Web {
    addr: SocketAddr,
    hangs: Arc<AtomicBool>,
    fails: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
}

impl Web {
    fn start(ip: &str, name: &'static str) -> Self {
        let listener = TcpListener::bind(format!("{ip}:8080")).expect("bind");
        let addr = listener.local_addr().expect("address");
        let [hangs, fails, over] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
        let [hung, failed, ends] = [&hangs, &fails, &over].map(Arc::clone);
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Relaxed) {
                    return;
                }
                if hung.load(Relaxed) {
                    kept.push(stream);
                } else {
                    let status = if failed.load(Relaxed) { "503 Failed" } else { "200 OK" };
                    std::thread::spawn(move || respond(stream, status, name));
                }
            }
        });
        Self { addr, hangs, fails, ends }
    }
}

fn respond(mut stream: TcpStream, status: &str, name: &str) {
    let mut head = [0; 1024];
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let _ = stream.read(&mut head);
    std::thread::sleep(WORK);
    let length = name.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}"
    );
}

impl Drop for Web {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        // Wakes up its loop, so that the port is free for the next test.
        let _ = TcpStream::connect(self.addr);
    }
}

/// One of the two hosts of the shipped configurations.
struct Host {
    web: Web,
    scope: Scope,
    daemon: Daemon,
}

impl Host {
    /// 192.0.2.11 and 192.0.2.12, mapped to 127.2.0.11 and 127.2.0.12.
    fn both() -> [Self; HOSTS] {
        [(11, "web-01"), (12, "web-02")].map(|(n, name)| {
            let ip = format!("127.2.0.{n}");
            let scope = Scope::new(name, 16 * MIB).expect("scope");
            let daemon = judging_at(&ip, &scope);
            Self { web: Web::start(&ip, name), scope, daemon }
        })
    }

    /// An OOM kill: the first reduces the weight, the second makes it 0.
    fn kill(&self) {
        killed_apart(&self.daemon, &self.scope);
    }

    fn kill_twice(&self) {
        self.kill();
        self.kill();
    }

    fn stop_memsensor(&mut self) {
        self.daemon.stop(rustix::process::Signal::KILL).expect("stop");
    }

    fn state(&self) -> String {
        self.daemon.agent_check("web").expect("agent").trim().to_owned()
    }
}

/// A running load balancer, with a directory.
struct Balancer {
    child: Child,
    dir: PathBuf,
    addr: SocketAddr,
}

/// A shipped configuration.
fn shipped(name: &str) -> String {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy");
    let path = Path::new(dir).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Replaces all occurrences, of which there must be at least one.
fn substitute(text: &mut String, from: &str, to: &str) {
    assert!(text.contains(from), "the shipped configuration has no {from}");
    *text = text.replace(from, to);
}

impl Balancer {
    /// Starts it with a shipped configuration, edited by `change`. `command` gets its directory,
    /// the file and the address to listen on.
    fn start(
        name: &str,
        change: impl FnOnce(&mut String, &Path, SocketAddr),
        command: impl FnOnce(&Path, &Path, SocketAddr) -> Command,
    ) -> Self {
        Self::start_in(name, name, change, command)
    }

    /// The same with a directory of this name.
    fn start_in(
        dir: &str,
        name: &str,
        change: impl FnOnce(&mut String, &Path, SocketAddr),
        command: impl FnOnce(&Path, &Path, SocketAddr) -> Command,
    ) -> Self {
        let dir = std::env::temp_dir().join(format!("memsensor-{dir}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("mkdir");
        let addr = {
            let free = TcpListener::bind("127.0.0.1:0").expect("bind");
            free.local_addr().expect("address")
        };
        let mut text = shipped(name);
        change(&mut text, &dir, addr);
        let file = dir.join(name);
        std::fs::write(&file, text).expect("write");
        let log = std::fs::File::create(dir.join("log")).expect("create");
        let child = command(&dir, &file, addr)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("start {name}'s program (cargo xtask setup --tests): {e}"));
        Self { child, dir, addr }
    }

    fn wait_until_it_serves(&self) {
        wait_until("it serves", || get(self.addr, "/", "").is_ok_and(|a| a.status == 200));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).expect("its log")
    }

    /// Sends `n` requests; returns how many the first host served, and how many failed.
    fn send(&self, n: u32) -> (u32, u32) {
        self.requests(CLIENTS, n)
    }

    /// The same with so many concurrent clients.
    fn requests(&self, clients: usize, n: u32) -> (u32, u32) {
        let (left, first, failed) = (AtomicU32::new(n), AtomicU32::new(0), AtomicU32::new(0));
        let more = || left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok();
        std::thread::scope(|threads| {
            for _ in 0..clients {
                threads.spawn(|| {
                    while more() {
                        match get(self.addr, "/", "") {
                            Ok(response) if response.status == 200 => {
                                first.fetch_add(u32::from(response.body == "web-01"), Relaxed);
                            }
                            _ => _ = failed.fetch_add(1, Relaxed),
                        }
                    }
                });
            }
        });
        (first.into_inner(), failed.into_inner())
    }

    /// Waits until the first host gets all requests or none.
    fn wait_for_share(&self, first: bool) {
        let expected = if first { 20 } else { 0 };
        wait_until("the traffic moves", || self.send(20).0 == expected);
    }

    /// Asserts the first host's share of a hundred requests, and that none failed.
    fn expect_share(&self, range: std::ops::RangeInclusive<u32>) {
        let (first, failed) = self.send(100);
        assert!(
            range.contains(&first) && failed == 0,
            "{first} of 100, not {range:?}, {failed} failed: {}",
            self.log()
        );
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        // SIGTERM first: some have children, which they stop.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A program installed by `cargo xtask setup --tests`, or from PATH.
pub(super) fn tool(name: &str) -> PathBuf {
    let installed = std::env::var_os("MEMSENSOR_TOOLS").map(|dir| PathBuf::from(dir).join(name));
    installed.filter(|path| path.exists()).unwrap_or_else(|| name.into())
}
