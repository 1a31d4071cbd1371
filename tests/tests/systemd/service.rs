//! The installed service: installs it once, and asks systemd about it.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Output},
    sync::Once,
    time::{Duration, Instant},
};

use sensor_tests::support::daemon::{Response, get};

/// The unit under test.
pub(crate) const SERVICE: &str = "memsensor.service";
/// The addresses of the default configuration, as local clients reach them.
pub(crate) const HTTP: SocketAddr = loopback(9817);
pub(crate) const AGENT: SocketAddr = loopback(9818);
/// Timeout of anything that a test waits for: emulation is slow.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// The configuration that the README names.
const CONFIG: &str = "/etc/memsensor/config.toml";
const OPTIONS: &str = "/etc/default/memsensor";
/// A drop-in of the tests.
const DROP_IN: &str = "/run/systemd/system/memsensor.service.d/test.conf";

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

/// Must be called first. Fails outside of a guest; installs memsensor once, and lets it run as it
/// was installed: without a configuration.
pub(crate) fn enter() {
    static INSTALLED: Once = Once::new();
    let cmdline = fs::read_to_string("/proc/cmdline").expect("/proc/cmdline");
    assert!(
        cmdline.contains("memsensor.guest="),
        "this test changes the services of its machine: run it with `cargo xtask systemd`"
    );
    INSTALLED.call_once(install);
    let was_changed = [CONFIG, OPTIONS, DROP_IN].map(|file| fs::remove_file(file).is_ok());
    if was_changed.contains(&true) {
        systemctl(&["daemon-reload"]);
        systemctl(&["restart", SERVICE]);
    }
    systemctl(&["start", SERVICE]);
    memsensor(&["undrain"]);
}

/// Runs the README's commands for the host.
fn install() {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once("\n## Install\n").expect("a section on the installation");
    let (_, block) = section.split_once("```sh\n").expect("its commands");
    let (commands, _) = block.split_once("```").expect("their end");
    let (build, host) = commands.split_once('\n').expect("several lines");
    assert!(build.starts_with("cargo xtask dist && scp "), "{build}");
    let installed = shell(&format!("set -e; cd /root\n{host}"));
    assert!(installed.status.success(), "{host}: {installed:?}");
}

/// Runs the service with this configuration, as the README describes.
pub(crate) fn configure(text: &str) {
    fs::create_dir_all("/etc/memsensor").expect("mkdir");
    fs::create_dir_all("/etc/default").expect("mkdir");
    write_config(text);
    fs::write(OPTIONS, format!("MEMSENSOR_OPTIONS=--config {CONFIG}\n")).expect("options");
    systemctl(&["restart", SERVICE]);
}

/// Replaces the configuration, as editors do.
pub(crate) fn write_config(text: &str) {
    let new = format!("{CONFIG}.new");
    fs::write(&new, text).expect("write");
    fs::rename(&new, CONFIG).expect("rename");
}

/// Restarts the service with further settings of its section.
pub(crate) fn override_settings(settings: &str) {
    fs::create_dir_all("/run/systemd/system/memsensor.service.d").expect("mkdir");
    fs::write(DROP_IN, format!("[Service]\n{settings}\n")).expect("write");
    systemctl(&["daemon-reload"]);
    systemctl(&["restart", SERVICE]);
}

/// Runs a shell script.
pub(crate) fn shell(script: &str) -> Output {
    Command::new("sh").args(["-c", script]).output().expect("sh")
}

/// Output and errors of a program, and its exit code.
pub(crate) fn run(program: &str, args: &[&str]) -> (String, Option<i32>) {
    let out = Command::new(program).args(args).output();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = [out.stdout, out.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), out.status.code())
}

/// Runs systemctl, which must succeed.
pub(crate) fn systemctl(args: &[&str]) -> String {
    let (text, code) = run("systemctl", args);
    if code != Some(0) {
        let (status, _) = run("systemctl", &["--no-pager", "--full", "status", SERVICE]);
        panic!("systemctl {args:?}: {code:?}: {text}\n{status}");
    }
    text
}

/// A property of the service.
pub(crate) fn property(name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, SERVICE]).trim().to_owned()
}

/// The process id of the daemon.
pub(crate) fn main_pid() -> u32 {
    property("MainPID").parse().expect("a number")
}

/// Runs the installed memsensor.
pub(crate) fn memsensor(args: &[&str]) -> (String, Option<i32>) {
    run("/usr/local/bin/memsensor", args)
}

/// The answer of the service to `GET path`.
pub(crate) fn http(path: &str) -> Response {
    get(HTTP, path, "").unwrap_or_else(|e| panic!("{path}: {e:#}"))
}

/// Waits for a condition.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A line for the report of the run.
pub(crate) fn measured(text: &str) {
    // libtest keeps the output of passed tests to itself.
    let line = format!("measured: {text}\n");
    fs::write("/dev/ttyS1", line).expect("the second serial port");
}
