//! Restarts with sockets that a supervisor holds, as systemd does for `memsensor.socket`, and with
//! the state of the last daemon.

use std::{
    fs::Permissions,
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{net, process::Signal};
use sensor_tests::support::{
    daemon::{DAEMON_UID, Daemon, get},
    open_loop::{Request, Traffic, ask_as_one_of_many},
    scope::program,
};

use crate::{
    Running,
    host_faults::{figure, short_or_long},
    wait_until,
};

/// A supervisor that holds the sockets of the daemon.
struct Supervisor {
    http: TcpListener,
    agent: TcpListener,
    dir: PathBuf,
}

impl Supervisor {
    fn new(name: &str) -> Self {
        let dir = format!("memsensor-test-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(dir);
        std::fs::create_dir_all(&dir).expect("mkdir");
        let listen = || TcpListener::bind("127.0.0.1:0").expect("bind");
        let (http, agent) = (listen(), listen());
        for listener in [&http, &agent] {
            net::listen(listener, 1024).expect("the backlog of memsensor.socket");
        }
        Self { http, agent, dir }
    }

    fn http(&self) -> SocketAddr {
        self.http.local_addr().expect("an address")
    }

    /// Starts the daemon with descriptors 3 and 4, and this address for HTTP.
    fn start(&self, http: SocketAddr, log: Stdio) -> Running {
        let socket = self.dir.join("socket");
        let config = self.dir.with_extension("toml");
        let socket = socket.display();
        let text =
            format!("socket = \"{socket}\"\nuser = \"{DAEMON_UID}\"\ninterval = \"100ms\"\n");
        std::fs::write(&config, text).expect("write");
        let script = "export LISTEN_PID=$$ LISTEN_FDS=2\n\
                      exec 3<&0 4<&1 </dev/null >/dev/null\n\
                      exec \"$@\"";
        let passed = |listener: &TcpListener| OwnedFd::from(listener.try_clone().expect("clone"));
        let agent = self.agent.local_addr().expect("an address").to_string();
        let child = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(program("memsensor").expect("memsensor"))
            .args(["run", "--listen", &http.to_string(), "--agent-listen", &agent, "--config"])
            .arg(config)
            .stdin(passed(&self.http))
            .stdout(passed(&self.agent))
            .stderr(log)
            .spawn();
        Running(child.expect("start"))
    }

    fn start_and_wait(&self) -> Running {
        let daemon = self.start(self.http(), Stdio::null());
        wait_until("it has a sample", || {
            get(self.http(), "/readyz", "").is_ok_and(|r| !r.body.contains("\"starting\""))
        });
        daemon
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = std::fs::remove_file(self.dir.with_extension("toml"));
    }
}

/// Restarts the daemon under 25 requests a second to each listener. Returns the requests.
fn requests_over_restarts(restarts: u32) -> Vec<Request<Vec<u8>>> {
    let supervisor = Supervisor::new("restarts");
    let (http, agent) = (supervisor.http(), supervisor.agent.local_addr().expect("an address"));
    let mut daemon = supervisor.start_and_wait();
    let readyz =
        move |end| ask_as_one_of_many(http, b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n", end);
    let agent_check = move |end| ask_as_one_of_many(agent, b"\n", end);
    let (start, timeout) = (Instant::now(), Duration::from_secs(15));
    let readyz = Traffic::start(25, timeout, start, readyz).expect("threads");
    let agent_check = Traffic::start(25, timeout, start, agent_check).expect("threads");
    for _ in 0..restarts {
        assert!(daemon.stop().success());
        daemon = supervisor.start_and_wait();
    }
    let requests = [readyz.finish(), agent_check.finish()].concat();
    assert!(daemon.stop().success());
    requests
}

fn assert_all_are_answered(restarts: u32) {
    let requests = requests_over_restarts(restarts);
    let failed: Vec<_> = requests.iter().filter(|request| request.outcome.is_err()).collect();
    let longest = requests.iter().map(|request| request.took).max();
    let (sent, failures) = (requests.len(), failed.len());
    figure(&format!(
        "{restarts} restarts, {sent} requests, {failures} failed, longest {longest:?}"
    ));
    assert!(sent > restarts as usize * 25, "{sent} requests");
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn no_client_is_refused_while_it_restarts() {
    assert_all_are_answered(short_or_long(3, 100));
}

/// As in the systemd unit: the directory is the last daemon's user's, who alone may enter it.
#[test]
fn root_without_cap_dac_override_starts_again() {
    let mut daemon = Daemon::start("").expect("daemon");
    daemon.stop(Signal::TERM).expect("stop");
    let dir = daemon.socket().parent().expect("a directory").to_owned();
    std::fs::set_permissions(&dir, Permissions::from_mode(0o700)).expect("chmod");
    let again = Command::new("setpriv")
        .args(["--bounding-set", "-dac_override,-dac_read_search"])
        .arg(program("memsensor").expect("memsensor"))
        .args(["run", "--config"])
        .arg(daemon.config())
        .env("RUST_LOG", "off")
        .spawn();
    let again = Running(again.expect("start"));
    let drain = || daemon.ask(&["drain", "--reason", "test"]).expect("run");
    wait_until("it takes commands", || drain().1 == Some(0));
    let saved = daemon.socket().with_extension("drain.json");
    assert_eq!(std::fs::metadata(saved).expect("saved").uid(), DAEMON_UID);
    assert!(again.stop().success());
}

#[test]
fn a_socket_without_a_listener_is_refused_with_both_names() {
    let supervisor = Supervisor::new("other");
    let other = SocketAddr::from(([127, 0, 0, 2], supervisor.http().port()));
    let log = supervisor.dir.join("log");
    let file = std::fs::File::create(&log).expect("create");
    let mut daemon = supervisor.start(other, file.into());
    let status = daemon.0.wait().expect("wait");
    let text = std::fs::read_to_string(Path::new(&log)).expect("read");
    assert!(!status.success(), "{text}");
    for address in [supervisor.http(), other] {
        assert!(text.contains(&address.to_string()), "{address}: {text}");
    }
}
