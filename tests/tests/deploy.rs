//! The files in `sensor-user/deploy/`: the nginx script with a fake `memsensor`, the systemd unit
//! with `systemd-analyze`. Tests with real load balancers are in `live/serving/balancers`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sensor_tests::support::{
    manifests::{container, readiness_script},
    units,
};
use sensor_user::daemon::config::Config;

const SCRIPT: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-user/deploy/nginx-upstream.sh");

/// Reports the weight that the URL names; with `--fail-on drained` 0 only if the URL contains
/// `by-operator`. `frozen` takes a second; `hostile` and a number print an answer of [`HOSTILE`].
const MEMSENSOR: &str = r#"#!/bin/sh
case "$*" in
*gone*) exit 3 ;;
*frozen*) sleep 1; exit 3 ;;
*hostile-*) n=${*#*hostile-}; cat "$(dirname "$0")/hostile-${n%% *}" ;;
*"--fail-on drained"*) case "$*" in *by-operator*) echo 0; exit 2 ;; *) echo 100 ;; esac ;;
*weight-50*) echo 50; exit 1 ;;
*weight-100*) echo 100 ;;
*) echo 0; exit 2 ;;
esac
"#;

/// Answers that bash would evaluate as commands or that end a shell's arithmetic. `PWNED` is a file.
const HOSTILE: [&str; 12] = [
    "MEMSENSOR OK | weight=100%;;;0;100 weight=1+file[$(touch PWNED)]%=1",
    "file[$(touch PWNED)]",
    "1+file[$(touch PWNED)]",
    "$(touch PWNED)",
    "50\nfile[$(touch PWNED)]",
    "50; touch PWNED",
    "099",
    "0x32",
    "101",
    "99999999999999999999",
    "-1",
    "50 ",
];

/// A directory with the fake `memsensor`.
struct Fake(PathBuf);

