//! What each listener serves, and to whom: routes, networks, IPv4 and IPv6.
//!
//! The default listeners run in a network namespace of their own, because their ports may be in use.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
};

use sensor_tests::support::{
    daemon::{Daemon, get, parse},
    scope::program,
};

use super::balancers::tool;
use crate::{Running, config, run_memsensor, wait_until};

/// A daemon with its default listeners, in a network namespace.
struct Isolated {
    daemon: Running,
    files: [PathBuf; 2],
}

impl Isolated {
    /// Runs a shell command in the namespace first, and memsensor by way of `wrapper`.
    fn start(name: &str, prepare: &str, wrapper: &[&str]) -> Self {
        let socket = config(&format!("{name}.sock"), "");
        std::fs::remove_file(&socket).expect("remove");
        let file = config(&format!("{name}.toml"), &format!("socket = \"{}\"", socket.display()));
        let log = std::fs::File::create(socket.with_extension("log")).expect("create");
        let script = format!("ip link set lo up && {prepare} && exec \"$@\"");
        let daemon = Command::new("unshare")
            .args(["-n", "sh", "-c", &script, "sh"])
            .args(wrapper)
            .arg(program("memsensor").expect("memsensor"))
            .args(["run", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        let daemon = Self { daemon: Running(daemon.expect("run")), files: [socket, file] };
        wait_until("ready", || daemon.status("http://127.0.0.1:9817/readyz") == "200");
        daemon
    }

    /// The status of a request from inside the namespace; `000` without an answer.
    fn status(&self, url: &str) -> String {
        let pid = self.daemon.0.id().to_string();
        let out = Command::new("nsenter")
            .args(["-t", &pid, "-n", "curl", "-g", "-s", "-m", "10", "-o", "/dev/null"])
            .args(["-w", "%{http_code}", url])
            .output();
        String::from_utf8(out.expect("nsenter and curl").stdout).expect("digits")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.files[0].with_extension("log")).expect("a log")
    }
}

impl Drop for Isolated {
    fn drop(&mut self) {
        let _ = self.daemon.0.kill();
        let _ = self.daemon.0.wait();
        let [socket, _] = &self.files;
        let more = ["log", "verdict.json"].map(|extension| socket.with_extension(extension));
        for path in self.files.iter().chain(&more) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The statuses of readiness, metrics and events on the ports of the default.
fn statuses(daemon: &Isolated, host: &str) -> [String; 4] {
    [":9817/readyz", ":9817/metrics", ":9817/api/v1/events", ":9819/api/v1/events"]
        .map(|path| daemon.status(&format!("http://{host}{path}")))
}

const SERVED: [&str; 4] = ["200", "200", "404", "200"];
/// Where the listener of events is not.
const WITHOUT_EVENTS: [&str; 4] = ["200", "200", "404", "000"];

#[test]
fn by_default_both_families_are_served_and_events_only_on_loopback() {
    let address = "ip addr add 198.18.0.1/32 dev lo";
    let daemon = Isolated::start("dual", address, &[]);
    assert_eq!(statuses(&daemon, "127.0.0.1"), SERVED, "{}", daemon.log());
    assert_eq!(statuses(&daemon, "[::1]"), WITHOUT_EVENTS);
    assert_eq!(statuses(&daemon, "198.18.0.1"), WITHOUT_EVENTS);
    // Also where sockets of IPv6 have no IPv4 unless they say so.
    let daemon = Isolated::start("only-v6", "echo 1 > /proc/sys/net/ipv6/bindv6only", &[]);
    assert_eq!(statuses(&daemon, "127.0.0.1"), SERVED, "{}", daemon.log());
    let daemon = Isolated::start("off", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6", &[]);
    assert_eq!(statuses(&daemon, "127.0.0.1"), SERVED, "{}", daemon.log());
}

/// Runs a program in which a socket of IPv6 fails as in a kernel without it (`ipv6.disable=1`): a
/// seccomp filter on the call and its first argument.
const WITHOUT_V6: &str = "
import ctypes, os, platform, struct, sys
SOCKET = {'x86_64': 41, 'aarch64': 198}[platform.machine()]
ERRNO, ALLOW, EAFNOSUPPORT, AF_INET6 = 0x50000, 0x7fff0000, 97, 10
code = [(0x20, 0, 0, 0), (0x15, 0, 3, SOCKET), (0x20, 0, 0, 16), (0x15, 0, 1, AF_INET6)]
code += [(6, 0, 0, ERRNO | EAFNOSUPPORT), (6, 0, 0, ALLOW)]
text = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in code))
class Program(ctypes.Structure):
    _fields_ = [('len', ctypes.c_ushort), ('code', ctypes.c_void_p)]
filter = Program(len(code), ctypes.addressof(text))
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
if ctypes.CDLL(None).prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter), 0, 0):
    sys.exit('no filter')
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn without_ipv6_the_default_is_ipv4() {
    let python = tool("datadog-python");
    let wrapper = [python.to_str().expect("UTF-8"), "-c", WITHOUT_V6];
    let daemon = Isolated::start("no-v6", "true", &wrapper);
    assert_eq!(statuses(&daemon, "127.0.0.1"), SERVED);
    assert_eq!(statuses(&daemon, "[::1]"), ["000"; 4]);
    let log = daemon.log();
    for port in [9817, 9818] {
        let line = format!("0.0.0.0:{port} instead of [::]:{port}");
        assert!(log.contains(&line), "{line}: {log}");
    }
    // An address of the configuration is not replaced.
    let exact = "[[listen]]\naddress = \"[::]:0\"\nroutes = [\"metrics\"]";
    let file = config("exact.toml", exact);
    let out = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(program("memsensor").expect("memsensor"))
        .args(["run", "--config"])
        .arg(&file)
        .output()
        .expect("run");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("listen on [::]:0") && stderr.contains("os error 97"), "{stderr}");
    std::fs::remove_file(file).expect("remove");
}

