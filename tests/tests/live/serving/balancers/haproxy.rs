//! HAProxy: agent-check, plain check and last resort.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Command,
    sync::atomic::Ordering,
    time::Duration,
};

use super::{Balancer, Host, put};
use crate::wait_until;

struct HaProxy(Balancer);

impl HaProxy {
    fn start(scope: &str) -> Self {
        let balancer = Balancer::start(
            "haproxy.cfg",
            |text, dir, addr| {
                put(text, "192.0.2.", "127.2.0.");
                put(text, "bind :80", &format!("bind {addr}"));
                put(text, "agent-send \"host?", &format!("agent-send \"{scope}?"));
                let inter = "agent-inter 250ms";
                put(text, inter, &format!("{inter} agent-send \"{scope}\\n\""));
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

    /// A command on its socket.
    fn say(&self, command: &str) -> String {
        let mut socket = UnixStream::connect(self.0.dir.join("stats")).expect("the stats socket");
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
}

#[test]
fn haproxy_follows_the_verdict_and_always_serves() {
    let hosts = Host::both();
    let haproxy = HaProxy::start("web");
    haproxy.0.expect_share(40..=60);

    // Less weight: the first has half of its own, a third of all.
    hosts[0].kill();
    wait_until("half weight", || haproxy.server("web", "web-01") == ("UP".into(), "50".into()));
    haproxy.0.expect_share(25..=45);
    // Also while nothing else is open, which leastconn takes for a reason to forget weights.
    let (first, failed) = haproxy.0.ask_at_once(1, 200);
    assert!(
        (40..=90).contains(&first) && failed == 0,
        "{first} of 200 one by one, {failed} failed"
    );

    // None.
    hosts[0].kill();
    wait_until("drained", || haproxy.server("web", "web-01").1 == "0");
    haproxy.0.expect_share(0..=0);
    std::thread::sleep(Duration::from_secs(3));
    let log = haproxy.0.log();
    let about = log.lines().filter(|l| l.contains("Server web/web-01")).count();
    assert_eq!(about, 0, "a weight is no line at every check: {log}");

    // Nobody is left: the last resort serves, with who is short of memory, but not with who is to be
    // left alone.
    let drain = ["drain", "--reason", "update", "--wait"];
    let (said, code) = hosts[1].daemon.ask(&drain).expect("drain");
    assert!(code == Some(0) && said.contains("told: 127."), "{said}");
    wait_until("drained", || haproxy.server("web", "web-02").1 == "0");
    wait_until("not even then", || haproxy.server("web_last_resort", "web-02").1 == "0");
    assert_eq!(haproxy.0.ask(50), (50, 0));

    // And back.
    hosts[1].daemon.ask(&["undrain"]).expect("undrain");
    wait_until("back", || haproxy.server("web", "web-02") == ("UP".into(), "100".into()));
    assert_eq!(haproxy.0.ask(20), (0, 0));
}

/// A spike on all hosts at once is no reason to turn everybody away.
#[test]
fn haproxy_serves_when_every_host_drains() {
    let hosts = Host::both();
    let haproxy = HaProxy::start("web");
    hosts.iter().for_each(Host::kill_twice);
    let weight = |name| haproxy.server("web", name).1;
    wait_until("both drained", || ["web-01", "web-02"].map(weight) == ["0", "0"]);
    haproxy.0.expect_share(35..=65);
}

/// What an operator sets at HAProxy by hand is not undone by the next check.
#[test]
fn haproxy_keeps_what_its_operator_said() {
    let _hosts = Host::both();
    let haproxy = HaProxy::start("web");
    for state in ["maint", "drain"] {
        haproxy.say(&format!("set server web/web-01 state {state}"));
        // Three agent checks later.
        std::thread::sleep(Duration::from_secs(3));
        let (status, _) = haproxy.server("web", "web-01");
        assert!(status.starts_with(&state.to_uppercase()), "{state}: {status}");
        assert_eq!(haproxy.0.ask(20), (0, 0), "{state}");
        haproxy.say("set server web/web-01 state ready");
        wait_until("up again", || haproxy.server("web", "web-01").0 == "UP");
    }
}

/// HAProxy keeps the last state of an agent that says nothing: the plain check takes the host out.
#[test]
fn haproxy_takes_a_frozen_host_out_by_the_plain_check() {
    let hosts = Host::both();
    let haproxy = HaProxy::start("web");
    let pid = hosts[0].daemon.pid().cast_signed();
    let frozen = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(frozen, rustix::process::Signal::STOP).expect("freeze");
    hosts[0].web.hangs.store(true, Ordering::Relaxed);
    wait_until("out", || haproxy.server("web", "web-01").0.starts_with("DOWN"));
    assert_eq!(haproxy.0.ask(30), (0, 0));
}

/// What an agent says that does not know the scope: nothing that changes a state.
#[test]
fn haproxy_leaves_a_server_alone_whose_scope_is_unknown() {
    let [host, _other] = Host::both();
    let haproxy = HaProxy::start("misspelt");
    host.kill_twice();
    wait_until("drained", || host.state() == "up 0%");
    let asked = || {
        let series = host.daemon.metrics().expect("metrics");
        series.get("memsensor_unknown_scope_requests_total").copied().unwrap_or(0.0)
    };
    let before = asked();
    wait_until("asked", || asked() >= before + 3.0);
    assert_eq!(haproxy.server("web", "web-01"), ("UP".into(), "100".into()));
    haproxy.0.expect_share(40..=60);
}
