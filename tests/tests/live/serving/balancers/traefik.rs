//! Traefik: an HTTP check that knows but healthy or not, and a failover to the last resort.

use std::process::Command;

use super::{Balancer, Host, put, tool};
use crate::wait_until;

#[test]
fn traefik_follows_readiness_and_serves_when_every_host_drains() {
    let hosts = Host::both();
    let traefik = Balancer::start(
        "traefik.yaml",
        |text, _, _| {
            put(text, "192.0.2.", "127.2.0.");
            put(text, "path: /readyz,", "path: /readyz/web,");
            put(text, "\"/readyz?", "\"/readyz/web?");
        },
        |_, file, addr| {
            let mut command = Command::new(tool("traefik"));
            command.arg(format!("--entrypoints.www.address={addr}"));
            command.arg(format!("--providers.file.filename={}", file.display()));
            command.args(["--global.sendanonymoususage=false", "--global.checknewversion=false"]);
            command
        },
    );
    traefik.wait_until_it_serves();
    traefik.expect_share(40..=60);

    hosts[0].kill_twice();
    traefik.wait_for_share(false);
    traefik.expect_share(0..=0);

    // The last resort, which leaves out what an operator drained.
    let (said, code) = hosts[1].daemon.ask(&["drain", "--reason", "update"]).expect("drain");
    assert_eq!(code, Some(0), "{said}");
    traefik.wait_for_share(true);
    wait_until("no failure", || traefik.ask(50) == (50, 0));
    hosts[1].daemon.ask(&["undrain"]).expect("undrain");
    traefik.wait_for_share(false);
}
