//! TLS and credentials of a listener, with curl as the client and certificates of openssl.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use sensor_tests::support::{
    daemon::{DAEMON_UID, Daemon, get, parse},
    prometheus::Prometheus,
    scope::program,
};

use crate::{run_memsensor, wait_until};

/// bcrypt of `correct horse`.
const HASH: &str = "$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2";
const TOKEN: &str = "0123456789abcdef";

const TLS: &str = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n";
/// Follows [`TLS`]: clients need a certificate.
const MUTUAL: &str =
    "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: client.crt\n";

/// A directory of certificates and configurations, removed at the end.
struct Files(tempfile::TempDir);

impl Files {
    /// Certificates of a server, of a client, and of one that is not accepted.
    fn with_certificates() -> Self {
        let files = Self::new();
        for name in ["server", "client", "other"] {
            files.certificate(name);
        }
        files
    }

    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for_daemon(dir.path());
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("write");
        path
    }

    /// A certificate for 127.0.0.1 that its own key signed, as `NAME.crt` and `NAME.key`.
    fn certificate(&self, name: &str) {
        let [cert, key] = ["crt", "key"].map(|extension| self.path(&format!("{name}.{extension}")));
        let settings = "[req]\ndistinguished_name = dn\nx509_extensions = v3\n[dn]\n[v3]\n\
                        subjectAltName = IP:127.0.0.1\nbasicConstraints = CA:FALSE\n";
        let settings = self.write("openssl.cnf", settings);
        let out = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args(["-days", "2", "-subj", &format!("/CN={name}"), "-config"])
            .args([&settings, Path::new("-out"), &cert, Path::new("-keyout"), &key])
            .output();
        let out = out.expect("openssl");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        for_daemon(&key);
    }
}

/// Gives a file to the daemon's own user, who reads it again.
fn for_daemon(path: &Path) {
    std::os::unix::fs::chown(path, Some(DAEMON_UID), None).expect("chown");
}

/// A `[[listen]]` with these lines more.
fn listener(more: &str) -> String {
    let routes = "[\"readiness\", \"metrics\"]";
    format!("[[listen]]\naddress = \"127.0.0.1:0\"\nroutes = {routes}\n{more}\n")
}

fn web_config(path: &Path) -> String {
    listener(&format!("web_config = \"{}\"", path.display()))
}

