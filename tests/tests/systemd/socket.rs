//! Restarts while systemd holds the ports, as `memsensor.socket` describes.

use std::time::{Duration, Instant};

use sensor_tests::support::open_loop::{Traffic, ask_as_one_of_many};

use crate::service::{
    AGENT, HTTP, SERVICE, enter, measured, property, shell, systemctl, wait_until,
};

const RESTARTS: u32 = 20;
/// Requests per second to each port.
const RATE: u32 = 4;
/// Longer than a restart in an emulated guest.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Removes the socket again.
struct Socket;

impl Socket {
    fn enable() -> Self {
        install_unit();
        Self
    }
}

/// Runs the commands in the comment of the unit.
fn install_unit() {
    let unit = include_str!("../../../sensor-user/deploy/memsensor.socket");
    let commands: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    let done = shell(&format!("set -e; cd /root/memsensor/deploy\n{}", commands.join("\n")));
    assert!(done.status.success(), "{commands:?}: {done:?}");
}

impl Drop for Socket {
    fn drop(&mut self) {
        shell(
            "systemctl stop memsensor; systemctl disable --now memsensor.socket; \
             systemctl start memsensor",
        );
    }
}

#[test]
fn no_client_is_refused_while_the_service_restarts() {
    enter();
    let _socket = Socket::enable();
    assert_eq!(property("TriggeredBy"), "memsensor.socket");
    let start = Instant::now();
    let readyz = |end| ask_as_one_of_many(HTTP, b"GET /readyz HTTP/1.1\r\nHost: t\r\n\r\n", end);
    let readyz = Traffic::start(RATE, TIMEOUT, start, readyz).expect("threads");
    let agent = |end| ask_as_one_of_many(AGENT, b"\n", end);
    let agent = Traffic::start(RATE, TIMEOUT, start, agent).expect("threads");
    for _ in 0..RESTARTS {
        systemctl(&["restart", SERVICE]);
    }
    let took = start.elapsed();
    let requests = [readyz.finish(), agent.finish()].concat();
    let failed: Vec<_> = requests.iter().filter(|r| r.outcome.is_err()).collect();
    let refused = failed.iter().filter(|r| r.outcome == Err("refused")).count();
    let longest = requests.iter().map(|r| r.took).max().unwrap_or_default();
    measured(&format!(
        "{RESTARTS} restarts with memsensor.socket in {:.0} s: {} requests, {refused} refused, {} \
         failed, longest {:.1} s",
        took.as_secs_f64(),
        requests.len(),
        failed.len(),
        longest.as_secs_f64()
    ));
    assert!(requests.len() > 100, "{} requests", requests.len());
    assert!(failed.is_empty(), "{failed:?}");
}

/// The first client starts a service that was stopped.
#[test]
fn a_client_starts_a_stopped_service() {
    enter();
    let _socket = Socket::enable();
    systemctl(&["stop", SERVICE]);
    let end = Instant::now() + TIMEOUT;
    let answer = ask_as_one_of_many(HTTP, b"GET /livez HTTP/1.0\r\n\r\n", end).expect("answer");
    assert!(answer.starts_with(b"HTTP/1."), "{answer:?}");
    // It answers before it reports that it is ready: systemd still waits for that.
    wait_until("it is active", || property("ActiveState") == "active");
}
