//! HAProxy: agent-check, HTTP check and fallback backend.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Command,
    sync::atomic::Ordering,
    time::Duration,
};

use super::{
    Balancer, Host,
    faults::{Front, Traffic, traffic_through},
    substitute,
};
use crate::{
    serving::frozen::{Freezer, thread},
    wait_until,
};

pub(super) struct HaProxy(Balancer);

impl HaProxy {
    pub(super) fn start(scope: &str) -> Self {
        let balancer = Balancer::start(
            "haproxy.cfg",
            |text, dir, addr| {
                substitute(text, "192.0.2.", "127.2.0.");
                substitute(text, "bind :80", &format!("bind {addr}"));
                substitute(text, "agent-send \"host?", &format!("agent-send \"{scope}?"));
                let inter = "agent-inter 250ms";
                substitute(text, inter, &format!("{inter} agent-send \"{scope}\\n\""));
                let socket = dir.join("stats");
                let global = format!("global\n    stats socket {} level admin\n", socket.display());
                text.insert_str(0, &global);
            },
            |_, file, _| {
                let mut command = Command::new("haproxy");
                command.args(["-db", "-f"]).arg(file);
                command
            },
        );
        balancer.wait_until_it_serves();
        Self(balancer)
    }

    /// Sends a command to its stats socket.
    fn command(&self, command: &str) -> String {
        let mut socket = UnixStream::connect(self.0.dir.join("stats")).expect("the stats socket");
        writeln!(socket, "{command}").expect("write");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("a response");
        text
    }

    /// Status and effective weight of a server.
    fn server(&self, backend: &str, name: &str) -> (String, String) {
        let [status, weight] = self.columns(backend, name, ["status", "weight"]);
        (status, weight)
    }

    /// Columns of a server's statistics.
    fn columns<const N: usize>(
        &self,
        backend: &str,
        name: &str,
        columns: [&str; N],
    ) -> [String; N] {
        let text = self.command("show stat");
        let mut lines = text.lines().map(|l| l.split(',').collect::<Vec<_>>());
        let names = lines.next().expect("a head");
        let at = |name: &str| names.iter().position(|n| *n == name).expect("a column");
        let line = lines
            .find(|l| l[0] == backend && l.get(1) == Some(&name))
            .unwrap_or_else(|| panic!("no {backend}/{name}: {text}"));
        columns.map(|column| line[at(column)].to_owned())
    }
}

impl Front for HaProxy {
    fn name(&self) -> &'static str {
        "HAProxy"
    }

    fn traffic(&self) -> Traffic {
        traffic_through(&self.0)
    }

    fn has_recovered(&self) -> bool {
        // Where memsensor ends at a weight of 0, HAProxy keeps it.
        ["web-01", "web-02"].iter().all(|name| self.server("web", name).1 == "100")
    }

    fn has_polled(&self, host: usize, answered: bool) -> bool {
        let name = ["web-01", "web-02"][host];
        // L7OK is an answer; while a check is in progress, the last outcome has an asterisk.
        let [outcome] = self.columns("web", name, ["agent_status"]);
        outcome.trim_start_matches("* ").starts_with("L7OK") == answered
    }
}

#[test]
fn haproxy_follows_the_verdict_and_always_serves() {
    let hosts = Host::both();
    let haproxy = HaProxy::start("web");
    haproxy.0.expect_share(40..=60);

    // Half the weight is a third of all requests.
    hosts[0].kill();
    wait_until("half weight", || haproxy.server("web", "web-01") == ("UP".into(), "50".into()));
    haproxy.0.expect_share(25..=45);
    // Also one by one: without open connections leastconn would ignore weights.
    let (first, failed) = haproxy.0.requests(1, 200);
    assert!(
        (40..=90).contains(&first) && failed == 0,
        "{first} of 200 one by one, {failed} failed"
    );

    // Weight 0.
    hosts[0].kill();
    wait_until("overloaded", || haproxy.server("web", "web-01").1 == "0");
    haproxy.0.expect_share(0..=0);
    std::thread::sleep(Duration::from_secs(3));
    let log = haproxy.0.log();
    let about = log.lines().filter(|l| l.contains("Server web/web-01")).count();
    assert_eq!(about, 0, "weights must not be logged at every check: {log}");

    // No usable server: the fallback backend serves, with overloaded hosts but not with drained
    // ones.
    let drain = ["drain", "--reason", "update", "--wait"];
    let (output, code) = hosts[1].daemon.ask(&drain).expect("drain");
    assert!(code == Some(0) && output.contains("know of the drain: 127."), "{output}");
    wait_until("drained", || haproxy.server("web", "web-02").1 == "0");
    wait_until("drained in the fallback", || haproxy.server("web_last_resort", "web-02").1 == "0");
    assert_eq!(haproxy.0.send(50), (50, 0));

    // After the drain.
    hosts[1].daemon.ask(&["undrain"]).expect("undrain");
    wait_until("back", || haproxy.server("web", "web-02") == ("UP".into(), "100".into()));
    assert_eq!(haproxy.0.send(20), (0, 0));
}