/// The status of a request by curl; `000` without an answer.
fn curl(url: &str, args: &[&str]) -> String {
    let out = Command::new("curl")
        .args(["-g", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}"])
        .args(args)
        .arg(url)
        .output();
    String::from_utf8(out.expect("curl").stdout).expect("digits")
}

fn readyz(addr: SocketAddr) -> String {
    format!("https://{addr}/readyz")
}

#[test]
fn a_listener_with_tls_serves_only_clients_that_it_should() {
    let files = Files::with_certificates();
    let open = files.write("open.yml", TLS);
    let mutual = files.write("mutual.yml", &format!("{TLS}{MUTUAL}  min_version: TLS13\n"));
    let more = web_config(&open) + &web_config(&mutual);
    let daemon = Daemon::also_listening(&more, "").expect("daemon");
    let path = |name: &str| files.path(name).display().to_string();
    let (ca, other_ca) = (path("server.crt"), path("other.crt"));
    let (open, mutual) = (readyz(daemon.listening[2]), readyz(daemon.listening[3]));
    assert_eq!(curl(&open, &["--cacert", &ca]), "200");
    assert_eq!(curl(&open, &["--cacert", &ca, "--tls-max", "1.2"]), "200");
    assert_eq!(curl(&open, &["--cacert", &ca, "--http2"]), "200", "by HTTP/1.1");
    assert_eq!(curl(&open, &["--cacert", &other_ca]), "000", "another certificate");
    assert_eq!(curl(&open.replace("https", "http"), &[]), "000", "no TLS");
    let with = |name: &str| [path(&format!("{name}.crt")), path(&format!("{name}.key"))];
    let as_client = |name: &str, more: &[&str]| {
        let [cert, key] = with(name);
        let args = ["--cacert", &ca, "--cert", &cert, "--key", &key];
        curl(&mutual, &[&args[..], more].concat())
    };
    assert_eq!(as_client("client", &[]), "200");
    assert_eq!(as_client("client", &["--tls-max", "1.2"]), "000", "TLS 1.3 is needed");
    assert_eq!(as_client("other", &[]), "000", "not of the authority");
    assert_eq!(curl(&mutual, &["--cacert", &ca]), "000", "no certificate");
}

#[test]
fn certificates_are_read_again_and_a_broken_one_changes_nothing() {
    let files = Files::new();
    for name in ["server", "next"] {
        files.certificate(name);
    }
    let tls = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n";
    let web = files.write("web.yml", tls);
    let daemon = Daemon::also_listening(&web_config(&web), "").expect("daemon");
    let url = readyz(daemon.listening[2]);
    let [old, next] = ["server", "next"].map(|name| files.path(&format!("{name}.crt")));
    let text = std::fs::read_to_string(&old).expect("a certificate");
    let old = files.write("old.crt", &text);
    let works = |ca: &Path| curl(&url, &["--cacert", ca.to_str().expect("UTF-8")]) == "200";
    assert!(works(&old) && !works(&next));
    // Only half of a pair: the new certificate with the old key.
    std::fs::copy(&next, files.path("server.crt")).expect("copy");
    wait_until("logged", || daemon.log().contains("TLS and passwords stay as they were"));
    assert!(works(&old), "{}", daemon.log());
    std::fs::rename(files.path("next.key"), files.path("server.key")).expect("rename");
    wait_until("replaced", || works(&next));
    assert!(!works(&old));
    // TLS cannot be removed while it runs.
    files.write("web.yml", &format!("basic_auth_users:\n  a: {HASH}\n"));
    wait_until("logged", || daemon.log().contains("restart memsensor"));
    assert!(works(&next));
}

#[test]
fn passwords_and_tokens_are_checked() {
    let files = Files::new();
    let web = files.write("web.yml", &format!("basic_auth_users:\n  ann: {HASH}\n"));
    let token = files.write("token", &format!("{TOKEN}\n"));
    let token_file = format!("bearer_token_file = \"{}\"", token.display());
    let both = format!("web_config = \"{}\"\n{token_file}", web.display());
    let more = web_config(&web) + &listener(&token_file) + &listener(&both);
    let daemon = Daemon::also_listening(&more, "").expect("daemon");
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let forms: [(&[&str], [&str; 3]); 6] = [
        (&[], ["401"; 3]),
        (&["-u", "ann:correct horse"], ["200", "401", "200"]),
        (&["-u", "ann:wrong"], ["401"; 3]),
        (&["-u", "eve:correct horse"], ["401"; 3]),
        (&["-H", &bearer], ["401", "200", "200"]),
        (&["-H", "Authorization: Bearer 0123456789abcdeF"], ["401"; 3]),
    ];
    for (args, expected) in forms {
        for (addr, expected) in daemon.listening[2..].iter().zip(expected) {
            for path in ["readyz", "metrics", "nowhere"] {
                let expected =
                    if expected == "200" && path == "nowhere" { "404" } else { expected };
                let status = curl(&format!("http://{addr}/{path}"), args);
                assert_eq!(status, expected, "{args:?} for {path} at {addr}");
            }
        }
    }
    // The token is read again; a weak one changes nothing.
    files.write("token", "weak");
    wait_until("logged", || daemon.log().contains("a token has 16 to 1024 characters"));
    let url = format!("http://{}/readyz", daemon.listening[3]);
    assert_eq!(curl(&url, &["-H", &bearer]), "200");
    files.write("token", "fedcba9876543210");
    let next = "Authorization: Bearer fedcba9876543210";
    wait_until("replaced", || curl(&url, &["-H", next]) == "200");
    assert_eq!(curl(&url, &["-H", &bearer]), "401");
}

/// Line and exit code of `memsensor check` with these options.
fn check(addr: SocketAddr, args: &[&str]) -> (String, Option<i32>) {
    let out = Command::new(program("memsensor").expect("memsensor"))
        .args(["check", "--timeout", "10s", "--url", &format!("https://{addr}")])
        .args(args)
        .output()
        .expect("memsensor check");
    (String::from_utf8(out.stdout).expect("ASCII"), out.status.code())
}

#[test]
fn check_speaks_tls_with_certificates_and_tokens() {
    let files = Files::with_certificates();
    let open = files.write("open.yml", TLS);
    let mutual = files.write("mutual.yml", &format!("{TLS}{MUTUAL}"));
    let token = files.write("token", &format!("{TOKEN}\n"));
    let wrong_token = files.write("wrong", "0123456789abcdeF\n").display().to_string();
    let with_token = web_config(&open) + &format!("bearer_token_file = \"{}\"\n", token.display());
    let more = web_config(&open) + &web_config(&mutual) + &with_token;
    let daemon = Daemon::also_listening(&more, "").expect("daemon");
    let [_, _, open, mutual, with_token] = daemon.listening[..] else { panic!() };
    let path = |name: &str| files.path(name).display().to_string();
    let (ca, other_ca, token) = (path("server.crt"), path("other.crt"), path("token"));
    let [client_crt, client_key] = ["client.crt", "client.key"].map(path);
    let [other_crt, other_key] = ["other.crt", "other.key"].map(path);
    let client = ["--cacert", &ca, "--cert", &client_crt, "--key", &client_key];
    let stranger = ["--cacert", &ca, "--cert", &other_crt, "--key", &other_key];
    let token = ["--cacert", &ca, "--bearer-token-file", &token];
    let wrong_token = ["--cacert", &ca, "--bearer-token-file", &wrong_token];
    let cases: [(_, &[&str], _, _); 9] = [
        (open, &["--cacert", &ca], 0, "MEMSENSOR OK - host is ready"),
        (open, &["--cacert", &other_ca], 3, "invalid peer certificate"),
        (open, &[], 3, "https:// needs --cacert FILE"),
        (mutual, &client, 0, "MEMSENSOR OK - host is ready"),
        (mutual, &stranger, 3, "fatal alert"),
        (mutual, &["--cacert", &ca], 3, "fatal alert"),
        (with_token, &token, 0, "MEMSENSOR OK - host is ready"),
        (with_token, &wrong_token, 3, "401"),
        (with_token, &["--cacert", &ca], 3, "--bearer-token-file"),
    ];
    for (addr, args, code, part) in cases {
        let (line, found) = check(addr, args);
        assert_eq!(found, Some(code), "{args:?}: {line}");
        assert!(line.contains(part), "{args:?}: {line}");
    }
}

#[test]
fn config_check_reads_the_files_of_listeners() {
    let files = Files::new();
    for name in ["server", "other"] {
        files.certificate(name);
    }
    let web = |name: &str, key: &str, more: &str| {
        let tls = format!("tls_server_config:\n  cert_file: server.crt\n  key_file: {key}\n{more}");
        web_config(&files.write(name, &tls))
    };
    let token = |name: &str, text: &str| {
        let path = files.write(name, text);
        listener(&format!("bearer_token_file = \"{}\"", path.display()))
    };
    let right = web("right.yml", "server.key", "") + &token("token", TOKEN);
    let no_ca = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n";
    for (config, parts) in [
        (right.clone(), None),
        (web_config(&files.path("none.yml")), Some(["none.yml", "No such file"])),
        (web("nokey.yml", "none.key", ""), Some(["none.key", "No such file"])),
        (web("pair.yml", "other.key", ""), Some(["other.key", "server.crt"])),
        (web("pem.yml", "server.crt", ""), Some(["server.crt", "no private key in PEM"])),
        (web("ca.yml", "server.key", no_ca), Some(["ca.crt", "No such file"])),
        (web("typo.yml", "server.key", "users: {}\n"), Some(["typo.yml", "users"])),
        (right.clone() + &token("weak", "weak"), Some(["bearer_token_file", "16 to 1024"])),
    ] {
        let path = files.write("memsensor.toml", &config);
        let (code, error) = run_memsensor(&["config", "check", path.to_str().expect("UTF-8")]);
        let Some(parts) = parts else {
            assert_eq!((code, error.as_str()), (Some(0), ""));
            continue;
        };
        assert_eq!(code, Some(2), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
        assert!(error.contains("listen: 127.0.0.1:0"), "{error}");
    }
}

/// bcrypt of the flood's passwords takes all of the time of its thread, and none of others'.
#[test]
fn a_flood_of_wrong_passwords_does_not_delay_others() {
    let files = Files::new();
    let web = files.write("web.yml", &format!("basic_auth_users:\n  ann: {HASH}\n"));
    let daemon = Daemon::also_listening(&web_config(&web), "").expect("daemon");
    let (plain, locked) = (daemon.listening[0], daemon.listening[2]);
    let url = format!("http://{locked}/metrics");
    assert_eq!(curl(&url, &["-u", "ann:correct horse"]), "200");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stop = &stop;
    let slowest = std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for n in 0.. {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                    let source = format!("127.0.1.{thread}");
                    let wrong = format!("ann:wrong {n}");
                    let url = format!("http://{locked}/metrics");
                    let status = curl(&url, &["--interface", &source, "-u", &wrong]);
                    assert!(["401", "503"].contains(&&*status), "{status}");
                }
            });
        }
        let slowest = (0..100).map(|_| {
            let began = Instant::now();
            assert_eq!(get(plain, "/readyz", "").expect("an answer").status, 200);
            began.elapsed()
        });
        let slowest = slowest.max().unwrap_or_default();
        // Known passwords need no check.
        for _ in 0..10 {
            assert_eq!(curl(&url, &["-u", "ann:correct horse"]), "200");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        slowest
    });
    println!("slowest /readyz: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[test]
fn prometheus_scrapes_by_tls_with_a_certificate_and_a_password() {
    let files = Files::new();
    for name in ["server", "client"] {
        files.certificate(name);
    }
    let web = format!(
        "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  \
         client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: client.crt\n\
         basic_auth_users:\n  ann: {HASH}\n"
    );
    let web = files.write("web.yml", &web);
    let daemon = Daemon::also_listening(&web_config(&web), "").expect("daemon");
    let dir = files.0.path().display();
    let config = format!(
        "scrape_configs:\n- job_name: memsensor\n  scrape_interval: 1s\n  scheme: https\n  \
         tls_config: {{ca_file: {dir}/server.crt, cert_file: {dir}/client.crt, \
         key_file: {dir}/client.key}}\n  \
         basic_auth: {{username: ann, password: correct horse}}\n  \
         static_configs: [{{targets: [\"{}\"]}}]\n",
        daemon.listening[2]
    );
    let prometheus = Prometheus::start(&config).expect("prometheus");
    wait_until("scraped", || {
        let ready = prometheus.query("memsensor_ready{scope=\"host\"} == 1 and on() up == 1");
        ready.is_ok_and(|series| series.len() == 1)
    });
}

/// A handshake that is never finished ends as a request without an end does.
#[test]
fn a_silent_client_of_tls_is_closed_in_time() {
    let files = Files::new();
    files.certificate("server");
    let tls = "tls_server_config: {cert_file: server.crt, key_file: server.key}";
    let web = files.write("web.yml", tls);
    let limits = "[http]\nhead_timeout = \"500ms\"\ndeadline = \"1m\"\n";
    let daemon = Daemon::also_listening(&web_config(&web), limits).expect("daemon");
    let mut silent = TcpStream::connect(daemon.listening[2]).expect("connect");
    // The begin of a ClientHello.
    silent.write_all(&[22, 3, 1, 2, 0, 1]).expect("write");
    silent.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    assert_eq!(silent.read(&mut [0; 1]).ok(), Some(0), "it was closed");
    let timed_out = r#"memsensor_connections_total{listener="http",outcome="timed_out"}"#;
    wait_until("counted", || {
        let series = parse(&daemon.get("/metrics", "").expect("metrics").body);
        series.get(timed_out) == Some(&1.0)
    });
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let files = Files::new();
    files.certificate("server");
    let cert = "tls_server_config:\n  cert_file: server.crt\n";
    for (web, parts) in [
        (format!("{cert}  key_file: none.key\n"), ["read", "none.key", "No such file"]),
        (format!("{cert}  key_file: server.crt\n"), ["no private key", "server.crt", "PEM"]),
        (
            format!("{cert}  key_file: server.key\n  cipher_suites: []\n"),
            ["web.yml", "tls_server_config.cipher_suites", "not supported"],
        ),
        ("basic_auth_users:\n  ann: secret\n".to_owned(), ["web.yml", "\"ann\"", "bcrypt"]),
    ] {
        let web = files.write("web.yml", &web);
        let file = files.write("config.toml", &web_config(&web));
        let (code, stderr) = run_memsensor(&["run", "--config", file.to_str().expect("UTF-8")]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{parts:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}