impl Fake {
    fn new(name: &str) -> Self {
        let dir = format!("memsensor-{name}-{}", std::process::id());
        let fake = Self(std::env::temp_dir().join(dir));
        std::fs::create_dir_all(&fake.0).expect("mkdir");
        let memsensor = fake.0.join("memsensor");
        std::fs::write(&memsensor, MEMSENSOR).expect("write");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&memsensor, executable).expect("chmod");
        fake
    }

    fn upstream_file(&self) -> PathBuf {
        self.0.join("upstream.conf")
    }

    /// Starts the script in a shell, with memsensors at these URLs.
    fn start(&self, shell: &str, urls: &[&str]) -> Script {
        let servers = urls.iter().enumerate().map(|(n, url)| format!("s{n}:80@http://{url}"));
        let path = format!("{}:{}", self.0.display(), std::env::var("PATH").unwrap_or_default());
        let mut words = shell.split(' ');
        let script = Command::new(words.next().expect("a shell"))
            .args(words)
            .arg(SCRIPT)
            .arg(self.upstream_file())
            .args(servers)
            .env("PATH", path)
            .env("RELOAD", "true")
            .env("EVERY", "0.1")
            .stdin(Stdio::null())
            .spawn();
        Script(script.expect("start the script"))
    }

    /// The upstream servers that the script writes for memsensors at these URLs.
    fn upstream(&self, shell: &str, urls: &[&str]) -> String {
        let _ = std::fs::remove_file(self.upstream_file());
        let script = self.start(shell, urls);
        wait_for(|| self.upstream_file().exists());
        drop(script);
        let text = std::fs::read_to_string(self.upstream_file()).expect("the upstream");
        let shorten = |line: &str| {
            let server = line.strip_prefix("server ").expect("a server");
            let server = server.replace(" max_fails=2 fail_timeout=5s", "");
            server.trim_end_matches(';').to_owned()
        };
        text.lines().map(shorten).collect::<Vec<_>>().join(", ")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The running script.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn nginx_always_has_a_usable_server() {
    let fake = Fake::new("nginx-table");
    for (urls, expected) in [
        (["weight-100", "weight-50", "overloaded"], "s0:80 weight=4, s1:80 weight=2, s2:80 down"),
        // Without memsensor on a host, and on all hosts.
        (["gone", "by-operator", "overloaded"], "s0:80 weight=4, s1:80 down, s2:80 down"),
        (["gone", "weight-50", "weight-100"], "s0:80 weight=4, s1:80 weight=2, s2:80 weight=4"),
        (["gone", "gone", "gone"], "s0:80 weight=4, s1:80 weight=4, s2:80 weight=4"),
        // The last resort excludes drained hosts while there are others.
        (["overloaded", "by-operator", "overloaded"], "s0:80, s1:80 down, s2:80"),
        (["by-operator", "by-operator", "by-operator"], "s0:80, s1:80, s2:80"),
    ] {
        assert_eq!(fake.upstream("sh", &urls), expected, "{urls:?}");
    }
    // No memsensor on the load balancer.
    std::fs::write(fake.0.join("memsensor"), "#!/bin/sh\nexit 127\n").expect("write");
    assert_eq!(fake.upstream("sh", &["a", "b"]), "s0:80 weight=4, s1:80 weight=4");
}

/// `/bin/sh` is dash on Debian and bash elsewhere; bash runs commands in an array index.
#[test]
fn nginx_script_runs_no_command_from_an_answer() {
    let fake = Fake::new("nginx-hostile");
    let pwned = fake.0.join("pwned");
    for (n, answer) in HOSTILE.iter().enumerate() {
        let answer = answer.replace("PWNED", &pwned.display().to_string());
        std::fs::write(fake.0.join(format!("hostile-{n}")), answer).expect("write");
    }
    for shell in ["bash", "bash --posix", "dash"] {
        for (n, answer) in HOSTILE.iter().enumerate() {
            let hostile = format!("hostile-{n}");
            // The others keep their weights.
            let expected = "s0:80 weight=2, s1:80 weight=4, s2:80 down";
            let upstream = fake.upstream(shell, &["weight-50", &hostile, "overloaded"]);
            assert!(!pwned.exists(), "{shell} ran a command: {answer}");
            assert_eq!(upstream, expected, "{shell}: {answer}");
        }
    }
}

#[test]
fn nginx_script_survives_a_full_disk() {
    let fake = Fake::new("nginx-full");
    for shell in ["bash", "dash"] {
        let new = fake.0.join("upstream.conf.new");
        std::os::unix::fs::symlink("/dev/full", &new).expect("symlink");
        let _ = std::fs::remove_file(fake.upstream_file());
        let mut script = fake.start(shell, &["weight-100"]);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(script.0.try_wait().expect("wait"), None, "{shell}: the script ended");
        assert!(!fake.upstream_file().exists(), "a file from a failed write");
        std::fs::remove_file(&new).expect("remove");
        wait_for(|| fake.upstream_file().exists());
    }
}

#[test]
fn nginx_script_polls_frozen_hosts_in_parallel() {
    let fake = Fake::new("nginx-frozen");
    let mut urls = vec!["frozen"; 12];
    urls.push("weight-50");
    let start = Instant::now();
    let upstream = fake.upstream("sh", &urls);
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert!(upstream.ends_with("s11:80 weight=4, s12:80 weight=2"), "{upstream}");
}

/// The other files use the path where the unit expects the program.
#[test]
fn all_files_use_the_same_program_path() {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(Path::new(SCRIPT).parent().expect("deploy")).expect("deploy") {
        let file = entry.expect("a file").path();
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        let words = text.split(|c: char| c.is_whitespace() || "\"'=;`,$(+".contains(c));
        let programs = words.filter(|word| word.ends_with("bin/memsensor")).map(str::to_owned);
        paths.extend(programs.map(|program| (program, file.clone())));
    }
    let different: Vec<_> = paths.iter().filter(|p| p.0 != "/usr/local/bin/memsensor").collect();
    assert!(paths.len() >= 2 && different.is_empty(), "{paths:#?}");
}

/// The pod lacks SYS_ADMIN, which one probe needs on some kernels, and adds DAC_READ_SEARCH: with
/// `drop: [ALL]` its root user is bound by file permissions.
#[test]
fn the_pod_has_the_capabilities_of_the_unit() {
    let deploy = Path::new(SCRIPT).parent().expect("deploy");
    let value = |file: &str, key: &str| {
        let text = std::fs::read_to_string(deploy.join(file)).expect(file);
        let value = text.lines().find_map(|l| l.trim().strip_prefix(key).map(str::to_owned));
        value.unwrap_or_else(|| panic!("no {key} in {file}"))
    };
    let pod = value("kubernetes.yaml", "add: [");
    let pod: BTreeSet<_> = pod.trim_end_matches(']').split(", ").collect();
    let unit = value("memsensor.service", "CapabilityBoundingSet=");
    let mut expected: BTreeSet<_> =
        unit.split(' ').map(|name| name.strip_prefix("CAP_").expect("a capability")).collect();
    assert!(expected.remove("SYS_ADMIN"), "the unit has no CAP_SYS_ADMIN");
    expected.insert("DAC_READ_SEARCH");
    assert_eq!(pod, expected);
}

#[test]
fn the_sensor_pod_has_no_cpu_limit_and_few_rights() {
    let pod = container("DaemonSet").expect("the DaemonSet");
    let limits = pod["resources"]["limits"].as_mapping().expect("limits");
    assert!(!limits.contains_key("cpu"), "a CPU limit throttles the sensor");
    assert!(limits.contains_key("memory"), "a leak takes the node's memory");
    assert_eq!(pod["livenessProbe"]["httpGet"]["path"], "/livez");
    let security = &pod["securityContext"];
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(security["readOnlyRootFilesystem"], true);
}

/// How a server on the port behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    /// Answers with this status line and body.
    Answers(&'static str, &'static str),
    /// Accepts connections and sends nothing.
    Frozen,
    /// Nothing listens.
    Absent,
}