/// A spike on all hosts at once must not reject all requests.
#[test]
fn haproxy_serves_when_all_hosts_are_overloaded() {
    let hosts = Host::both();
    let haproxy = HaProxy::start("web");
    hosts.iter().for_each(Host::kill_twice);
    let weight = |name| haproxy.server("web", name).1;
    wait_until("both overloaded", || ["web-01", "web-02"].map(weight) == ["0", "0"]);
    haproxy.0.expect_share(35..=65);
}

/// A state that an operator sets in HAProxy is not changed by the agent-check.
#[test]
fn haproxy_keeps_a_state_set_by_its_operator() {
    let _hosts = Host::both();
    let haproxy = HaProxy::start("web");
    for state in ["maint", "drain"] {
        haproxy.command(&format!("set server web/web-01 state {state}"));
        // Long enough for several agent-checks.
        std::thread::sleep(Duration::from_secs(3));
        let (status, _) = haproxy.server("web", "web-01");
        assert!(status.starts_with(&state.to_uppercase()), "{state}: {status}");
        assert_eq!(haproxy.0.send(20), (0, 0), "{state}");
        haproxy.command("set server web/web-01 state ready");
        wait_until("up again", || haproxy.server("web", "web-01").0 == "UP");
    }
}

/// HAProxy keeps the last state of an agent that does not respond: the HTTP check must remove the
/// host.
#[test]
fn haproxy_removes_a_frozen_host_by_the_http_check() {
    let hosts = Host::both();
    let haproxy = HaProxy::start("web");
    let pid = hosts[0].daemon.pid().cast_signed();
    let frozen = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(frozen, rustix::process::Signal::STOP).expect("freeze");
    hosts[0].web.hangs.store(true, Ordering::Relaxed);
    wait_until("removed", || haproxy.server("web", "web-01").0.starts_with("DOWN"));
    assert_eq!(haproxy.0.send(30), (0, 0));
}

/// By the weight: a `down` would stay where memsensor dies and does not come back.
#[test]
fn haproxy_sends_nothing_to_a_stale_host() {
    let hosts = Host::both();
    let haproxy = HaProxy::start("web");
    let freezer = Freezer::new(&hosts[0].daemon);
    freezer.freeze(&thread(&hosts[0].daemon, "sense"));
    wait_until("weight 0", || haproxy.server("web", "web-01") == ("UP".into(), "0".into()));
    assert_eq!(haproxy.0.send(30), (0, 0));
    freezer.thaw();
    wait_until("back", || haproxy.server("web", "web-01") == ("UP".into(), "100".into()));
}

/// The agent-check's response for an unknown scope does not change the server's state.
#[test]
fn haproxy_keeps_the_state_for_an_unknown_scope() {
    let [host, _other] = Host::both();
    let haproxy = HaProxy::start("misspelt");
    host.kill_twice();
    wait_until("overloaded", || host.state() == "up 0%");
    let requests = || {
        let series = host.daemon.metrics().expect("metrics");
        series.get("memsensor_unknown_scope_requests_total").copied().unwrap_or(0.0)
    };
    let before = requests();
    wait_until("three more requests", || requests() >= before + 3.0);
    assert_eq!(haproxy.server("web", "web-01"), ("UP".into(), "100".into()));
    haproxy.0.expect_share(40..=60);
}