#[test]
fn a_listener_serves_its_routes_and_lists_only_these() {
    let one = |route| format!("[[listen]]\naddress = \"127.0.0.1:0\"\nroutes = [\"{route}\"]\n");
    let more = ["readiness", "metrics", "events"].map(one).concat();
    let daemon = Daemon::also_listening(&more, "").expect("daemon");
    let get = |addr, path: &str| get(addr, path, "").expect("an answer");
    let paths = ["/readyz", "/readyz/host/", "/livez", "/metrics", "/api/v1/events"];
    for (addr, served) in daemon.listening[2..].iter().zip([&paths[..3], &paths[3..4], &paths[4..]])
    {
        let index = get(*addr, "/").body;
        for path in paths {
            let answer = get(*addr, path);
            let expected = if served.contains(&path) { 200 } else { 404 };
            assert_eq!(answer.status, expected, "{path} at {addr}: {}", answer.body);
            let refused = answer.body.contains("not served at this address");
            assert_eq!(refused, expected == 404, "{path}: {}", answer.body);
            let path = path.trim_end_matches("/host/");
            assert_eq!(index.contains(path), expected == 200, "{path} in {index}");
        }
        assert_eq!(get(*addr, "/nowhere").body, "not found; see /\n");
    }
}

/// The status of a request from an address of this machine; `000` without an answer.
fn status_from(source: &str, to: SocketAddr) -> String {
    let out = Command::new("curl")
        .args(["-g", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}"])
        .args(["--interface", source, &format!("http://{to}/readyz")])
        .output();
    String::from_utf8(out.expect("curl").stdout).expect("digits")
}

#[test]
fn other_networks_are_refused_before_they_take_a_place() {
    let more = "[[listen]]\naddress = \"127.0.0.1:0\"\nroutes = [\"readiness\"]\n\
                allow = [\"127.0.0.1/32\"]\n\
                [[listen]]\naddress = \"[::]:0\"\nroutes = [\"readiness\"]\n\
                allow = [\"127.0.0.1\"]\n";
    let daemon = Daemon::also_listening(more, "[http]\nmax_connections = 1\n").expect("daemon");
    let refused = || {
        let series = parse(&daemon.get("/metrics", "").expect("metrics").body);
        series["memsensor_connections_total{listener=\"http\",outcome=\"refused\"}"]
    };
    let (v4, both) = (daemon.listening[2], daemon.listening[3].port());
    let before = refused();
    assert_eq!(status_from("127.0.0.1", v4), "200");
    assert_eq!(status_from("127.0.0.2", v4), "000");
    for (to, source, expected) in [
        // By IPv4 its address is 127.0.0.1, and not ::ffff:127.0.0.1.
        ("127.0.0.1", "127.0.0.1", "200"),
        ("127.0.0.1", "127.0.0.2", "000"),
        ("[::1]", "::1", "000"),
    ] {
        let to = format!("{to}:{both}").parse().expect("an address");
        assert_eq!(status_from(source, to), expected, "{source} to {to}");
    }
    wait_until("counted", || refused() - before == 3.0);
    // One client holds the only place, and a refused one does not get it.
    let mut holds = TcpStream::connect(v4).expect("connect");
    assert_eq!(status_from("127.0.0.2", v4), "000");
    holds.set_nonblocking(true).expect("set");
    let open = holds.read(&mut [0; 1]).map_err(|e| e.kind());
    assert_eq!(open, Err(std::io::ErrorKind::WouldBlock), "it has its place");
}

#[test]
fn the_command_line_replaces_the_listeners_of_its_kind() {
    const NOT_OURS: &str = "203.0.113.1:1";
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = taken.local_addr().expect("an address");
    for (route, option, other) in
        [("events", "--listen", "--agent-listen"), ("agent", "--agent-listen", "--listen")]
    {
        let listener = format!("[[listen]]\naddress = \"{addr}\"\nroutes = [\"{route}\"]\n");
        let file = config("replaced.toml", &listener);
        let run = |option, addr| {
            run_memsensor(&["run", "--config", file.to_str().expect("UTF-8"), option, addr])
        };
        let (code, stderr) = run(option, NOT_OURS);
        assert!(code == Some(1) && stderr.contains(NOT_OURS), "{route}: {stderr}");
        let (code, stderr) = run(other, "127.0.0.1:0");
        assert!(code == Some(4) && stderr.contains(&addr.to_string()), "{route}: {stderr}");
        std::fs::remove_file(file).expect("remove");
    }
}
