//! Traefik: an HTTP check without weights, and a failover to a fallback service.

use std::{process::Command, sync::atomic::Ordering::Relaxed, time::Duration};

use super::{
    Balancer, Host,
    faults::{Front, Traffic, traffic_through},
    substitute, tool,
};
use crate::wait_until;

pub(super) struct Traefik(Balancer);

impl Traefik {
    pub(super) fn start() -> Self {
        let traefik = Balancer::start(
            "traefik.yaml",
            |text, _, _| {
                substitute(text, "192.0.2.", "127.2.0.");
                substitute(text, "path: /readyz,", "path: /readyz/web,");
                substitute(text, "\"/readyz?", "\"/readyz/web?");
            },
            |_, file, addr| {
                let mut command = Command::new(tool("traefik"));
                command.arg(format!("--entrypoints.www.address={addr}"));
                command.arg(format!("--providers.file.filename={}", file.display()));
                command
                    .args(["--global.sendanonymoususage=false", "--global.checknewversion=false"]);
                command
            },
        );
        traefik.wait_until_it_serves();
        Self(traefik)
    }
}

impl Front for Traefik {
    fn name(&self) -> &'static str {
        "Traefik"
    }

    fn traffic(&self) -> Traffic {
        traffic_through(&self.0)
    }
}

#[test]
fn traefik_follows_readiness_and_always_serves() {
    let hosts = Host::both();
    let Traefik(traefik) = Traefik::start();
    traefik.expect_share(40..=60);

    hosts[0].kill_twice();
    traefik.wait_for_share(false);
    traefik.expect_share(0..=0);

    // The fallback service has overloaded hosts but no drained ones.
    let (output, code) = hosts[1].daemon.ask(&["drain", "--reason", "update"]).expect("drain");
    assert_eq!(code, Some(0), "{output}");
    traefik.wait_for_share(true);
    wait_until("no failure", || traefik.send(50) == (50, 0));
    hosts[1].daemon.ask(&["undrain"]).expect("undrain");
    traefik.wait_for_share(false);
}

#[test]
fn traefik_serves_without_memsensor() {
    let mut hosts = Host::both();
    let Traefik(traefik) = Traefik::start();
    traefik.expect_share(40..=60);

    // On one host: the other serves.
    hosts[0].stop_memsensor();
    traefik.wait_for_share(false);
    traefik.expect_share(0..=0);

    // On all hosts: all of them serve.
    hosts[1].stop_memsensor();
    wait_until("both serve", || (1..20).contains(&traefik.send(20).0));
    wait_until("no failure", || traefik.send(50).1 == 0);
    traefik.expect_share(40..=60);

    // The web server's own check still removes a host.
    hosts[0].web.hangs.store(true, Relaxed);
    // Time for a failed check: a request to a host that hangs ends with the client's timeout.
    std::thread::sleep(Duration::from_secs(4));
    traefik.expect_share(0..=0);
}