/// A port where a server behaves like this until the test process ends.
fn serve(ip: &str, server: Server) -> u16 {
    let listener = TcpListener::bind((ip, 0)).expect("bind");
    let port = listener.local_addr().expect("address").port();
    if server == Server::Absent {
        return port;
    }
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let Server::Answers(status, body) = server else {
                kept.push(stream);
                continue;
            };
            let _ = stream.read(&mut [0; 1024]);
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        }
    });
    port
}

/// Whether the readiness script of the application's pod succeeds.
fn pod_is_ready(dir: &Path, node_ip: &str, [web, memsensor, service]: [Server; 3]) -> bool {
    let script = readiness_script(&[
        ("localhost:8080", format!("127.0.0.1:{}", serve("127.0.0.1", web))),
        (":9817", format!(":{}", serve(node_ip, memsensor))),
        ("http://web/", format!("http://127.0.0.1:{}/", serve("127.0.0.1", service))),
        ("/tmp/last-resort", dir.join("last-resort").display().to_string()),
    ]);
    let script = script.expect("the readiness script");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("NODE_IP", node_ip).env("http_proxy", "http://127.0.0.1:1");
    command.status().expect("start sh").success()
}

#[test]
fn only_a_503_of_memsensor_makes_a_pod_unready() {
    let dir = std::env::temp_dir().join(format!("memsensor-readiness-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("mkdir");
    let ok = Server::Answers("200 OK", "fine");
    let unavailable = Server::Answers("503 Service Unavailable", "{}");
    for (web, memsensor, ready) in [
        (ok, ok, true),
        (ok, unavailable, false),
        (ok, Server::Absent, true),
        (ok, Server::Frozen, true),
        (ok, Server::Answers("404 Not Found", ""), true),
        (ok, Server::Answers("500 Internal Server Error", ""), true),
        (ok, Server::Answers("200 OK", "HTTP/1.1 503 "), true),
        (Server::Absent, ok, false),
        (Server::Frozen, ok, false),
        (unavailable, ok, false),
    ] {
        for node_ip in ["127.0.0.1", "::1"] {
            let is_ready = pod_is_ready(&dir, node_ip, [web, memsensor, ok]);
            assert_eq!(is_ready, ready, "{node_ip}: web {web:?}, memsensor {memsensor:?}");
        }
    }
    let _ = std::fs::remove_dir_all(&dir);
}

/// Kubernetes has no last resort: without it a 503 on all nodes would leave no endpoint.
#[test]
fn pods_return_if_no_pod_is_ready() {
    let dir = std::env::temp_dir().join(format!("memsensor-last-resort-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("mkdir");
    let ok = Server::Answers("200 OK", "");
    let overloaded = Server::Answers("503 Service Unavailable", "");
    let is_ready = |memsensor, service| pod_is_ready(&dir, "127.0.0.1", [ok, memsensor, service]);
    for nothing in [Server::Absent, Server::Frozen, overloaded] {
        assert!(!is_ready(overloaded, ok), "another pod serves");
        assert!(is_ready(overloaded, nothing), "no pod serves: {nothing:?}");
        assert!(is_ready(overloaded, ok), "the pod stays for five minutes");
        assert!(is_ready(ok, ok), "the node recovers");
    }
    assert!(!is_ready(overloaded, ok), "the last resort ended with the recovery");
    let _ = std::fs::remove_dir_all(&dir);
}

/// A file in `deploy/`, and its settings by key; each key has one value there.
fn unit(name: &str) -> (String, BTreeMap<String, String>) {
    let text = std::fs::read_to_string(Path::new(SCRIPT).with_file_name(name)).expect(name);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let settings = lines.filter_map(|line| line.split_once('='));
    let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    (text, settings)
}

/// The kernel bounds memory.min of a cgroup by that of each ancestor, and compares weights of
/// siblings only.
#[test]
fn the_slice_has_the_memory_protection_of_the_service() {
    let (_, service) = unit("memsensor.service");
    let mib = |settings: &BTreeMap<String, String>| -> Option<u32> {
        settings.get("MemoryMin")?.strip_suffix('M')?.parse().ok()
    };
    let protected = mib(&service).expect("MemoryMin= of the service, in MiB");
    let slice = service.get("Slice").expect("Slice= of the service");
    let name = slice.strip_suffix(".slice").expect("a slice");
    // a-b.slice is below a.slice.
    let parts: Vec<_> = name.split('-').collect();
    for depth in 1..=parts.len() {
        let (_, ancestor) = unit(&format!("{}.slice", parts[..depth].join("-")));
        assert!(mib(&ancestor).is_some_and(|mib| mib >= protected), "{ancestor:?}");
    }
    let (_, top) = unit(&format!("{}.slice", parts[0]));
    for weight in ["CPUWeight", "IOWeight"] {
        assert_eq!(top.get(weight).map(String::as_str), Some("10000"), "{weight}");
        assert_eq!(service.get(weight), None, "{weight} has no effect within the slice");
    }
}

#[test]
fn repeated_restarts_are_delayed_and_leave_no_core_dump() {
    let (_, service) = unit("memsensor.service");
    let expected = [
        ("Restart", "always"),
        ("StartLimitIntervalSec", "0"),
        ("RestartSec", "1s"),
        ("RestartSteps", "6"),
        ("RestartMaxDelaySec", "15s"),
        ("LimitCORE", "0"),
    ];
    for (key, value) in expected {
        assert_eq!(service.get(key).map(String::as_str), Some(value), "{key}");
    }
}

/// A socket that matches no listener keeps memsensor from starting.
#[test]
fn the_socket_unit_has_the_default_addresses() {
    let (text, settings) = unit("memsensor.socket");
    let streams = text.lines().filter_map(|line| line.strip_prefix("ListenStream="));
    // systemd.socket(5): a port alone is IPv6 and IPv4.
    let address = |stream: &str| match stream.parse::<u16>() {
        Ok(port) => format!("[::]:{port}"),
        Err(_) => stream.to_owned(),
    };
    let listeners = Config::default().listeners();
    let addresses = listeners.iter().map(|listener| listener.address.to_string());
    assert_eq!(streams.map(address).collect::<BTreeSet<_>>(), addresses.collect());
    assert_eq!(settings.get("Backlog").map(String::as_str), Some("1024"), "as memsensor's own");
}

#[test]
fn systemd_creates_the_default_user() {
    let file = Path::new(SCRIPT).with_file_name("memsensor.sysusers.conf");
    let output = Command::new("systemd-sysusers").arg("--dry-run").arg(&file).output();
    let output = output.expect("start systemd-sysusers (cargo xtask setup --tests installs it)");
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(file).expect("read");
    let user = Config::default().user;
    assert!(text.lines().any(|line| line.starts_with(&format!("u {user} "))), "{text}");
}

/// systemd accepts every setting and rates the exposure of the service as low.
#[test]
fn systemd_analyze_accepts_the_units() {
    let dir = std::env::temp_dir().join(format!("memsensor-unit-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("mkdir");
    let names = ["memsensor.service", "memsensor.slice", "memsensor.socket"];
    let [file, slice, socket] = names.map(|name| {
        // `verify` requires the program and the manual page to exist.
        let text = unit(name).0.replace("/usr/local/bin/memsensor", "/bin/true");
        let file = dir.join(name);
        let text = text.replace("Documentation=man:memsensor(1)\n", "");
        std::fs::write(&file, text).expect("write");
        file
    });
    assert!(unit("memsensor.service").0.contains("ExecStart=/usr/local/bin/memsensor run "));
    // 3.2 of 10 on systemd's exposure scale, mostly the network, and root with CAP_SYS_ADMIN and
    // CAP_SETUID, which memsensor gives up after its start: the scale does not include that.
    for (args, file) in [
        (&["verify"][..], &file),
        (&["verify"], &slice),
        (&["verify"], &socket),
        (&["security", "--offline=true", "--threshold=33", "--no-pager"], &file),
    ] {
        let output = Command::new("systemd-analyze").args(args).arg(file).output();
        let output =
            output.expect("start systemd-analyze (cargo xtask setup --tests installs systemd)");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{args:?}: {stderr}{stdout}");
        assert_eq!(units::warnings(&stderr), [""; 0], "{args:?}");
    }
    let _ = std::fs::remove_dir_all(&dir);
}
