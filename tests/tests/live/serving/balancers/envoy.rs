//! Envoy: an HTTP check with "degraded", and panic mode when too few hosts are healthy.

use std::{process::Command, sync::atomic::Ordering, time::Duration};

use super::{
    Balancer, Host,
    faults::{Front, Traffic, traffic_through},
    substitute, tool,
};
use crate::wait_until;

pub(super) struct Envoy(Balancer);

impl Envoy {
    pub(super) fn start() -> Self {
        let envoy = Balancer::start(
            "envoy.yaml",
            |text, _, addr| {
                substitute(text, "192.0.2.", "127.2.0.");
                let from = "{address: 0.0.0.0, port_value: 80}";
                let to = format!("{{address: 127.0.0.1, port_value: {}}}", addr.port());
                substitute(text, from, &to);
                substitute(text, "path: /readyz}", "path: /readyz/web}");
            },
            |_, file, _| {
                let mut command = Command::new(tool("envoy"));
                command.args(["--disable-hot-restart", "--concurrency", "1", "-l", "warn", "-c"]);
                command.arg(file);
                command
            },
        );
        envoy.wait_until_it_serves();
        Self(envoy)
    }
}

impl Front for Envoy {
    fn name(&self) -> &'static str {
        "Envoy"
    }

    fn traffic(&self) -> Traffic {
        traffic_through(&self.0)
    }
}

#[test]
fn envoy_follows_readiness_and_always_serves() {
    let hosts = Host::both();
    let Envoy(envoy) = Envoy::start();
    envoy.expect_share(35..=65);

    // Degraded: the healthy host takes 70 % (its half times Envoy's overprovisioning of 1.4).
    hosts[0].kill();
    wait_until("fewer requests", || envoy.send(100).0 < 45);
    envoy.expect_share(15..=45);

    hosts[0].kill();
    envoy.wait_for_share(false);
    envoy.expect_share(0..=0);

    hosts[1].kill_twice();
    wait_until("both overloaded", || hosts[1].state() == "up 0%");
    wait_until("both serve", || (1..20).contains(&envoy.send(20).0));
    envoy.expect_share(20..=80);
}

/// Its active check asks memsensor, whose success must not bring back a web server that fails.
#[test]
fn envoy_ejects_a_web_server_that_fails_although_memsensor_is_ready() {
    let hosts = Host::both();
    let Envoy(envoy) = Envoy::start();
    envoy.expect_share(35..=65);
    hosts[0].web.fails.store(true, Ordering::Relaxed);
    let (_, failed) = envoy.send(100);
    assert!((5..50).contains(&failed), "{failed} of 100 failed before it was ejected");
    std::thread::sleep(Duration::from_secs(3));
    envoy.expect_share(0..=0);
}
